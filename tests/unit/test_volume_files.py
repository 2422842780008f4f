"""Files on their way into a volume: whole and verified, or not there."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from integration.disks import disk
from runpod_flash.control.volumes.beneath import PathError
from runpod_flash.control.volumes.files import (
    ChangedError,
    NoRoomError,
    NoUploadError,
    VolumeFiles,
    Wanted,
    delete,
)

if TYPE_CHECKING:
    from pathlib import Path

PART_BYTES = 1000
LARGE = os.urandom(2500)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runpod_flash.control.volumes.files.PART_BYTES", PART_BYTES)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def files(tmp_path: Path) -> VolumeFiles:
    return made(tmp_path)


def made(folder: Path, min_free: int = 0) -> VolumeFiles:
    (folder / "files").mkdir()
    (folder / "uploads").mkdir()
    return VolumeFiles(folder / "files", folder / "uploads", min_free)


def left(folder: Path) -> list[str]:
    """What is on its way."""
    return [path.name for path in (folder / "uploads").iterdir() if "digests" not in path.name]


def put(files: VolumeFiles, path: str, data: bytes, sha256: str | None = None) -> str:
    with files.coming(len(data)) as incoming:
        incoming.write([data[:3], data[3:]])
        return files.keep(incoming, path, sha256, executable=False)


def send(files: VolumeFiles, data: bytes, number: int, sha256: str = "") -> None:
    sha256 = sha256 or digest_of(data)
    incoming = files.coming_part(sha256, number)
    incoming.write([data[number * PART_BYTES :][: incoming.limit]])
    incoming.close()
    files.came(sha256, number)


def test_a_file_in_one_piece_is_there_with_its_digest(files: VolumeFiles, tmp_path: Path) -> None:
    assert put(files, "a/b/model.bin", b"weights") == digest_of(b"weights")
    file = tmp_path / "files" / "a" / "b" / "model.bin"
    assert file.read_bytes() == b"weights"
    assert file.stat().st_mode & 0o777 == 0o644
    assert files.missing([Wanted("a/b/model.bin", 7, digest_of(b"weights"))]) == []
    assert left(tmp_path) == []


def test_a_file_is_open_for_as_long_as_somebody_has_it(files: VolumeFiles) -> None:
    put(files, "a", b"weights")
    file = files.open("a")
    descriptor = file.descriptor
    assert os.pread(descriptor, 10, 0) == b"weights"
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_one_that_is_not_what_was_announced_is_not_there(
    files: VolumeFiles, tmp_path: Path
) -> None:
    put(files, "file", b"before")
    with pytest.raises(ChangedError, match="another SHA-256"):
        put(files, "file", b"damaged", digest_of(b"as announced"))
    assert (tmp_path / "files" / "file").read_bytes() == b"before"
    assert left(tmp_path) == []


def test_a_file_in_parts_is_taken_up_where_it_was_left(tmp_path: Path) -> None:
    sha256, files = digest_of(LARGE), made(tmp_path)
    assert files.begin(sha256, len(LARGE)) == [0, 1, 2]
    send(files, LARGE, 2)
    send(files, LARGE, 0)
    incoming = files.coming_part(sha256, 1)
    incoming.write([LARGE[PART_BYTES : PART_BYTES + 10]])  # and no more: the client was killed
    incoming.close()
    later = VolumeFiles(tmp_path / "files", tmp_path / "uploads", 0)
    assert later.begin(sha256, len(LARGE)) == [1]
    with pytest.raises(ChangedError, match="1 parts of model have not come"):
        later.commit(sha256, "model", executable=False)
    assert list((tmp_path / "files").iterdir()) == []
    send(later, LARGE, 1)
    later.commit(sha256, "model", executable=True)
    assert (tmp_path / "files" / "model").read_bytes() == LARGE
    assert os.access(tmp_path / "files" / "model", os.X_OK)
    assert left(tmp_path) == []


def test_parts_that_make_another_file_are_dropped(files: VolumeFiles, tmp_path: Path) -> None:
    sha256 = digest_of(LARGE)
    files.begin(sha256, len(LARGE))
    for number in range(3):
        send(files, b"x" + LARGE[1:], number, sha256)
    with pytest.raises(ChangedError, match="another SHA-256"):
        files.commit(sha256, "model", executable=False)
    assert list((tmp_path / "files").iterdir()) == []
    assert files.begin(sha256, len(LARGE)) == [0, 1, 2]


def test_there_is_no_part_beyond_the_end_nor_of_an_upload_that_was_not_begun(
    files: VolumeFiles,
) -> None:
    sha256 = digest_of(LARGE)
    with pytest.raises(NoUploadError, match="begin it again"):
        files.coming_part(sha256, 0)
    files.begin(sha256, len(LARGE))
    with pytest.raises(ChangedError, match="has no part 3"):
        files.coming_part(sha256, 3)
    for wrong in ("../files/x", "x", sha256.upper() + "0"):
        with pytest.raises(PathError, match="is no SHA-256"):
            files.begin(wrong, 1)


def test_only_what_differs_is_missing(files: VolumeFiles, tmp_path: Path) -> None:
    put(files, "same", b"data")
    put(files, "other", b"atad")
    (tmp_path / "files" / "linked").symlink_to("/etc/hostname")
    wanted = [Wanted(path, 4, digest_of(b"data")) for path in ("same", "other", "linked", "none")]
    assert files.missing(wanted) == ["other", "linked", "none"]
    with pytest.raises(PathError):
        files.missing([Wanted("../same", 4, digest_of(b"data"))])


def test_a_digest_is_known_until_a_worker_changes_the_file_however_it_hides_that(
    files: VolumeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Wanted("file", 4, digest_of(b"data"))
    put(files, "file", b"data")
    file = tmp_path / "files" / "file"
    with monkeypatch.context() as patched:
        patched.setattr("os.pread", None)  # (it is not read again)
        assert files.missing([wanted]) == []
    before = file.stat()
    file.write_bytes(b"DATA")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert files.missing([wanted]) == ["file"]


def test_a_file_that_was_changed_just_now_is_read_again(
    files: VolumeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # (Another change within the same step of the system's clock would not be seen.)
    reads = []

    def pread(descriptor: int, size: int, at: int, read: Any = os.pread) -> bytes:
        reads.append(at)
        return bytes(read(descriptor, size, at))

    monkeypatch.setattr("os.pread", pread)
    wanted = Wanted("file", 4, digest_of(b"data"))
    changed = time.time()
    (tmp_path / "files" / "file").write_bytes(b"data")
    assert files.missing([wanted]) == files.missing([wanted]) == []
    assert len(reads) == 4 or time.time() - changed > 0.1
    time.sleep(0.15)
    assert files.missing([wanted]) == []
    reads.clear()
    assert files.missing([wanted]) == []
    assert not reads


def test_a_link_at_the_place_is_replaced_not_followed(files: VolumeFiles, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("before")
    (tmp_path / "files" / "file").symlink_to(outside)
    (tmp_path / "files" / "folder").symlink_to(tmp_path)
    put(files, "file", b"new")
    assert outside.read_text() == "before"
    assert not (tmp_path / "files" / "file").is_symlink()
    with pytest.raises(PathError):
        put(files, "folder/outside", b"new")
    with pytest.raises(IsADirectoryError):
        (tmp_path / "files" / "here").mkdir()
        put(files, "here", b"new")
    assert left(tmp_path) == []


def test_folders_and_links_are_removed_with_nothing_that_they_lead_to(
    files: VolumeFiles, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    put(files, "folder/deep/file", b"x")
    (tmp_path / "files" / "folder" / "link").symlink_to(outside)
    (tmp_path / "files" / "link").symlink_to(outside)
    delete(files.remove("folder"))
    delete(files.remove("link"))
    assert list((tmp_path / "files").iterdir()) == []
    assert (outside / "kept").exists()
    assert left(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        files.remove("folder")
    with pytest.raises(PathError, match="`flash volume delete`"):
        files.remove("")


def test_a_folder_is_listed_in_pages(files: VolumeFiles) -> None:
    for number in range(5):
        put(files, f"f/{number}/x", b"x")
    first, more = files.found("f", deep=True, after="", limit=4)
    assert ([each.path for each in first], more) == (["0", "0/x", "1", "1/x"], True)
    rest, more = files.found("f", deep=True, after="1/x", limit=10)
    assert ([each.path for each in rest][:2], len(rest), more) == (["2", "2/x"], 6, False)


def test_what_would_fill_the_disk_is_refused_before_it_comes(tmp_path: Path) -> None:
    files = made(tmp_path, min_free=0)
    with pytest.raises(NoRoomError, match="no room for 1000000000 MB more"):
        files.begin(digest_of(b""), 10**15)
    with pytest.raises(NoRoomError), files.coming(10**15):
        pass
    assert left(tmp_path) == []


def test_a_disk_that_fills_meanwhile_leaves_nothing(tmp_path: Path) -> None:
    with disk(tmp_path / "disk", 1) as small:
        files = made(small)
        put(files, "first", b"x" * 400_000)
        with pytest.raises(NoRoomError, match="no room for what came"), files.coming(None) as part:
            part.write([b"x" * 2_000_000])
        assert [path.name for path in (small / "files").iterdir()] == ["first"]
        assert left(small) == []
        put(files, "second", b"x" * 100_000)


def test_what_a_killed_server_has_left_is_swept_and_uploads_stay_a_week(
    files: VolumeFiles, tmp_path: Path
) -> None:
    uploads = tmp_path / "uploads"
    (uploads / "removed-1").mkdir()
    (uploads / "removed-1" / "file").write_text("x")
    (uploads / "whole-1").write_text("x")
    old, new = digest_of(b"old"), digest_of(b"new")
    for sha256 in (old, new):
        files.begin(sha256, 3)
        files.came(sha256, 0)
    for name in (f"{old}.data", f"{old}.parts"):
        os.utime(uploads / name, (0, 0))
    files.sweep(started=True)
    assert sorted(left(tmp_path)) == [f"{new}.data", f"{new}.parts"]


@pytest.mark.parametrize("damage", ["no database", "torn", "cut"])
def test_digests_that_are_damaged_are_made_anew(tmp_path: Path, damage: str) -> None:
    files = made(tmp_path)
    for number in range(200):
        put(files, f"{number}.txt", f"text {number}".encode())
    noted = tmp_path / "uploads" / "digests.db"
    data = bytearray(noted.read_bytes())
    if damage == "no database":
        data[:100] = bytes(100)
        data[0] = 1
    elif damage == "torn":
        data[4096:] = os.urandom(len(data) - 4096)
    else:
        data = data[:5000]
    noted.write_bytes(data)
    wanted = [Wanted("7.txt", 6, digest_of(b"text 7")), Wanted("8.txt", 6, digest_of(b"other8"))]
    for _ in range(2):
        assert files.missing(wanted) == ["8.txt"]
    put(files, "9.txt", b"more")
    with closing(sqlite3.connect(noted)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_sweep_of_a_server_that_runs_leaves_what_is_on_its_way(
    files: VolumeFiles, tmp_path: Path
) -> None:
    uploads = tmp_path / "uploads"
    (uploads / "whole-1").write_text("x")
    (uploads / "whole-2").write_text("x")
    os.utime(uploads / "whole-2", (0, 0))
    files.sweep(started=False)
    assert left(tmp_path) == ["whole-1"]
