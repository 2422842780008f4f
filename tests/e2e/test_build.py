"""`flash build`, and the builds of `flash deploy`: locks, local packages, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from behaviour.servers import server
from e2e.projects import APP, LIBRARY, Project, call
from integration.package_index import package_index
from integration.served import write
from integration.wheels import make_wheel
from runpod_flash.engines.local.environments.requirement_lines import content_stamp
from runpod_flash.packing.artifact import Artifact
from runpod_flash.project.catalog import Catalog
from runpod_flash.project.tree import TreeFile
from unit.command_line import flash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from behaviour.servers import Target

AWS = "AKIA" + "QX7D3NPLW2V9R4TZ"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "shop", tmp_path / "cache")
    make_wheel(made.folder / "wheels", "alpha", "1.0")
    make_wheel(made.folder / "wheels", "alpha", "1.5")
    make_wheel(made.folder / "wheels", "beta", requires="alpha<1.2")
    return made


# What is packed


def test_a_build_locks_packages_and_packs_files_without_those_that_are_ignored(
    project: Project,
) -> None:
    project.app("beta")
    write(
        project.folder,
        {
            ".flashignore": "*.csv\n",
            ".gitignore": "secret*\n",
            "notes.csv": "1,2\n",
            "secret.txt": "x\n",
            ".env": "TOKEN=x\n",
            "deep/.gitignore": "*.tmp\n!kept.tmp\n",
            "deep/data.tmp": "x",
            "deep/kept.tmp": "x",
            "deep/more/data.tmp": "x",
        },
    )
    said = project.build()
    assert re.search(r"^  alpha 1\.0 +package +\d+ B$", said, re.MULTILINE)
    assert "wheels/" in said
    names = set(project.packed())
    assert {"app.py", "pyproject.toml", "requirements.txt", "deep/kept.tmp"} <= names
    assert not {n for n in names if n.endswith(("notes.csv", "secret.txt", ".env", "data.tmp"))}
    assert project.lock() == [
        "__flash__/wheels/alpha-1.0-py3-none-any.whl",
        "__flash__/wheels/beta-1.0-py3-none-any.whl",
    ]
    assert (project.folder / ".flash" / ".gitignore").read_text() == "*\n"


def test_packages_are_left_out_and_another_python_is_taken_where_that_is_asked_for(
    project: Project,
) -> None:
    project.app("beta")

    def built(*words: str) -> dict[str, Any]:
        (endpoint,) = json.loads(project.build("--json", *words))["endpoints"]
        return dict(endpoint)

    less = {"name": "parts", "python": "3.13", "packages": {"beta": "1.0"}}
    assert built("--no-deps", "--python-version", "3.13") == less
    assert built("--exclude", "x, Alpha", "--python-version", "3.13") == less
    done = project.flash("build", "--python-version", "3.9")
    assert done.returncode == 1
    assert "Python 3.9 is not available for workers: choose one of 3.10" in done.stderr


def test_the_same_project_gives_the_same_bytes_whenever_and_wherever(
    project: Project, tmp_path: Path
) -> None:
    write(project.folder / "lib", LIBRARY)
    project.app("./lib", "beta", modules="helper, alpha")
    project.build(env="one")
    first = project.archive.read_bytes()
    other = Project(tmp_path / "elsewhere" / "deeper" / "shop", tmp_path / "other-cache")
    shutil.copytree(project.folder, other.folder, dirs_exist_ok=True)
    shutil.rmtree(other.folder / ".flash")
    for path in other.folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
        path.chmod(0o700 if path.is_dir() else 0o600)
    main = "import os; os.umask(0o077); "
    done = flash("build", cwd=other.folder, env={**other.env, "TZ": "Asia/Tokyo"}, before=main)
    assert done.returncode == 0, done.stderr
    assert other.archive.read_bytes() == first


def test_an_archive_in_the_project_is_not_in_the_next_one(project: Project) -> None:
    project.app()
    archive = project.folder / "out" / "shop.tar.gz"
    project.build("-o", "out/shop.tar.gz")
    first = archive.read_bytes()
    project.build("-o", str(archive))
    assert archive.read_bytes() == first
    assert [path.name for path in archive.parent.iterdir()] == [archive.name]


def test_a_mac_locks_what_linux_workers_install(project: Project, tmp_path: Path) -> None:
    """The interpreter that uv asks says that it is an arm64 Mac's."""
    wheels = project.folder / "wheels"
    for name, tag in (("native", "cp312-cp312-manylinux_2_17_x86_64"), ("lonely", "py3-none-any")):
        make_wheel(wheels, name, tag=tag)
    for tag in ("cp312-cp312-macosx_11_0_arm64", "cp311-cp311-manylinux_2_17_x86_64"):
        make_wheel(wheels, "native", "1.0", tag=tag)
    make_wheel(wheels, "macos", requires="lonely")
    project.app("native", "macos; sys_platform == 'darwin'", "beta; platform_machine == 'x86_64'")
    venv = tmp_path / "mac"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    pretend = textwrap.dedent("""
        import os, platform, sys, sysconfig
        sysconfig.get_config_vars()
        sys.platform = "darwin"
        platform.system = lambda: "Darwin"
        platform.machine = lambda: "arm64"
        platform.mac_ver = lambda *_: ("14.0", ("", "", ""), "arm64")
        sysconfig.get_platform = lambda: "macosx-14.0-arm64"
    """)
    (packages,) = venv.glob("lib/python3.*/site-packages")
    (packages / "sitecustomize.py").write_text(pretend)
    # What it would be without the switch:
    uv = [sys.executable, "-m", "uv", "pip", "compile", "-", "--python", str(venv / "bin/python")]
    local = subprocess.run(
        [*uv, "--no-header", "--no-annotate", "--no-index", "--find-links", str(wheels)],
        input="macos; sys_platform == 'darwin'\nnative; sys_platform == 'linux'\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert local.stdout.split() == ["lonely==1.0", "macos==1.0"]
    before = (
        "import types; from runpod_flash.packing import locking; "
        f"locking.sys = types.SimpleNamespace(executable={str(venv / 'bin/python')!r}); "
    )
    done = flash("build", cwd=project.folder, env=project.env, before=before)
    assert done.returncode == 0, done.stderr
    assert project.lock() == [
        "__flash__/wheels/alpha-1.0-py3-none-any.whl",
        "__flash__/wheels/beta-1.0-py3-none-any.whl",
        "__flash__/wheels/native-1.0-cp312-cp312-manylinux_2_17_x86_64.whl",
    ]


# What is refused


def test_a_package_without_a_wheel_for_the_workers_is_named_with_what_to_do(
    project: Project,
) -> None:
    make_wheel(project.folder / "wheels", "gamma", tag="cp312-cp312-macosx_11_0_arm64")
    project.app("gamma")
    said = project.refused()
    assert "parts needs gamma, which has no wheel for Python 3.12 on x86_64 Linux" in said
    assert 'a line "--no-binary gamma" in requirements.txt' in said
    project.app("./wheels/gamma-1.0-cp312-cp312-macosx_11_0_arm64.whl")
    said = project.refused()
    assert "gamma-1.0-cp312-cp312-macosx_11_0_arm64.whl, on which parts depends" in said
    assert "does not fit Python 3.12 on x86_64 Linux" in said


def test_a_wheel_that_is_kept_by_its_source_alone_is_not_taken(project: Project) -> None:
    """It may be another Python's, and fit no longer."""
    library = project.folder.parent / "lib"
    write(library, LIBRARY)
    name = hashlib.sha256(f"{library} {content_stamp(library)}".encode()).hexdigest()[:24]
    kept = project.folder.parent / "cache" / "flash" / "wheels" / name
    make_wheel(kept, "helper", "2.0", tag="cp39-cp39-manylinux_2_17_x86_64")
    project.app("../lib")
    project.build()
    assert project.lock() == ["__flash__/wheels/helper-2.0-py3-none-any.whl"]


def test_a_wheel_that_was_built_long_ago_is_there_for_the_next_build(project: Project) -> None:
    write(project.folder.parent / "lib", LIBRARY)
    project.app("../lib")
    project.build()
    (wheel,) = (project.folder.parent / "cache" / "flash" / "wheels").glob("*/*.whl")
    os.utime(wheel.parent, (0, 0))
    project.build()
    assert project.lock() == ["__flash__/wheels/helper-2.0-py3-none-any.whl"]
    assert wheel.is_file()


@pytest.mark.slow
@pytest.mark.network
def test_a_package_without_wheels_is_built_by_the_server_if_it_may_be(
    tmp_path: Path,
) -> None:
    project = Project(tmp_path / "shop", tmp_path / "cache")
    write(project.folder, {"requirements.txt": "--no-binary docopt\n"})
    project.app("docopt", "idna")
    project.build()
    assert [line.partition("==")[0] for line in project.lock()] == ["--no-binary", "docopt", "idna"]
    write(project.folder, {"requirements.txt": ""})
    done = project.flash("build")
    assert done.returncode == 1
    assert "parts needs docopt, which has no wheel for Python 3.12" in done.stderr


@pytest.mark.parametrize("given", ["", ".", "/", "wheels", "pipe"])
def test_an_archive_can_be_nothing_but_a_file(project: Project, given: str) -> None:
    project.app()
    os.mkfifo(project.folder / "pipe")
    before = sorted(project.folder.rglob("*"))
    done = project.flash("build", "-o", given)
    assert done.returncode == 2
    said = f"Error: Invalid value for '-o' / '--output': {given!r} is no file that can be written."
    assert done.stderr.splitlines()[0] == said
    assert sorted(project.folder.rglob("*")) == before


def test_an_archive_that_cannot_be_written_leaves_no_part(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, Catalog(str(tmp_path)), (TreeFile("gone.py", "", 0),))
    with pytest.raises(FileNotFoundError):
        artifact.write(tmp_path / "out" / "a.tar.gz")
    assert not list((tmp_path / "out").iterdir())


def test_credentials_stop_a_build_until_their_files_are_allowed(project: Project) -> None:
    project.app()
    write(project.folder, {"conf.py": f"# ours\nKEY = {AWS!r}\n", "prod.env": "A=1\n"})
    said = project.refused()
    assert "conf.py:2 (an AWS access key), prod.env" in said
    assert AWS not in said
    assert "--allow conf.py" in said
    told = json.loads(project.build("--json", "--allow", "conf.py", "--allow", "prod.env"))
    assert told["sha256"] == hashlib.sha256(project.archive.read_bytes()).hexdigest()
    assert {"conf.py", "prod.env"} <= set(told["files"])
    assert told["endpoints"] == [{"name": "parts", "python": "3.12", "packages": {}}]


def test_syntax_errors_of_what_endpoints_import_and_collisions_are_found(
    project: Project,
) -> None:
    project.app(modules="broken")
    write(project.folder, {"broken.py": "VERSION = 1\ndef f(:\n"})
    assert "an endpoint imports what is no Python: broken.py:2: invalid syntax" in project.refused()
    write(project.folder, {"broken.py": "VERSION = 1\n"})
    twice = APP.format(dependencies=[], modules="sys").replace("def parts", "def others")
    write(project.folder, {"twice.py": twice})
    said = project.refused()
    assert "the endpoint 'parts' is declared at app.py:" in said
    assert "nothing was built" in said


# What is deployed


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A server that reaches no index: it has what was sent."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [each for each in os.environ if each.startswith(("UV_", "PIP_"))]:
            patch.delenv(name)
        patch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
        patch.setenv("PIP_CONFIG_FILE", os.devnull)
        folder = tmp_path_factory.mktemp("server")
        with server(folder, tmp_path_factory.mktemp("server-cache")) as running:
            yield running


@pytest.fixture
def here(project: Project, target: Target) -> Iterator[Project]:
    project.env |= target.variables
    yield project
    headers = {"authorization": f"Bearer {target.key}"}
    httpx.delete(f"{target.address}/v2/apps/shop", headers=headers, timeout=60)


def test_local_packages_go_along_and_a_lock_that_stays_builds_nothing(
    here: Project, target: Target
) -> None:
    write(here.folder.parent / "lib", LIBRARY)
    wheel = here.folder / "wheels/alpha-1.5-py3-none-any.whl"
    here.app("-e ../lib", f"alpha @ file://{wheel}", modules="helper, alpha")
    here.deploy()
    assert call(target) == {"helper": "2.0", "alpha": "1.5"}
    blobs = target.blobs()
    write(here.folder, {"app.py": (here.folder / "app.py").read_text() + "# more\n"})
    said = here.deploy()
    assert "environment" not in said.stderr
    assert "packages of" not in said.stdout
    assert target.blobs() == blobs + 1
    write(here.folder.parent / "lib", {"helper.py": "VERSION = 'new'\n"})
    here.deploy()
    assert call(target) == {"helper": "new", "alpha": "1.5"}


@pytest.mark.slow
def test_a_repository_goes_along_as_the_wheel_of_its_commit(
    here: Project, target: Target, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    write(repository / "python", LIBRARY)
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "tag", "v1"], check=True)
    address = f"git+file://{repository}"
    here.app(f"helper @ {address}@v1#subdirectory=python", modules="helper")
    here.deploy()
    assert call(target) == {"helper": "2.0"}
    here.app(f"helper @ {address}@nowhere#subdirectory=python", modules="helper")
    refused = here.flash("deploy")
    assert refused.returncode == 1
    assert f"file://{repository} has no revision 'nowhere'" in refused.stderr


