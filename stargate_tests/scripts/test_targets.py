import pytest


def write_ini(folder, *lines):
    path = folder / "production.ini"
    path.write_text("\n".join(("[app:main]", "use = call:no.such:application", *lines, "")))
    return path


def test_an_ini_file_brings_its_namespace(command, tmp_path, redis_server, namespace, keep):
    keep("/a")
    ini = write_ini(
        tmp_path,
        f"stargate.backplane = {redis_server.url}",
        f"stargate.namespace = {namespace}",
    )
    code, out, _ = command("send", ini, "/a", "on")
    assert code == 0 and out
    assert command("history", f"{ini}#main", "/a")[1].endswith(f" {out.strip()} on\n")


def test_a_target_may_be_in_the_environment(command, monkeypatch, redis_server, namespace):
    monkeypatch.setenv("SHOP", redis_server.url)
    assert command("send", "env:SHOP", "/a", "on", "--namespace", namespace)[0] == 0
    code, _, err = command("send", "env:SHOPS", "/a", "on", "--namespace", namespace)
    assert code == 2 and "the environment has nothing in SHOPS" in err


def test_the_memory_backplane_is_1_and_says_why_and_what_to_set(command, tmp_path):
    code, out, err = command("send", write_ini(tmp_path), "/a", "on")
    assert (code, out) == (1, "")
    for words in ("no other process", "stargate.backplane = redis://", "stargate.namespace = "):
        assert words in err


@pytest.mark.parametrize("word", ["send", "history", "presence"])
def test_a_redis_that_is_gone_is_1_and_no_password_is_shown(command, gone_redis, word):
    url = gone_redis.replace("://", "://:secret@")
    more = ("on",) if word == "send" else ()
    code, out, err = command(word, url, "/a", *more, "--namespace", "shop")
    assert (code, out) == (1, "")
    assert "Connection refused" in err and "secret" not in err
    assert err.startswith("stargate: not sent: " if word == "send" else "stargate: ")


def test_a_file_that_is_not_there_is_1(command):
    code, _, err = command("send", "nothing.ini", "/a", "on")
    assert code == 1 and "no such ini file" in err and "nothing.ini" in err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("redis://h", "/a"), "the namespace is needed"),
        (("redis://:secret@h?x=1", "/a", "--namespace", "shop"), "no option"),
        (("redis://h", "/a", "--namespace", "a b"), "stargate.namespace = 'a b'"),
        (("redis://h", "/a b", "--namespace", "shop"), "it must be '/a%20b'"),
        (("redis://h", "/a", "--namespace", "shop", "--timeout", "0"), "at least 0.01"),
        (("redis://h", "/a", "--namespace", "shop", "--timeout", "x"), "invalid float"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_2(command, words, why):
    code, out, err = command("history", *words)
    assert (code, out) == (2, "")
    assert why in err and "secret" not in err


def test_without_redis_py_it_is_1_and_says_what_to_install(command, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "stargate.backplane.redis.outside", None)
    code, _, err = command("send", "redis://h", "/a", "on", "--namespace", "shop")
    assert code == 1 and "pip install stargate[redis]" in err
