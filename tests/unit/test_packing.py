"""What a build looks for, and what its locks say."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from integration.wheels import make_wheel
from runpod_flash.control.blobs import Blobs
from runpod_flash.control.locks import check_lock, versions
from runpod_flash.control.trees import StoredFile
from runpod_flash.engines.local.devices.gpus import Gpu
from runpod_flash.engines.local.environments.index_settings import IndexSettings, index_settings
from runpod_flash.engines.local.environments.platforms import described, tags_of, this_platform
from runpod_flash.engines.local.environments.requirement_lines import (
    local_path,
    parse_requirements,
    with_wheel,
)
from runpod_flash.engines.local.environments.torch_builds import (
    choose_torch_build,
    locked_torch_build,
)
from runpod_flash.engines.local.preparation import local_platform
from runpod_flash.packing.artifact import Part, shown
from runpod_flash.packing.building import BuildOptions, build
from runpod_flash.packing.bundling import private_hosts
from runpod_flash.packing.credentials import credentials, credentials_in_wheel
from runpod_flash.packing.kept import forget_unused, used
from runpod_flash.packing.repositories import Repository
from runpod_flash.project.catalog import Catalog
from runpod_flash.project.tree import TreeFile


def settings_of(wheels: Path) -> IndexSettings:
    environ = {"HOME": str(wheels), "PIP_CONFIG_FILE": os.devnull, "UV_FIND_LINKS": str(wheels)}
    return index_settings(environ, wheels, wheels)


MIXED = "Q7x2Lm9Kp4Rt8Vw3Zb6Nc1Jd5Hf0Gs7Ya2Ue9Xk4Mq8Pz3Tr6Wv1"
TOKENS = {
    "AKIA" + MIXED.upper()[:16]: "an AWS access key",
    "hf_" + MIXED[:34]: "a Hugging Face token",
    "ghp_" + MIXED[:36]: "a GitHub token",
    "github_pat_" + MIXED + MIXED[:10]: "a GitHub token",
    "glpat-" + MIXED[:20]: "a GitLab token",
    "sk-proj-" + MIXED: "an OpenAI key",
    "sk-ant-api03-" + MIXED: "an Anthropic key",
    "rpa_" + MIXED[:40].upper(): "a RunPod key",
    "AIza" + MIXED[:35]: "a Google API key",
    "xoxb-" + MIXED[:30]: "a Slack token",
    "sk_live_" + MIXED[:24]: "a Stripe key",
    "pypi-AgEI" + MIXED: "a PyPI token",
    "-----BEGIN OPENSSH PRIVATE KEY-----": "a private key",
    "-----BEGIN PRIVATE KEY-----": "a private key",
}


def found(folder: Path, text: str | bytes, name: str = "a.py") -> list[str]:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [str(each) for each in credentials(folder, [TreeFile(name, "", 0)])]


@pytest.mark.parametrize("token", TOKENS)
def test_well_known_tokens_are_found_with_their_line(token: str, tmp_path: Path) -> None:
    assert found(tmp_path, f"# one\nx = {token!r}\n") == [f"a.py:2 ({TOKENS[token]})"]


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "sk-your-key-here",
        "task-" + "ab-" * 20,
        "-----BEGIN CERTIFICATE-----",
        "ghp_short",
        "https://user:password@example.org in a comment",
    ],
)
def test_examples_and_other_words_are_not(text: str, tmp_path: Path) -> None:
    assert found(tmp_path, text) == []


def test_files_for_credentials_are_found_by_name_and_data_is_not_read(tmp_path: Path) -> None:
    for name in ("id_ed25519", "prod.env", "service-account.json", "store.p12"):
        assert found(tmp_path, "", name) == [name]
    assert found(tmp_path, b"\0" + next(iter(TOKENS)).encode(), "weights.bin") == []


def test_passwords_in_addresses_count_where_packages_are_asked_for(tmp_path: Path) -> None:
    line = "--index-url https://ada:s3cret@example.org/simple\n"
    assert found(tmp_path, line, "requirements.txt") == ["requirements.txt:1 (a password)"]
    reference = line.replace("s3cret", "${TOKEN}")
    assert found(tmp_path, reference, "requirements.txt") == []


def test_wheels_that_are_built_here_are_looked_into(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, "lib")
    assert list(credentials_in_wheel(wheel)) == []
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("lib/conf.py", next(iter(TOKENS)))
    assert [str(each) for each in credentials_in_wheel(wheel)] == [
        "lib-1.0-py3-none-any.whl/lib/conf.py:1 (an AWS access key)"
    ]


def test_wheels_that_no_build_uses_go_after_a_month(tmp_path: Path) -> None:
    for name in ("old", "new", "again"):
        make_wheel(tmp_path / name, "lib")
        os.utime(tmp_path / name, (0, 0) if name != "new" else None)
    used(tmp_path / "again")
    forget_unused(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "new"]
    forget_unused(tmp_path / "nowhere")


def test_a_lock_tells_versions_by_name() -> None:
    lock = """--index-url https://example.org/simple
