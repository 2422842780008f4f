"""Wheels and source archives that would unpack to what nobody wants."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from runpod_flash.archives import check_archive
from runpod_flash.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from pathlib import Path

OUTSIDE = ["../x", "a/../../x", "/etc/x", "\\\\host\\x", "a\\..\\..\\x", "C:/x"]


def wheel(folder: Path, *members: tuple[str, int], data: bytes = b"x") -> Path:
    path = folder / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def source(folder: Path, *members: tarfile.TarInfo, compressed: str = "gz") -> Path:
    path = folder / f"a-1.tar.{compressed}"
    with tarfile.open(path, f"w:{compressed}") as archive:  # type: ignore[call-overload]
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 1) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, "b", size if kind == tarfile.REGTYPE else 0
    return info


def refusal(path: Path) -> str:
    with pytest.raises(EnvironmentBuildError) as caught:
        check_archive(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def test_ordinary_archives_pass(tmp_path: Path) -> None:
    check_archive(wheel(tmp_path, ("a/b.py", 0), ("a/c..d.py", stat.S_IFREG | 0o755)))
    check_archive(source(tmp_path, member("a-1", tarfile.DIRTYPE), member("a-1/setup.py")))
    check_archive(source(tmp_path, member("a-1/setup.py"), compressed="bz2"))


@pytest.mark.parametrize("name", OUTSIDE)
def test_paths_that_lead_out_are_refused(name: str, tmp_path: Path) -> None:
    assert "leads out of it" in refusal(wheel(tmp_path, ("fine.py", 0), (name, 0)))
    assert "leads out of it" in refusal(source(tmp_path, member("fine.py"), member(name)))


@pytest.mark.parametrize(
    ("mode", "kind", "what"),
    [
        (stat.S_IFLNK, tarfile.SYMTYPE, "a link"),
        (stat.S_IFCHR, tarfile.CHRTYPE, "a device"),
        (stat.S_IFBLK, tarfile.BLKTYPE, "a device"),
        (stat.S_IFIFO, tarfile.FIFOTYPE, "a device"),
    ],
)
def test_links_and_devices_are_refused(mode: int, kind: bytes, what: str, tmp_path: Path) -> None:
    assert f"'a/b' is {what}" in refusal(wheel(tmp_path, ("a/b", mode | 0o777)))
    assert f"'a/b' is {what}" in refusal(source(tmp_path, member("a/b", kind)))


def test_hard_links_are_refused(tmp_path: Path) -> None:
    assert "is a link" in refusal(source(tmp_path, member("b"), member("a", tarfile.LNKTYPE)))


def test_what_would_become_far_larger_is_refused_before_it_is(tmp_path: Path) -> None:
    bomb = wheel(tmp_path, *((f"{n}.bin", 0) for n in range(3)), data=bytes(20_000_000))
    assert "would become 60 MB or more" in refusal(bomb)
    assert "MB or more" in refusal(source(tmp_path, member("a", size=60_000_000)))


def test_a_header_that_is_a_bomb_by_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a-1.tar.gz"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 60_000_000
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(60):
            stream.write(bytes(1_000_000))
    assert "would become 50 MB or more" in refusal(path)


def test_what_is_no_archive_is_one_sentence(tmp_path: Path) -> None:
    for name in ("a-1-py3-none-any.whl", "a-1.tar.gz"):
        path = tmp_path / name
        path.write_bytes(b"no archive")
        assert "cannot be read" in refusal(path)


def test_a_zip_of_a_later_version_is_one_sentence(tmp_path: Path) -> None:
    path = wheel(tmp_path, ("a.py", 0))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 6] = 99  # what is needed to unpack its first file
    path.write_bytes(data)
    assert "cannot be read: zip file version 9.9" in refusal(path)
