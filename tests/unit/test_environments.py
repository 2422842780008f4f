"""What leads to an environment: requirement lines, index settings, the build of torch."""

from __future__ import annotations

import os
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from runpod_flash.engines.local.environments.builds import large_download
from runpod_flash.engines.local.environments.credentials import (
    with_credentials,
    without_credentials,
)
from runpod_flash.engines.local.environments.files import FileLock
from runpod_flash.engines.local.environments.index_settings import (
    IndexSettings,
    index_settings,
    pip_settings,
)
from runpod_flash.engines.local.environments.interpreters import wanted_minor
from runpod_flash.engines.local.environments.requirement_lines import (
    check_lines,
    parse_requirements,
    requirement_name,
)
from runpod_flash.engines.local.environments.torch_builds import (
    TorchBuild,
    choose_torch_build,
    undeclared_torch,
)
from runpod_flash.engines.local.environments.uv import Finished
from runpod_flash.engines.local.system_packages import _installed
from runpod_flash.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "s3cret"


# Requirement lines


@pytest.mark.parametrize(
    "line",
    [
        "runpod-flash",
        "runpod_flash>=1.16",
        "RunPod.Flash[extra]==1",
        "runpod-flash ; python_version > '3'",
        "runpod_flash @ https://example.test/runpod_flash-1-py3-none-any.whl",
        "./runpod_flash-1.0-py3-none-any.whl",
        "-e git+https://example.test/flash.git#egg=runpod-flash",
    ],
)
def test_lines_that_name_flash_itself_are_dropped(line: str, tmp_path: Path) -> None:
    assert parse_requirements((line, "numpy"), tmp_path).lines == ("numpy",)


@pytest.mark.parametrize("line", ["runpod", "runpod-flash-extras", "my-runpod-flash"])
def test_packages_with_a_similar_name_stay(line: str, tmp_path: Path) -> None:
    assert parse_requirements((line,), tmp_path).lines == (line,)


def test_included_files_are_read_and_their_flash_lines_dropped_too(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/more.txt").write_text("idna # why\nrunpod_flash\n-r deep.txt\n")
    (tmp_path / "sub/deep.txt").write_text("six==1 \\\n  ; python_version > '3'\n-r more.txt\n")
    parsed = parse_requirements(("-r sub/more.txt", "numpy"), tmp_path)
    assert parsed.lines == ("idna", "numpy", "six==1 ; python_version > '3'")


def test_relative_paths_start_at_the_project_root(tmp_path: Path) -> None:
    parsed = parse_requirements(("-e .", "./pkg[extra]", "--find-links wheels"), tmp_path)
    assert parsed.lines == (f"-e {tmp_path}", f"{tmp_path}/pkg[extra]")
    assert parsed.options == (("--find-links", f"{tmp_path}/wheels"),)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("--bogus x", "--bogus"),
        ("-r missing.txt", "missing.txt"),
        ("-c missing.txt", "missing.txt"),
        ("--index-url", "lacks a value"),
    ],
)
def test_a_bad_option_line_is_refused_by_name(line: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match=part):
        parse_requirements((line,), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "numpy",
        "torch>=2.4.0",
        "pkg[a,b]~=1.2; sys_platform == 'linux'",
        "pkg @ https://${TOKEN}@example.test/pkg-1-py3-none-any.whl",
        "git+ssh://git@example.test/team/pkg.git@main",
        "./local/wheel-1.0-py3-none-any.whl",
        "--find-links wheels",
        "six==1.17.0 --hash=sha256:00",
    ],
)
def test_valid_requirements_pass(text: str, tmp_path: Path) -> None:
    check_lines(parse_requirements((text,), tmp_path))


@pytest.mark.parametrize("text", ["numpy !! 2", "numpy>=", "a b c", "--no"])
def test_an_invalid_requirement_is_refused_with_its_text(text: str, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError) as refusal:
        check_lines(parse_requirements((text,), tmp_path))
    assert text in str(refusal.value)


def test_an_included_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EnvironmentBuildError, match="UTF-8"):
        parse_requirements(("-r bad.txt",), tmp_path)


