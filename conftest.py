from hypothesis import settings

pytest_plugins = ["stargate.fixtures", "stargate_tests.serving"]

# How long an example takes says more of the machine than of the code.
settings.register_profile("stargate", deadline=None)
settings.load_profile("stargate")
