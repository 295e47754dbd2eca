"""The application that Autobahn|Testsuite talks to: ``/@@handler`` and ``/@@echo``."""

from stargate_tests.functional.tree import make_app


def main(global_config, **settings):
    return make_app(**settings)