def test_the_name_of_a_requirement_is_normalised() -> None:
    assert requirement_name("Py_YAML.x>=1") == "py-yaml-x"
    assert requirement_name("https://example.test/My_Pkg-1.0-py3-none-any.whl") == "my-pkg"
    assert requirement_name("git+https://example.test/x.git") is None


def test_stamps_change_when_a_local_package_does(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/a.py").write_text("x = 1")
    before = parse_requirements(("./pkg",), tmp_path).stamps()
    (tmp_path / "pkg/a.py").write_text("x = 22")
    assert parse_requirements(("./pkg",), tmp_path).stamps() != before


# Credentials


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://user:{SECRET}@h.test/x", "https://h.test/x"),
        (f"git+https://{SECRET}@h.test/x.git@v1", "git+https://h.test/x.git@v1"),
        (f"https://u@corp.test:{SECRET}@h.test/x", "https://h.test/x"),
        ("git+ssh://git@h.test/x.git", "git+ssh://git@h.test/x.git"),
        ("https://${USER}:${TOKEN}@h.test/x", "https://${USER}:${TOKEN}@h.test/x"),
        ("https://h.test/a@b", "https://h.test/a@b"),
    ],
)
def test_credentials_leave_urls(url: str, shown: str) -> None:
    assert without_credentials(f"p @ {url} ; x") == f"p @ {shown} ; x"


def test_credentials_come_back_for_their_own_url_only() -> None:
    source = f"pkg @ git+https://u:{SECRET}@h.test/pkg.git@main"
    lock = "pkg @ git+https://h.test/pkg.git@0a1b\nother @ git+https://h.test/pkg.git2@0a\n"
    assert with_credentials(lock, [source]) == (
        f"pkg @ git+https://u:{SECRET}@h.test/pkg.git@0a1b\n"
        "other @ git+https://h.test/pkg.git2@0a\n"
    )


def test_a_reason_is_one_line_without_credentials() -> None:
    error = f"warning: x\nerror: It failed\n  cause: at https://u:{SECRET}@h.test/s\n\nhint: y\n"
    assert Finished(1, "", error).reason == "It failed: at https://h.test/s"


def test_a_long_reason_keeps_its_start_and_its_end() -> None:
    reason = Finished(1, "", "error: first\n" + "noise\n" * 1000 + "last").reason
    assert reason.startswith("first") and reason.endswith("last") and len(reason) < 800


# Index settings


def settings(tmp_path: Path, **variables: str) -> IndexSettings:
    environ = {"HOME": str(tmp_path), "XDG_CONFIG_DIRS": str(tmp_path), **variables}
    environ.setdefault("PIP_CONFIG_FILE", os.devnull)
    return index_settings(environ, tmp_path, tmp_path / "prefix")


def test_settings_of_pip_are_translated(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        PIP_INDEX_URL="https://i.test/simple",
        PIP_EXTRA_INDEX_URL="https://a.test/simple https://b.test/simple",
        PIP_FIND_LINKS=f"{tmp_path} {tmp_path}/gone file://{tmp_path}/gone",
        PIP_CERT="/certs.pem",
        PIP_TRUSTED_HOST="i.test",
        PIP_PROXY="http://proxy.test:3128",
    ).variables
    assert found["UV_DEFAULT_INDEX"] == "https://i.test/simple"
    assert found["UV_INDEX"] == "https://a.test/simple https://b.test/simple"
    assert found["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert found["UV_FIND_LINKS"] == str(tmp_path)
    assert found["SSL_CERT_FILE"] == "/certs.pem"
    assert found["UV_INSECURE_HOST"] == "i.test"
    assert found["HTTPS_PROXY"] == "http://proxy.test:3128"


def test_settings_of_uv_win_over_those_of_pip(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        PIP_INDEX_URL="https://pip.test/simple",
        PIP_FIND_LINKS=str(tmp_path),
        UV_INDEX_URL="https://uv.test/simple",
        UV_FIND_LINKS="https://uv.test/links",
        VIRTUAL_ENV="/somewhere",
    )
    assert "UV_DEFAULT_INDEX" not in found.variables
    assert "VIRTUAL_ENV" not in found.variables
    assert found.indexes == ("https://uv.test/simple",)
    assert found.find_links == ("https://uv.test/links",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("uv.toml", 'index-url = "https://uv.test/simple"\n'),
        ("pyproject.toml", '[[tool.uv.index]]\nurl = "https://uv.test/simple"\n'),
    ],
)
def test_an_index_in_a_uv_file_wins_over_those_of_pip(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    found = settings(tmp_path, PIP_INDEX_URL="https://pip.test/simple")
    assert "UV_DEFAULT_INDEX" not in found.variables


def test_files_of_pip_are_read_in_its_order_and_broken_ones_ignored(tmp_path: Path) -> None:
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip/pip.conf").write_text("[global]\nindex_url = https://old.test\ncert = c\n")
    (tmp_path / "prefix").mkdir()
    site = tmp_path / "prefix/pip.conf"
    site.write_text("[install]\nfind-links =\n  one\n  two\n[global]\nindex-url=https://new.test\n")
    broken = tmp_path / "broken.conf"
    broken.write_text("no section = 1\n")
    environ = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(broken)}
    found = pip_settings(environ, tmp_path / "prefix")
    assert found["index-url"] == ["https://new.test"]
    assert found["find-links"] == ["one", "two"]
    assert found["cert"] == ["c"]


