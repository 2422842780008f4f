"""What a plane and a minder say to each other: whole orders, or none."""

from __future__ import annotations

import json
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from runpod_flash.engines.local.processes.control import end, read_order, send

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDER = {"argv": ["python"], "env": {"LARGE": "x" * 1_000_000}}


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    plane, minder = socket.socketpair()
    with plane, minder:
        yield plane, minder


def sent(order: object) -> bytes:
    body = json.dumps(order).encode()
    return struct.pack("!I", len(body)) + body


def test_an_order_that_comes_in_many_parts_is_read_whole(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    plane, minder = ends
    writer = threading.Thread(target=plane.sendall, args=[sent(ORDER)])
    writer.start()
    assert read_order(minder) == ORDER
    writer.join()


@pytest.mark.parametrize("size", [0, 2, 4, 20])
def test_an_order_whose_plane_ended_meanwhile_is_none(
    ends: tuple[socket.socket, socket.socket], size: int
) -> None:
    plane, minder = ends
    plane.sendall(sent(ORDER)[:size])
    plane.close()
    assert read_order(minder) is None


def test_the_plane_reads_a_line_for_each_message(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    plane, minder = ends
    send(minder, {"pid": 7})
    send(minder, {"returncode": 0})
    assert plane.recv(100) == b'{"pid": 7}\n{"returncode": 0}\n'


def test_nobody_is_told_where_the_plane_is_gone(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    plane, minder = ends
    plane.close()
    send(minder, {"pid": 7})
    end(minder)
    assert minder.fileno() == -1


def test_the_end_is_seen_even_where_another_process_has_a_copy(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    plane, minder = ends
    with minder.dup():
        end(minder)
        plane.settimeout(5)
        assert plane.recv(1) == b""
