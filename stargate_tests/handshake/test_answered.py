from pyramid.request import Request
from pyramid.threadlocal import RequestContext

from stargate.handshake.answered import answered


def test_a_response_is_that_of_the_current_request_and_of_nobody_where_there_is_none(caplog):
    first, second = Request.blank("/1"), Request.blank("/2")
    answered(first)
    answered(second)
    for request in (first, second):
        request.registry = None
        with RequestContext(request):
            request.response.status = 200 + int(request.path[1:])
    with RequestContext(first):
        assert first.response.status_code == 201
    assert not isinstance(first.response, str)  # Nobody is told of that.
    first.response.status = 205
    with RequestContext(second):
        assert second.response.status_code == 202
    assert first.response.status_code == 200
    assert caplog.text.count("test_answered.py") == 5


def test_nothing_is_kept_of_a_callback():
    request = Request.blank("/")
    answered(request)
    request.add_response_callback(print)
    request.add_finished_callback(print)
    assert not request.response_callbacks and not request.finished_callbacks