def test_the_fingerprint_follows_local_wheels_and_hides_credentials(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    url = f"https://u:{SECRET}@i.test/simple"
    first = settings(tmp_path, UV_FIND_LINKS=str(wheels), UV_DEFAULT_INDEX=url)
    (wheels / "x-1-py3-none-any.whl").write_bytes(b"")
    second = settings(tmp_path, UV_FIND_LINKS=str(wheels), UV_DEFAULT_INDEX=url)
    assert first.fingerprint != second.fingerprint
    assert SECRET not in first.fingerprint


# torch


def torch_build(
    tmp_path: Path, *lines: str, cuda: str | None = None, **variables: str
) -> TorchBuild:
    parsed = parse_requirements(lines, tmp_path)
    return choose_torch_build(parsed, settings(tmp_path, **variables), (3, 11), cuda)


not_on_macos = pytest.mark.skipif(sys.platform == "darwin", reason="macOS has one build")


@not_on_macos
def test_without_a_gpu_torch_is_built_for_the_cpu_else_for_the_driver(tmp_path: Path) -> None:
    assert torch_build(tmp_path, "torch").backend == "cpu"
    assert torch_build(tmp_path, "torch", cuda="12.8").backend == "auto"


def test_a_backend_that_the_user_chose_stays(tmp_path: Path) -> None:
    assert torch_build(tmp_path, "torch", UV_TORCH_BACKEND="cu126") == TorchBuild()


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("--extra-index-url https://m.test/whl/cpu", {}),
        ("torch", {"UV_INDEX": "torch=https://download.pytorch.test/nightly"}),
        ("torch", {"PIP_EXTRA_INDEX_URL": "https://mirror.test/whl/cu128"}),
        ("--no-index", {}),
        ("torch", {"PIP_NO_INDEX": "true"}),
    ],
)
def test_an_index_of_torch_that_the_user_named_stays(
    line: str, variables: dict[str, str], tmp_path: Path
) -> None:
    assert torch_build(tmp_path, line, **variables) == TorchBuild()


LOCAL = ["2.13.0+cpu-cp311-cp311", "2.12.0+cpu-cp311-cp311", "2.14.0+cpu-cp312-cp312"]
LOCAL += ["2.13.0+cu128-cp311-cp311", "2.13.0+cu130-cp311-cp311"]


