"""Archives of code: what is refused, and what is no part of a project."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from typing import TYPE_CHECKING

import pytest

from runpod_flash.control.code_archives import read_code
from runpod_flash.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, target
    return found


def archive(folder: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    place = folder / "code.tar.gz"
    with tarfile.open(place, "w:gz") as tar:
        for each in members:
            if isinstance(each, tarfile.TarInfo):
                tar.addfile(each)
            else:
                info = tarfile.TarInfo(each[0])
                info.size = len(each[1])
                tar.addfile(info, io.BytesIO(each[1]))
    return place


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (member("../outside.py"), "leads out of it"),
        (member("a/../../outside.py"), "leads out of it"),
        (member("/etc/cron.d/job"), "leads out of it"),
        (member("..\\outside.py"), "leads out of it"),
        (member("link.py", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (member("hard.py", tarfile.LNKTYPE, "worker.py"), "is a link"),
        (member("device", tarfile.CHRTYPE), "is a device"),
        (member("block", tarfile.BLKTYPE), "is a device"),
        (member("pipe", tarfile.FIFOTYPE), "is a device"),
    ],
)
def test_what_would_leave_the_archive_is_refused(
    tmp_path: Path, odd: tarfile.TarInfo, said: str
) -> None:
    place = archive(tmp_path, ("worker.py", b"x = 1\n"), odd)
    with pytest.raises(ConfigurationError, match=said):
        list(read_code(place))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["code.tar.gz"]


def test_an_archive_with_far_more_in_it_than_its_size_tells_is_refused(tmp_path: Path) -> None:
    place = archive(tmp_path, ("zeros.bin", bytes(80_000_000)))
    assert place.stat().st_size < 100_000
    with pytest.raises(ConfigurationError, match="would become 80 MB or more"):
        list(read_code(place))


def sparse(name: str, size: int) -> bytes:
    """The header of a GNU sparse file that has no content, and says that it has this size."""
    header = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:482] = bytes(96)  # where its content would be
    header[483:495] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    header[148:156] = b" " * 8
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


def test_sparse_files_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "code.tar.gz"
    for members in (sparse("neg.py", -(3 * 10**11)) + sparse("big.py", 10**8), sparse("a.py", 9)):
        place.write_bytes(gzip.compress(members + bytes(1024)))
        with pytest.raises(ConfigurationError, match="is a sparse file"):
            list(read_code(place))


def test_a_size_below_zero_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "code.tar.gz"
    info = tarfile.TarInfo("neg.py")
    info.pax_headers = {"GNU.sparse.realsize": "-5000000000"}
    with tarfile.open(place, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info)
    with pytest.raises(ConfigurationError, match="has -5000000000 bytes"):
        list(read_code(place))


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4 a zip", gzip.compress(b"no tar" * 1000, mtime=0)]
)
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    place = tmp_path / "code.tar.gz"
    place.write_bytes(content)
    with pytest.raises(ConfigurationError, match="cannot be read as"):
        list(read_code(place))


def test_one_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    place = archive(tmp_path, *((f"{n}.bin", bytes(range(256)) * 99) for n in range(99)))
    place.write_bytes(place.read_bytes()[:-2000])
    with pytest.raises(ConfigurationError, match="cannot be read as"):
        list(read_code(place))


def test_a_record_that_is_none_is_refused(tmp_path: Path) -> None:
    place = archive(tmp_path, ("a.dist-info/RECORD", b"a" * 200_000))
    with pytest.raises(ConfigurationError, match=r"cannot be read as .*: field larger"):
        list(read_code(place))


def test_a_record_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    noise = random.Random(1).randbytes(60_000)
    place = archive(tmp_path, ("a.dist-info/RECORD", noise))
    place.write_bytes(place.read_bytes()[:20_000])
    with pytest.raises(ConfigurationError, match="cannot be read as"):
        list(read_code(place))


def test_names_of_names_are_refused(tmp_path: Path) -> None:
    place = tmp_path / "code.tar.gz"
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
    name = info.tobuf(tarfile.GNU_FORMAT) + b"a\0" + bytes(510)
    place.write_bytes(gzip.compress(name * 3000))
    with pytest.raises(ConfigurationError, match="cannot be read as"):
        list(read_code(place))


def test_packages_that_were_installed_beside_the_code_are_no_part_of_it(tmp_path: Path) -> None:
    record = (
        b'numpy/__init__.py,sha256=x,1\n../../bin/f2py,,\n"a,b.py",,\nnumpy-2.dist-info/RECORD,,\n'
    )
    place = archive(
        tmp_path,
        ("./numpy/__init__.py", b"1"),
        ("./bin/f2py", b"1"),
        ("./bin/flash", b"1"),
        ("./a,b.py", b"1"),
        ("./numpy-2.dist-info/RECORD", record),
        ("./numpy-2.dist-info/METADATA", b"1"),
        ("./runpod_flash/__init__.py", b"1"),
        ("./worker.py", b"x = 1\n"),
        ("./bin/mine", b"1"),
        ("./parts/__pycache__/a.pyc", b"1"),
        ("./parts/numpy.py", b"y = 2\n"),
    )
    found = [(file.path, file.data) for file in read_code(place)]
    assert found == [("worker.py", b"x = 1\n"), ("bin/mine", b"1"), ("parts/numpy.py", b"y = 2\n")]
