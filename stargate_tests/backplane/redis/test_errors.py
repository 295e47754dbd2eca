"""What is made of an error; what each is for real is in test_docs_when_it_fails.py."""

import errno
import ssl

import pytest
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, ResponseError

from stargate.backplane.redis.errors import not_opened, parsed, reason


def test_a_reply_keeps_its_class_and_what_it_says():
    moved = parsed("MOVED 12 127.0.0.1:7000")
    assert isinstance(moved, MovedError) and (moved.slot_id, moved.port) == (12, 7000)
    assert "redis+cluster://" in str(moved)


def test_what_was_sent_is_not_told():
    error = parsed("ERR unknown command 'AUTH', with args beginning with: 'sesame' 'b'")
    assert type(error) is ResponseError and "sesame" not in str(error)


def test_a_reply_that_is_not_known_is_told_as_it_is():
    assert str(parsed("ERR no such thing")) == "no such thing"
    assert (
        str(parsed("ODD no such thing script: 5df97e, on @user_script:1.")) == "ODD no such thing"
    )


def test_an_error_without_words_is_told_by_its_class():
    assert reason(ConnectionResetError()) == "ConnectionResetError"
    assert reason(ConnectionResetError(errno.ECONNRESET, "cut")) == "cut"
    assert reason(ValueError("odd")) == "ValueError('odd')"


def test_a_place_in_the_code_of_openssl_is_not_told():
    error = ssl.SSLError(1, "[SSL] odd (_ssl.c:12)")
    error.reason = None
    assert reason(error) == "[SSL] odd"


@pytest.mark.parametrize("kind", [Connection, SSLConnection, UnixDomainSocketConnection])
def test_what_nobody_has_thought_of_is_told_in_the_words_of_the_system(kind):
    error = OSError(errno.ENETUNREACH, "Network is unreachable")
    plain = kind(path="/a") if kind is UnixDomainSocketConnection else kind()
    assert not_opened(error, plain) == "Network is unreachable"


def test_an_error_of_redis_py_alone_is_told_in_its_words():
    assert not_opened(RedisConnectionError("odd"), Connection()) == "odd"
