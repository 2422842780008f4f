"""`flash cache`: what is kept, and its removal, which spares what programs use."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from behaviour.programs import Programs
from runpod_flash.engines.local.environments.files import FileLock
from unit.command_line import Screen, flash, in_terminal

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

DAY = 86_400
NUMPY, TORCH, EMPTY = "aaaa1111" * 4, "aaaa2222" * 4, "bbbb3333" * 4


class Cache:
    """Environments on disk, as builds leave them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.built = root / "flash" / "built"

    def add(self, key: str, packages: list[str], size: int, unused_days: float) -> None:
        path = self.built / key
        (path / "bin").mkdir(parents=True)
        (path / "bin" / "python").write_text("")
        (path / "pyvenv.cfg").write_text("home = /usr/bin\nversion_info = 3.12.4\n")
        facts = {"requirements": packages, "bytes": size}
        (path / "flash-environment.json").write_text(json.dumps(facts))
        lock = self.lock(key)
        lock.write_text("")
        used = time.time() - unused_days * DAY
        os.utime(lock, (used, used))

    def lock(self, key: str) -> Path:
        return self.built / f"{key}.lock"

    def keys(self) -> set[str]:
        return {path.name for path in self.built.iterdir() if path.is_dir()}

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        given = {"XDG_CACHE_HOME": str(self.root), **env}
        return flash("cache", *words, cwd=self.root, env=given)

    def json(self, *words: str) -> Any:
        ended = self.run(*words, "--json")
        assert (ended.returncode, ended.stderr) == (0, "")
        return json.loads(ended.stdout)

    def typed(self, text: str, *words: str) -> Screen:
        env = {"XDG_CACHE_HOME": str(self.root)}
        return in_terminal("cache", *words, typed=text, cwd=self.root, env=env)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path)
    made.add(NUMPY, ["numpy"], 60_000_000, 2)
    made.add(TORCH, ["torch", "torchvision", "diffusers"], 5_200_000_000, 40)
    made.add(EMPTY, [], 14_000, 0)
    return made


# What is there


def test_environments_are_shown_the_last_used_first(cache: Cache) -> None:
    ended = cache.run()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        "KEY       PYTHON    SIZE  LAST USED    PACKAGES\n"
        "bbbb3333  3.12.4    0 MB  just now     none\n"
        "aaaa1111  3.12.4   60 MB  2 days ago   numpy\n"
        "aaaa2222  3.12.4  5.2 GB  40 days ago  torch, torchvision, diffusers\n"
        "\n"
        f"3 environments, 5.3 GB of at most 20 GB, in {cache.root / 'flash'}\n"
    )


def test_on_a_narrow_terminal_packages_are_counted_and_not_wrapped(cache: Cache) -> None:
    cache.add("c" * 32, [f"package-{number}" for number in range(40)], 1, 3)
    text = cache.typed("").text
    assert re.search(r"package-0, .*, \+3\d$", text, re.MULTILINE)
    assert max(map(len, text.splitlines()[1:5])) <= 80


def test_what_a_program_uses_is_shown_as_in_use_and_its_last_use_stays(cache: Cache) -> None:
    before = cache.lock(NUMPY).stat().st_mtime
    held = FileLock.try_acquire(cache.lock(NUMPY), shared=True)
    assert held is not None
    assert "now, in use  numpy" in cache.run().stdout
    held.release()
    assert "2 days ago   numpy" in cache.run().stdout
    assert cache.lock(NUMPY).stat().st_mtime == before


def test_scripts_get_json(cache: Cache) -> None:
    found = cache.json()
    assert found["path"] == str(cache.root / "flash")
    assert (found["bytes"], found["bound_bytes"]) == (5_260_014_000, 20_000_000_000)
    newest, *_, oldest = found["environments"]
    assert newest["key"] == EMPTY
    assert oldest == {
        "key": TORCH,
        "path": str(cache.built / TORCH),
        "python": "3.12.4",
        "packages": ["torch", "torchvision", "diffusers"],
        "bytes": 5_200_000_000,
        "used_at": cache.lock(TORCH).stat().st_mtime,
        "in_use": False,
    }


def test_without_environments_the_place_and_the_bound_are_shown(tmp_path: Path) -> None:
    ended = Cache(tmp_path).run(FLASH_CACHE_MAX_GB="7")
    assert ended.stdout == f"No environments, 0 MB of at most 7 GB, in {tmp_path / 'flash'}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_bound_that_is_none_is_one_sentence(cache: Cache) -> None:
    ended = cache.run(FLASH_CACHE_MAX_GB="lots")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: FLASH_CACHE_MAX_GB='lots'")


# Removal


