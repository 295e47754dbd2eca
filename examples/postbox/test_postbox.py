from tempfile import TemporaryDirectory

from postbox import make_backplane

from stargate.backplane.contract import BackplaneContract


class TestPostbox(BackplaneContract):
    processes = 1

    def setup_method(self):
        super().setup_method()
        self.folder = TemporaryDirectory()

    def teardown_method(self):
        super().teardown_method()
        self.folder.cleanup()

    def settings(self, namespace):
        return {"backplane": f"postbox://{self.folder.name}", "namespace": namespace}

    def make_backplane(self, receiver):
        return make_backplane(self.settings("test"), receiver)

    def make_stranger(self, receiver):
        return make_backplane(self.settings("stranger"), receiver)