def test_versions_stay_until_an_upgrade_is_asked_for_and_a_preview_tells(
    here: Project, target: Target, tmp_path: Path
) -> None:
    newest = here.folder / "wheels/alpha-1.5-py3-none-any.whl"
    kept = newest.rename(tmp_path / newest.name)
    here.app("alpha", modules="alpha")
    here.deploy()
    kept.rename(newest)
    elsewhere = {"XDG_CACHE_HOME": str(tmp_path / "another-machine")}
    assert "packages of" not in here.deploy(**elsewhere).stdout
    assert call(target) == {"alpha": "1.0"}
    preview = here.deploy("--preview", "--upgrade").stdout
    assert "parts     code or packages changed" in preview
    assert "packages of parts: alpha 1.0 -> 1.5" in preview
    assert "packages of" not in here.deploy("--preview").stdout
    here.app("beta", "alpha", modules="alpha")
    assert "packages of parts: + beta 1.0\n" in here.deploy("--preview").stdout
    here.app("alpha", modules="alpha")
    here.deploy("--upgrade")
    assert call(target) == {"alpha": "1.5"}
    assert here.flash("rollback").returncode == 0
    assert call(target) == {"alpha": "1.0"}


@pytest.mark.slow
def test_a_bundle_works_on_a_server_without_an_index(
    here: Project, target: Target, tmp_path: Path
) -> None:
    wheels = tmp_path / "offered"
    make_wheel(wheels, "alpha")
    with package_index(wheels) as index:
        project = Project(here.folder, tmp_path / "cache-2", index.url)
        project.env |= target.variables
        project.app("alpha", modules="alpha")
        lacking = project.flash("deploy")
        assert lacking.returncode == 1
        assert "bring them with `flash deploy --bundle`" in lacking.stderr
        project.deploy("--bundle")
        assert call(target) == {"alpha": "1.0"}


