"""Which server a command asks where none was named."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

import click
import pytest

from runpod_flash.cli.servers import chosen_address
from runpod_flash.client.credentials import keep_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def nothing_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FLASH_TARGET", "")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with click.Context(click.Command("flash")):
        yield


def test_the_only_known_one_is_asked_even_where_it_does_not_run() -> None:
    (closed,) = closed_ports(1)
    keep_key(closed, "k")
    assert chosen_address(None) == closed


def test_of_several_the_only_one_that_runs_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"http://127.0.0.1:{server.getsockname()[1]}"
        for each in (*closed_ports(2), there):
            keep_key(each, "k")
        assert chosen_address(None) == there


def test_several_that_may_be_there_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        keep_key(f"http://127.0.0.1:{server.getsockname()[1]}", "k")
        keep_key("https://box.example", "k")
        said = r"No server is chosen: http://127\.0.+, https://box.example:443 are known; give"
        with pytest.raises(click.UsageError, match=said):
            chosen_address(None)


def test_where_none_of_many_runs_some_are_named() -> None:
    ports = closed_ports(5)
    for each in ports:
        keep_key(each, "k")
    said = f"none of those that are known runs: {', '.join(sorted(ports)[:3])} and 2 more; give"
    with pytest.raises(click.UsageError, match=re.escape(said)):
        chosen_address(None)


def closed_ports(count: int) -> list[str]:
    """Addresses where nobody listens."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return [f"http://127.0.0.1:{port}" for port in ports]
