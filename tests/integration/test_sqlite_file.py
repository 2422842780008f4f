"""The server's file itself: old schemas, foreign and damaged files, copies."""

from __future__ import annotations

import asyncio
import hashlib
import re
import sqlite3
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest

from integration import old_store
from integration.stores import claim, job, lives, new, opened
from runpod_flash.errors import ConfigurationError
from runpod_flash.plane.store.backup import check, copy, put_back
from runpod_flash.plane.store.base import JobState, Outcome
from runpod_flash.plane.store.database import connect, migrations, prepare
from runpod_flash.plane.store.sqlite import SqliteStore

DATA = Path(__file__).parent / "data"
# Of each step, once and for all: files that have had it are not changed by another text of it.
STEPS = {
    "0001_jobs.sql": "9ca71bf838bd2b1f0d04288dd24917cc0210381675071d664371809472ed9f4d",
    "0002_keys.sql": "d5c5f96900a056e45e135935316bd3237a5bbc456434d3f39264ebe8d8627daf",
    "0003_webhooks_tallies.sql": "0c8e29d713413b3a670561703efaf77777dd37865f1176c062f01e434eb32a24",
    "0004_workers.sql": "eee05fa56d67f57cda7b660b018cb085ce92acf7158d33b6e9f02060a469ee89",
    "0005_releases.sql": "45666e8507eeb582764bb6dc976e336b53b3534eb11eaffd5bcdb8121e237f90",
    "0006_browser_sessions.sql": "17ad1f83bdff69e943f33843ce52b910ba6c68cdfdfbb085637e5549383734ca",
    "0007_invitations.sql": "c8c91391a28cfaa2ecd1bc16ce5151bcd8462da0263af7299d8e779fe69954d2",
    "0008_volumes.sql": "9f1db495c47b60af9413514ae73ba4fd2b606d459d8b1877f42f5e835b41a942",
    "0009_resources.sql": "920fbbac7c65ce2fc154602c606e0ef2d2c053232cb6c0190f41a6fa493b3e27",
    "0010_job_keys.sql": "930045468ac30a7bec3bd9180cef9f52adb08f021a51724bce6ab204c63c4d6f",
    "0011_one_row.sql": "111019fd48b4649154a41cd70342d474a5ff6dbaaf2efa28bc2c2c573acf05b9",
}


def left_by(path: Path, dump: Path) -> None:
    with closing(sqlite3.connect(path / "flash.db")) as file:
        file.executescript(dump.read_text())


# Schemas


@pytest.mark.parametrize("dump", sorted(DATA.glob("store-*.sql")), ids=lambda path: path.stem)
def test_a_file_of_an_older_server_is_taken_up_with_all_its_jobs(
    tmp_path: Path, dump: Path
) -> None:
    left_by(tmp_path, dump)
    lives(tmp_path, old_store.check)
    with closing(sqlite3.connect(tmp_path / "flash.db")) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (len(migrations()),)


def test_what_old_files_hold_is_what_a_server_writes_now(tmp_path: Path) -> None:
    lives(tmp_path, old_store.fill, old_store.check)


def test_old_files_and_new_ones_have_the_same_schema(tmp_path: Path) -> None:
    def schema(path: Path) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(path / "flash.db")) as file:
            found = file.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
            return sorted((name, re.sub(r"\s+", " ", sql)) for name, sql in found)

    async def nothing(store: SqliteStore) -> None:
        pass

    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    left_by(tmp_path / "old", DATA / "store-1.sql")
    lives(tmp_path / "old", nothing)
    lives(tmp_path / "new", nothing)
    assert schema(tmp_path / "old") == schema(tmp_path / "new")


def test_no_step_of_the_schema_has_been_changed() -> None:
    folder = files("runpod_flash.plane.store") / "migrations"
    found = {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest()
        for each in folder.iterdir()
        if each.name.endswith(".sql")
    }
    assert found == STEPS, "add a step and its digest here; one that was released stays as it is"
    assert [int(name[:4]) for name in sorted(found)] == list(range(1, len(found) + 1))


def test_a_new_file_has_its_settings_for_life_and_no_reader_writes(tmp_path: Path) -> None:
    path = tmp_path / "flash.db"
    prepare(path)
    with closing(connect(path)) as file:
        settings = ("page_size", "auto_vacuum", "journal_mode", "synchronous", "foreign_keys")
        found = {name: file.execute(f"PRAGMA {name}").fetchone()[0] for name in settings}
    assert found == dict(zip(settings, (4096, 2, "wal", 2, 1), strict=True))
    before = path.read_bytes()
    prepare(path)
    with closing(connect(path)) as file:
        file.execute("SELECT count(*) FROM jobs").fetchone()
    assert path.read_bytes() == before


# Files that are none of ours