@pytest.mark.slow
def test_packages_of_an_index_that_needs_a_login_go_along_and_the_login_does_not(
    here: Project, target: Target, tmp_path: Path
) -> None:
    wheels = tmp_path / "private"
    make_wheel(wheels, "inner", "3.0")
    with package_index(wheels, "ada:s3cret") as index:
        project = Project(here.folder, tmp_path / "cache-2", index.url)
        project.env |= target.variables
        project.app("inner", modules="inner")
        project.deploy()
        project.build()
    assert call(target) == {"inner": "3.0"}
    assert not [name for name, data in project.packed().items() if b"s3cret" in data]
    for path in (tmp_path / "cache-2").rglob("*.json"):
        assert "s3cret" not in path.read_text()


# What a server refuses


def test_a_server_refuses_paths_that_lead_out_and_locks_that_are_not_there(
    here: Project, target: Target
) -> None:
    here.app("alpha", modules="alpha")
    here.build()
    manifest = json.loads(here.packed()["__flash__/manifest.json"])
    headers = {"authorization": f"Bearer {target.key}"}
    url = f"{target.address}/v2/apps/shop/environments/production/releases"

    def refusal(files: list[list[object]]) -> str:
        wanted = {"project": "p", "files": files, "catalog": manifest, "by": "x"}
        answer = httpx.post(url, json=wanted, headers=headers)
        assert answer.status_code == 422, answer.text
        return answer.text

    digest = "0" * 64
    lock = manifest["endpoints"][0]["spec"]["build"]["lock"]
    path = f"__flash__/locks/{lock}.txt"
    for bad in ("../x", "/etc/x", "a/../../x", "a//b", "a\\b", "a\0b", "./a", ""):
        assert "no plain path below" in refusal([[bad, digest, False]])
    assert "is a file and a folder" in refusal([["a", digest, False], ["a/b", digest, False]])
    assert "the lock of parts is not among the files" in refusal([["a.py", digest, False]])
    assert "the lock of parts is not among the files" in refusal([[path, digest, False]])


def test_a_server_unpacks_no_wheel_that_leads_out(here: Project, target: Target) -> None:
    wheel = make_wheel(here.folder, "evil")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("../../../planted.py", "x = 1\n")
    here.app(f"./{wheel.name}", modules="evil")
    done = here.flash("deploy")
    assert done.returncode == 1
    assert f"{wheel.name} is not unpacked: '../../../planted.py' leads out of it" in done.stderr
    assert not list(target.home.parent.parent.rglob("planted.py"))