@not_on_macos
@pytest.mark.parametrize(
    ("requirement", "cuda", "expected"),
    [
        ("torch>=2.4.0", None, TorchBuild(constraint="torch==2.13.0+cpu")),
        ("transformers", None, TorchBuild(constraint="torch==2.13.0+cpu")),
        ("torch<2.13", None, TorchBuild(constraint="torch==2.12.0+cpu")),
        ("torch>=2.14", None, TorchBuild(backend="cpu")),
        ("torch", "12.8", TorchBuild(constraint="torch==2.13.0+cu128")),
        ("torch", "12.6", TorchBuild(backend="auto")),
    ],
)
def test_a_local_wheel_of_torch_that_runs_here_is_taken(
    requirement: str, cuda: str | None, expected: TorchBuild, tmp_path: Path
) -> None:
    from packaging.tags import platform_tags

    tag = next(iter(platform_tags()))
    for name in LOCAL:
        with zipfile.ZipFile(tmp_path / f"torch-{name}-{tag}.whl", "w"):
            pass
    (tmp_path / "torch-broken.whl").write_bytes(b"")
    assert torch_build(tmp_path, requirement, cuda=cuda, PIP_FIND_LINKS=str(tmp_path)) == expected


MODULE = """
import torch, numpy
import torchaudio.functional as F
if True:
    from torchvision import transforms
import triton

def helper(x):
    return transforms.Resize(x)

@Endpoint(name="a")
async def own(x):
    import torch.nn as nn
    return nn

def by_name(x):
    return torch.zeros(1), F.gain

def through_helper(x):
    return helper(x)

def none(x, torch_like=1):
    return numpy.zeros(x)

class Model:
    def __init__(self):
        from triton.language import core

    class Inner:
        def run(self):
            return torch
"""


@pytest.mark.parametrize(
    ("qualname", "declared", "expected"),
    [
        ("own", (), ("torch",)),
        ("by_name", (), ("torch", "torchaudio")),
        ("by_name", ("torch>=2.4", "numpy"), ("torchaudio",)),
        ("by_name", ("Torch[opt]", "torchaudio @ https://h.test/torchaudio.whl"), ()),
        ("through_helper", (), ("torchvision",)),
        ("none", (), ()),
        ("Model", (), ("torch", "triton")),
        ("Model.Inner", (), ("torch",)),
        ("absent", (), ()),
    ],
)
def test_undeclared_torch_is_found_in_the_syntax_tree(
    qualname: str, declared: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert undeclared_torch(MODULE, qualname, declared) == expected


@pytest.mark.parametrize("source", ["def f(:", "\0", ""])
def test_source_that_cannot_be_parsed_uses_no_torch(source: str) -> None:
    assert undeclared_torch(source, "f", ()) == ()


def test_a_function_inside_a_function_is_found() -> None:
    source = "def outer():\n    def inner():\n        import torch\n    return inner\n"
    assert undeclared_torch(source, "outer.<locals>.inner", ()) == ("torch",)


# The rest


@pytest.mark.parametrize("version", ["3.9", "3.14", "3", "2.7", "3.11.7", "three", ""])
def test_a_python_that_workers_do_not_run_on_is_refused(version: str) -> None:
    with pytest.raises(EnvironmentBuildError, match=r"3\.10, 3\.11, 3\.12, 3\.13"):
        wanted_minor(version)


def test_without_a_declared_python_the_callers_minor_is_taken() -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert wanted_minor(None) in {own, "3.12"}
    assert wanted_minor("3.10") == "3.10"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Downloading torch (820.5MiB)", "downloading torch (860 MB)"),
        ("Downloading nvidia-cublas (1.5GiB)", "downloading nvidia-cublas (1611 MB)"),
        ("Downloading numpy (15.2MiB)", None),
        (" Downloaded torch", None),
    ],
)
def test_large_downloads_are_announced_with_their_size(line: str, said: str | None) -> None:
    assert large_download(line) == said


def test_shared_locks_go_together_and_exclude_an_exclusive_one(tmp_path: Path) -> None:
    file = tmp_path / "a.lock"
    first = FileLock.try_acquire(file, shared=True)
    second = FileLock.try_acquire(file, shared=True)
    assert first and second and FileLock.try_acquire(file) is None
    first.release()
    second.release()
    exclusive = FileLock.try_acquire(file)
    assert exclusive and FileLock.try_acquire(file, shared=True) is None
    exclusive.release(remove=True)
    assert not file.exists()


def test_system_packages_count_as_installed_by_their_own_and_by_a_provided_name() -> None:
    output = "installed\tmawk\tawk\nconfig-files\tgone\t\ninstalled\tx\ta (= 1), b:any\n"
    assert _installed(output) == {"mawk", "awk", "x", "a", "b"}
