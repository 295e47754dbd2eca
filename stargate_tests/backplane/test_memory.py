from stargate.backplane.contract import BackplaneContract
from stargate.backplane.memory import MemoryBackplane


class TestContract(BackplaneContract):
    processes = 1

    def make_backplane(self, receiver):
        return MemoryBackplane(receiver)