def test_declined_nothing_is_removed(cache: Cache) -> None:
    for answer in ("n\n", "\n"):
        screen = cache.typed(answer, "clear")
        assert screen.code == 0
        assert "Remove 3 environments, 5.3 GB? [y/N]" in screen.text
        assert "Nothing was removed." in screen.text
    assert cache.keys() == {NUMPY, TORCH, EMPTY}


def test_with_consent_all_are_removed(cache: Cache) -> None:
    screen = cache.typed("y\n", "clear")
    assert screen.code == 0
    assert "Removed 3 environments: 5.3 GB are free again." in screen.text
    assert list(cache.built.iterdir()) == []


def test_without_a_terminal_consent_is_given_by_an_option(cache: Cache) -> None:
    ended = cache.run("clear")
    assert ended.returncode == 1
    assert "give --yes" in ended.stderr
    assert cache.keys() == {NUMPY, TORCH, EMPTY}
    assert cache.run("clear", "--yes").returncode == 0
    assert cache.keys() == set()


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--unused-days", "30"], {NUMPY, EMPTY}),
        (["--unused-days", "1.5"], {EMPTY}),
        (["--unused-days", "0"], set()),
        (["--unused-days", "99"], {NUMPY, TORCH, EMPTY}),
        (["bbbb"], {NUMPY, TORCH}),
        ([NUMPY, "aaaa2"], {EMPTY}),
        (["bbbb", "bbbb3333"], {NUMPY, TORCH}),
    ],
)
def test_only_what_was_chosen_is_removed(cache: Cache, words: list[str], left: set[str]) -> None:
    assert cache.run("clear", "--yes", *words).returncode == 0
    assert cache.keys() == left


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["aaaa"], 1, "'aaaa' stands for several environments (aaaa1111, aaaa2222)"),
        (["ffff"], 1, "no environment has the key 'ffff'"),
        (["aaaa1", "--unused-days", "1"], 2, "not both"),
        (["--unused-days", "many"], 2, "'many' is not a valid float"),
        (["--unused-days", "-1"], 2, "-1"),
    ],
)
def test_a_wrong_choice_removes_nothing(
    cache: Cache, words: list[str], code: int, sentence: str
) -> None:
    ended = cache.run("clear", "--yes", *words)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert sentence in ended.stderr
    assert cache.keys() == {NUMPY, TORCH, EMPTY}


def test_what_a_program_uses_stays(cache: Cache) -> None:
    held = FileLock.try_acquire(cache.lock(NUMPY), shared=True)
    assert held is not None
    ended = cache.run("clear", "--yes")
    assert ended.returncode == 0
    assert "1 environment in use by a program now: not removed." in ended.stdout
    assert cache.keys() == {NUMPY}
    found = cache.json("clear", "--yes")
    assert found == {"removed": [], "in_use": [NUMPY], "freed_bytes": 0}
    held.release()
    found = cache.json("clear", "--yes")
    assert found == {"removed": [NUMPY], "in_use": [], "freed_bytes": 60_000_000}


def test_json_never_asks(cache: Cache) -> None:
    ended = cache.run("clear", "--json")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "add --yes" in ended.stderr
    assert cache.keys() == {NUMPY, TORCH, EMPTY}


def test_what_killed_builds_left_goes_as_well(cache: Cache) -> None:
    left = cache.built / f".new-{'d' * 32}-00ff"
    left.mkdir()
    (left / "file").write_bytes(bytes(3_000_000))
    assert "Removed 3 environments" in cache.run("clear", "--yes").stdout
    assert not left.exists()
    assert "There is nothing to remove." in cache.run("clear", "--yes").stdout


# With a program


LONG = """
@Endpoint(name="long", cpu=CPU, idle_timeout=600)
def long():
    return sys.prefix

if __name__ == "__main__":
    print(long.call(), flush=True)
    sys.stdin.readline()
"""


def test_the_environment_of_a_running_program_is_spared_and_built_again_later(
    tmp_path: Path,
) -> None:
    cache = Cache(tmp_path / "cache")
    programs = Programs(tmp_path, cache.root)
    with programs.start(LONG, typed=True) as program:
        program.until_printed("/flash/built/")
        (only,) = cache.json()["environments"]
        assert only["in_use"]
        assert only["path"] == program.lines[0].strip()
        assert cache.json("clear", "--yes")["in_use"] == [only["key"]]
        program.type("\n")
        assert program.finish().code == 0
    assert cache.json("clear", "--yes")["removed"] == [only["key"]]
    with programs.start(LONG, typed=True) as program:
        program.until_printed(only["key"])
        program.type("\n")
        assert program.finish().code == 0
