"""Keys on the client's side: one for each origin, and none over a network that others can read."""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING

import pytest

from runpod_flash.client.credentials import keep_key, key_for, origin_of
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FLASH_API_KEY", "FLASH_INSECURE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("http://localhost:8888/", "http://localhost:8888"),
        ("https://Box.example/some/path", "https://box.example:443"),
        ("http://[::1]:8888", "http://[::1]:8888"),
        (" http://localhost:8888\n", "http://localhost:8888"),
    ],
)
def test_an_address_has_one_origin(address: str, origin: str) -> None:
    assert origin_of(address) == origin


@pytest.mark.parametrize(
    "address", ["", "localhost:8888", "ftp://box", "http://", "http://a:b", "http://["]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address of a server"):
        key_for(address)


def test_an_address_with_a_login_is_refused_and_the_password_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        origin_of("https://user:secret@box:8000/v2")
    assert "box:8000 takes no user or password: give https://box:8000" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("localhost:8888", "it with its scheme: http://localhost:8888"),
        ("gpu-box:8000/v2", "it with its scheme: https://gpu-box:8000/v2"),
        ("gpu-box", "it with its scheme: https://gpu-box"),
        ("ftp://box", "one such as http://localhost:8888"),
        ("a b", "one such as http://localhost:8888"),
        ("", "one such as http://localhost:8888"),
    ],
)
def test_what_an_address_lacks_is_said(address: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=f"; give {re.escape(meant)}$"):
        origin_of(address)


def test_a_key_is_for_the_origin_that_it_was_kept_for_and_its_file_for_the_user_alone() -> None:
    file = keep_key("https://box.example", "the-key")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert key_for("https://box.example:443/v2") == "the-key"
    for other in ("https://box.example:444", "https://other.example", "https://box.example.evil"):
        assert key_for(other) is None


def test_this_machine_has_several_names_for_one_origin() -> None:
    keep_key("http://localhost:8888", "the-key")
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert key_for(f"http://{name}:8888") == "the-key"
    assert key_for("http://localhost:8889") is None


@pytest.mark.parametrize(
    "host", ["box.example", "192.168.0.2", "0.0.0.0", "localhost.evil.com", "[::2]"]
)
def test_no_key_goes_over_plain_http_beyond_this_machine(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://{host}:8888"
    assert key_for(address) is None
    keep_key(address, "kept")
    for given in (None, "given"):
        if given:
            monkeypatch.setenv("FLASH_API_KEY", given)
        with pytest.raises(ConfigurationError, match="would be sent over plain http") as refused:
            key_for(address)
        assert not {"kept", "given"} & set(str(refused.value).split())
    assert key_for(address.replace("http", "https")) == "given"


def test_who_says_so_may_send_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_key("http://box:8888", "the-key")
    assert key_for("http://box:8888", insecure=True) == "the-key"
    monkeypatch.setenv("FLASH_INSECURE", "0")
    with pytest.raises(ConfigurationError):
        key_for("http://box:8888")
    monkeypatch.setenv("FLASH_INSECURE", "1")
    assert key_for("http://box:8888") == "the-key"
