import pytest
from zope.interface.verify import verifyClass

from stargate import interfaces
from stargate.application.gates import Gate
from stargate.backplane.contract import Receiver
from stargate.backplane.memory import MemoryBackplane
from stargate.engine.hub import Engine
from stargate.pubsub.delivery import Delivery
from stargate.resource import WebSocketAwareContext
from stargate.testing import FakeWebSocket
from stargate.view import WebSocketView
from stargate.websocket.websocket import WebSocket

KEPT = [
    (interfaces.IWebSocketAwareContext, WebSocketAwareContext),
    (interfaces.IWebSocket, WebSocket),
    (interfaces.IWebSocket, FakeWebSocket),
    (interfaces.IWebSocketView, WebSocketView),
    (interfaces.IGate, Gate),
    (interfaces.IBackplane, MemoryBackplane),
    (interfaces.IReceiver, Delivery),
    (interfaces.IReceiver, Receiver),
]


@pytest.mark.parametrize(("interface", "class_"), KEPT, ids=lambda found: found.__name__)
def test_a_class_keeps_the_contract_it_declares(interface, class_):
    assert verifyClass(interface, class_)


def test_the_engine_keeps_its_contract():
    assert verifyClass(interfaces.IEngine, Engine, tentative=True)


def test_every_contract_says_what_it_is_for():
    for name, interface in vars(interfaces).items():
        if name.startswith("I") and name != "Interface":
            assert interface.getDoc()
            assert all(interface[member].getDoc() for member in interface.names())
