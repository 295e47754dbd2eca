"""The ``stargate`` command: one module for each of its words."""
