pytest_plugins = ["stargate.fixtures", "stargate_tests.serving"]