numpy==2.5.5 --hash=sha256:00
torch==2.9.0+cu128 --hash=sha256:00
__flash__/wheels/My_Lib-1.0.post1-py3-none-any.whl --hash=sha256:00
tool @ git+https://example.org/tool@0123
"""
    assert versions(lock) == {
        "numpy": "2.5.5",
        "torch": "2.9.0+cu128",
        "my-lib": "1.0.post1",
        "tool": "git+https://example.org/tool@0123",
    }


def test_a_lock_has_to_be_among_the_files_as_it_was_made() -> None:
    check_lock("a", "x.txt", "", [])
    check_lock("a", "x.txt", "12", [StoredFile("x.txt", "12")])
    with pytest.raises(ValueError, match="the lock of a is not among the files"):
        check_lock("a", "x.txt", "12", [StoredFile("x.txt", "34")])


def test_wheels_fit_by_the_platform_s_tags() -> None:
    linux = {str(tag) for tag in tags_of((3, 12), "x86_64-manylinux_2_28")}
    assert {"cp312-cp312-manylinux_2_28_x86_64", "cp312-abi3-manylinux2014_x86_64"} <= linux
    assert {"py3-none-any", "cp310-abi3-linux_x86_64"} <= linux
    assert not [tag for tag in linux if "macosx" in tag or "manylinux_2_31" in tag]
    assert "cp311-cp311-manylinux_2_28_x86_64" not in linux
    old = {str(tag) for tag in tags_of((3, 12), "x86_64-manylinux2014")}
    assert "cp312-cp312-manylinux_2_28_x86_64" not in old
    mac = {str(tag) for tag in tags_of((3, 12), "aarch64-apple-darwin")}
    assert "cp312-cp312-macosx_11_0_arm64" in mac
    assert described("aarch64-apple-darwin") == "aarch64 macOS"
    assert described(this_platform()).endswith(("Linux", "macOS"))


def test_a_local_source_gives_way_to_a_wheel_and_keeps_extras_and_markers() -> None:
    wheel = Path("/a folder/My_Lib-1-py3-none-any.whl")
    there = "@ file:///a%20folder/My_Lib-1-py3-none-any.whl"
    for line, expected in (
        ("-e /src/lib", f"my-lib {there}"),
        ("/src/lib[web] ; python_version > '3'", f"my-lib[web] {there} ; python_version > '3'"),
        (
            "lib[web] @ file:///src/lib ; sys_platform == 'linux'",
            f"my-lib[web] {there} ; sys_platform == 'linux'",
        ),
        ("file:///src/lib", f"my-lib {there}"),
    ):
        found = local_path(line)
        assert found is not None
        assert found.as_posix() == "/src/lib"
        assert with_wheel(line, wheel) == expected
    assert local_path("lib>=1 ; python_version > '3'") is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lib @ git+https://h.test/a/lib", ("https://h.test/a/lib", "", "", "", "")),
        (
            "lib[x] @ git+ssh://git@h.test/a/lib.git@feature/y#subdirectory=py ; os_name == 'a'",
            ("ssh://git@h.test/a/lib.git", "feature/y", "py", "[x]", "; os_name == 'a'"),
        ),
        (
            "-e git+https://u:${LIB_TOKEN}@h.test/lib@v1#egg=lib&subdirectory=b",
            ("https://u:t0@h.test/lib", "v1", "b", "", ""),
        ),
    ],
)
def test_a_repository_is_read_from_its_line(
    line: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIB_TOKEN", "t0")
    assert Repository.of(line) == Repository(*expected)
    assert Repository.of("lib>=1") is None


def test_a_platform_s_cuda_is_what_all_of_its_gpus_run() -> None:
    gpus = [Gpu(n, f"GPU-{n}", "x", 1, 0, cuda) for n, cuda in enumerate(("12.8", "12.10", None))]
    assert local_platform(gpus).cuda == "12.8"
    assert local_platform([]).cuda is None
    assert local_platform([]).system == this_platform()


@pytest.mark.parametrize(
    ("cuda", "backend"),
    [(None, "cpu"), ("12.8", "cu128"), ("12.7", "cu126"), ("13.4", "cu130"), ("10.2", "cpu")],
)
def test_another_machine_gets_the_build_of_torch_that_its_driver_runs(
    cuda: str | None, backend: str, tmp_path: Path
) -> None:
    wanted, settings = parse_requirements(("torch",), tmp_path), settings_of(tmp_path)
    build = choose_torch_build(wanted, settings, (3, 12), cuda, "x86_64-manylinux_2_28")
    assert build.backend == backend
    mac = choose_torch_build(wanted, settings, (3, 12), None, "aarch64-apple-darwin")
    assert mac.backend is None


def test_a_locked_build_of_torch_is_got_where_it_is(tmp_path: Path) -> None:
    locked = parse_requirements(("torch==2.9.0+cu128 --hash=sha256:00", "numpy==2"), tmp_path)
    assert locked_torch_build(locked, settings_of(tmp_path)).backend == "cu128"
    (tmp_path / "torch-2.9.0+cu128-cp312-cp312-linux_x86_64.whl").touch()
    assert locked_torch_build(locked, settings_of(tmp_path)).backend is None
    plain = parse_requirements(("torch==2.9.0", "numpy==2"), tmp_path)
    assert locked_torch_build(plain, settings_of(tmp_path)).backend is None


def test_logins_of_indexes_are_told_by_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INDEX_TOKEN", "t0")
    places = ["https://ada:p@one.example/simple", "https://two.example", "/wheels"]
    places.append("https://ada%40home:p%2Fq%25@four.example/simple")
    assert private_hosts([*places, "https://_:${INDEX_TOKEN}@three.example/x"]) == {
        "one.example": ("ada", "p"),
        "three.example": ("_", "t0"),
        "four.example": ("ada@home", "p/q%"),
    }


def said_of(folder: Path) -> list[str]:
    """What is said while a project without endpoints is packed."""
    said: list[str] = []
    asyncio.run(build(Catalog(str(folder)), None, BuildOptions(), said.append))
    return said


def test_files_beside_the_code_go_along_or_are_named(tmp_path: Path) -> None:
    (tmp_path / "labels.json").touch()
    (tmp_path / ".env").touch()
    (line,) = said_of(tmp_path)
    assert line.startswith("not sent: labels.json, for nothing marks ")
    (tmp_path / "pyproject.toml").touch()
    assert said_of(tmp_path) == []


def test_a_table_has_the_largest_parts_and_the_rest_as_one() -> None:
    parts = [Part(str(number), "code", 20 - number) for number in range(15)]
    assert shown(parts[:3]) == parts[:3]
    short = shown(parts)
    assert short[:-1] == parts[:11]
    assert short[-1] == Part("4 more", "", sum(part.size for part in parts[11:]))


# Parts of large files


def test_a_file_comes_in_parts_and_goes_on_where_it_has_ended(tmp_path: Path) -> None:
    data = os.urandom(1000)
    digest = hashlib.sha256(data).hexdigest()
    blobs = Blobs(tmp_path)
    assert blobs.add(digest, 0, 1000, b"") == 0
    assert blobs.add(digest, 0, 1000, data[:400]) == 400
    assert blobs.add(digest, 0, 1000, data[:400]) == 400  # sent again
    assert blobs.add(digest, 500, 1000, data[500:]) == 400  # with a gap
    assert blobs.add(digest, 400, 1000, data[400:] + b"more") == 400
    blobs = Blobs(tmp_path)  # a server that was started anew
    assert blobs.missing([digest]) == [digest]
    assert blobs.add(digest, 0, 1000, b"") == 400
    assert blobs.add(digest, 400, 1000, data[400:]) == 1000
    assert blobs.missing([digest]) == []
    blobs.copy(digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert blobs.add(digest, 0, 1000, b"") == 1000


def test_parts_that_make_another_file_are_dropped(tmp_path: Path) -> None:
    blobs, digest = Blobs(tmp_path), hashlib.sha256(b"abcd").hexdigest()
    assert blobs.add(digest, 0, 4, b"ab") == 2
    with pytest.raises(ValueError, match="is another one"):
        blobs.add(digest, 2, 4, b"xx")
    assert blobs.missing([digest]) == [digest]
    assert blobs.add(digest, 0, 4, b"abcd") == 4
    with pytest.raises(ValueError, match="is no SHA-256"):
        blobs.add("../../x", 0, 4, b"abcd")