def refused(path: Path, sentence: str) -> None:
    before = {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        SqliteStore(path, lambda: 0.0)
    assert "\n" not in str(caught.value)
    left = {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    assert left == before, "it was not touched"


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("dear diary\n" * 1000)
    refused(tmp_path / "notes.txt", r"notes.txt cannot be used as the server's store: file is not")


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    for number, statement in enumerate(
        ["CREATE TABLE things (id)", "CREATE TABLE things (id); PRAGMA user_version=2"]
    ):
        path = tmp_path / f"other-{number}.db"
        with closing(sqlite3.connect(path)) as other:
            other.executescript(statement)
        refused(path, "is another program's database; name another file")


def test_a_newer_versions_file_is_refused(tmp_path: Path) -> None:
    left_by(tmp_path, DATA / "store-3.sql")
    with closing(sqlite3.connect(tmp_path / "flash.db")) as file:
        file.execute("PRAGMA user_version=99")
    refused(tmp_path / "flash.db", r"newer version of Flash \(schema 99.*update this one, or rest")


def test_places_where_no_file_can_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "file" / "flash.db", Path("/proc/flash.db")):
        with pytest.raises(ConfigurationError, match="cannot be used as the server's store"):
            SqliteStore(path, lambda: 0.0)


def test_a_damaged_file_is_refused_and_names_the_remedy(tmp_path: Path) -> None:
    async def fill(store: SqliteStore) -> None:
        await store.submit([new(f"job-{number}", 50_000) for number in range(50)])

    lives(tmp_path, fill)
    path = tmp_path / "flash.db"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    refused(path, r"flash.db cannot be used as the server's store: .*malformed")
    path.write_bytes(content[:500_000] + bytes(500_000) + content[1_000_000:])
    refused(path, r"flash.db is damaged: .*put a backup in its place \(flash server restore\)")
    path.write_bytes(content)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE calls SET value=x'00112233' WHERE job=7")
    with pytest.raises(ConfigurationError, match="is damaged"):
        SqliteStore(path, lambda: 0.0)


# Copies


def test_a_copy_taken_while_jobs_run_is_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path) as store:
            ended = asyncio.Event()

            async def work() -> None:
                number = 0
                while not ended.is_set():
                    number += 1
                    await store.submit([new(f"job-{number}", 20_000)])
                    for found in await claim(store):
                        await store.finish(found.ref, Outcome(JobState.COMPLETED))
                    await store.durable()

            working = asyncio.ensure_future(work())
            counts = []
            for number in range(5):
                target = tmp_path / f"copy-{number}.db"
                counts.append(await asyncio.to_thread(copy, tmp_path / "flash.db", target))
                await asyncio.sleep(0.05)
            ended.set()
            await working
            total = len(await store.recent("e", 100_000))
        assert counts == sorted(counts)
        assert 0 < counts[-1] <= total
        put_back(tmp_path / "copy-2.db", tmp_path / "restored" / "flash.db")
        async with opened(tmp_path / "restored") as again:
            assert len(await again.recent("e", 100_000)) == counts[2]
            for found in await again.recent("e", 100_000):
                assert (await job(again, found.id)).call == new(found.id, 20_000).call

    (tmp_path / "restored").mkdir()
    asyncio.run(scenario())


def test_a_copy_of_a_store_whose_server_was_killed_has_what_its_log_has(tmp_path: Path) -> None:
    left_by(tmp_path, DATA / "store-3.sql")

    async def scenario() -> None:
        async with opened(tmp_path) as store:
            await store.submit([new("in the log")])
            await store.durable()
            for name in ("flash.db", "flash.db-wal"):
                (tmp_path / "killed" / name).write_bytes((tmp_path / name).read_bytes())

    (tmp_path / "killed").mkdir()
    asyncio.run(scenario())
    jobs = copy(tmp_path / "killed" / "flash.db", tmp_path / "copy.db")
    assert jobs == len(old_store.ENDS) + len(old_store.QUEUED) + 5


def test_a_backup_is_not_changed_by_its_restoration(tmp_path: Path) -> None:
    left_by(tmp_path, DATA / "store-3.sql")
    backup = tmp_path / "backup" / "copy.db"
    backup.parent.mkdir()
    copy(tmp_path / "flash.db", backup)
    before = backup.read_bytes()
    put_back(backup, tmp_path / "flash.db")
    assert backup.read_bytes() == before
    assert [each.name for each in backup.parent.iterdir()] == ["copy.db"]


@pytest.mark.parametrize("where", ["nowhere/copy.db", "folder"])
def test_a_copy_that_cannot_be_written_is_one_sentence(tmp_path: Path, where: str) -> None:
    left_by(tmp_path, DATA / "store-3.sql")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigurationError, match=r"flash.db cannot be copied to .*: .+"):
        copy(tmp_path / "flash.db", tmp_path / where)
    assert not list(tmp_path.glob("**/*.part"))


def test_a_copy_replaces_a_copy_and_no_other_file(tmp_path: Path) -> None:
    left_by(tmp_path, DATA / "store-3.sql")
    program = tmp_path / "app.py"
    program.write_text("print('precious')")
    with pytest.raises(ConfigurationError, match=r"app\.py is there, and no copy of a store; name"):
        copy(tmp_path / "flash.db", program)
    assert program.read_text() == "print('precious')"
    (tmp_path / "empty.db").touch()
    for name in ("copy.db", "copy.db", "empty.db"):
        jobs = copy(tmp_path / "flash.db", tmp_path / name)
        assert jobs == check(tmp_path / name) > 0
