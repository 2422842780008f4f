"""Paths in volumes: whatever workers put there, nothing outside is reached."""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from runpod_flash.control.volumes.beneath import Beneath, PathError, parts_of

if TYPE_CHECKING:
    from pathlib import Path

SECRET = b"the secret"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    (root / "weights" / "deep").mkdir(parents=True)
    (root / "weights" / "model.bin").write_bytes(b"a model")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    return root


def read(root: Path, path: str) -> bytes:
    with Beneath(root) as place:
        file = place.open_file(parts_of(path))
    return os.read(file.descriptor, 1000)


@pytest.mark.parametrize(
    "path", ["a", "a/b.txt", ".cache/x", "Модели/7b", "two words", "a..b", "~"]
)
def test_plain_relative_paths_are_taken(path: str) -> None:
    assert "/".join(parts_of(path)) == path


ODD = ["..", "a/../b", "../a", "/etc/passwd", "a//b", "a/", ".", "a/./b", "a\0b", "a\nb", "\x1b[2J"]


@pytest.mark.parametrize("path", [*ODD, "x" * 1025, "a/" * 101 + "a"])
def test_others_are_refused(path: str) -> None:
    with pytest.raises(PathError, match="is no path below a volume"):
        parts_of(path)


def test_links_within_the_volume_are_followed(volume: Path) -> None:
    (volume / "current").symlink_to("weights")
    (volume / "weights" / "latest").symlink_to("../weights/./model.bin")
    (volume / "weights" / "deep" / "up").symlink_to("..")
    for path in ("weights/latest", "current/latest", "weights/deep/up/model.bin"):
        assert read(volume, path) == b"a model"


OUTSIDE = ["../outside/secret", "/etc/hostname", "weights/../../outside/secret", "../../../../etc"]


@pytest.mark.parametrize("target", OUTSIDE)
def test_links_that_lead_out_are_refused(volume: Path, target: str) -> None:
    (volume / "link").symlink_to(target)
    (volume / "hop").symlink_to("link")
    for path in ("link", "hop"):
        with pytest.raises(PathError, match="leads out of the volume"):
            read(volume, path)
        with Beneath(volume) as place, pytest.raises(PathError, match="leads out of the volume"):
            place.enter([path, "new"], make=True)


def test_a_folder_that_is_a_link_outside_is_neither_entered_nor_written_to(volume: Path) -> None:
    (volume / "folder").symlink_to(volume.parent / "outside")
    for parts, make in ((["folder"], False), (["folder", "made"], True)):
        with Beneath(volume) as place, pytest.raises(PathError):
            place.enter(parts, make=make)
    with pytest.raises(PathError):
        read(volume, "folder/secret")
    assert os.listdir(volume.parent / "outside") == ["secret"]  # noqa: PTH208


def test_circles_of_links_end(volume: Path) -> None:
    (volume / "a").symlink_to("b")
    (volume / "b").symlink_to("a")
    (volume / "self").symlink_to("self/x")
    for path in ("a", "a/x", "self"):
        with pytest.raises(PathError):
            read(volume, path)


def test_what_is_no_plain_file_is_refused_without_waiting_for_it(volume: Path) -> None:
    os.mkfifo(volume / "pipe")
    with pytest.raises(PathError, match="pipe is no plain file"):
        read(volume, "pipe")
    with pytest.raises(IsADirectoryError):
        read(volume, "weights")
    with pytest.raises(NotADirectoryError):
        read(volume, "weights/model.bin/x")


def test_a_folder_that_is_swapped_for_a_link_meanwhile_never_leads_out(volume: Path) -> None:
    over = threading.Event()

    folder, link, away = volume / "f", volume / "l", volume / "away"
    folder.mkdir()
    (folder / "secret").write_bytes(b"harmless")
    link.symlink_to(volume.parent / "outside")

    def swap() -> None:
        while not over.is_set():
            folder.rename(away)
            link.rename(folder)
            folder.rename(link)
            away.rename(folder)

    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[bytes] = set()
    try:
        for tries in itertools.count():
            if tries >= 3000 and seen:  # (the other thread may have come to nothing so far)
                break
            with suppress(PathError, OSError):
                seen.add(read(volume, "f/secret"))
    finally:
        over.set()
        thread.join()
    assert SECRET not in seen
    assert seen == {b"harmless"}


def test_what_is_there_comes_in_order_with_what_is_in_folders_after_them(volume: Path) -> None:
    (volume / "weights.txt").write_text("x")
    (volume / "weights" / "out").symlink_to(volume.parent / "outside")
    with Beneath(volume) as place:
        found = list(place.found(deep=True))
        expected = ["weights", "weights/deep", "weights/model.bin", "weights/out", "weights.txt"]
        assert [each.path for each in found] == expected
        assert [each.kind for each in found] == ["folder", "folder", "file", "link", "file"]
        assert found[2].size == 7
        for index, path in enumerate(expected):
            rest = [each.path for each in place.found(deep=True, after=path.split("/"))]
            assert rest == expected[index + 1 :]
        assert [each.path for each in place.found(deep=False)] == ["weights", "weights.txt"]


def test_descriptors_are_closed(volume: Path) -> None:
    (volume / "out").symlink_to("/")
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208
    for _ in range(20):
        with suppress(PathError):
            read(volume, "out")
        with suppress(OSError):
            read(volume, "weights/deep")
        read(volume, "weights/model.bin")
        with Beneath(volume) as place:
            assert next(place.found(deep=True)).kind == "link"
    assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208
