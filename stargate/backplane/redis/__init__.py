"""The backplane over Redis or Valkey, and what publishes to it: the only room that knows redis-py."""
