"""Workers' logs: their order, their bound on the disk, their readers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from runpod_flash.links.base import LogLine
from runpod_flash.plane.events import EventStream, Logged, Notice, WorkerEnded, WorkerStarted
from runpod_flash.plane.logs.reading import LogQuery
from runpod_flash.plane.logs.record import Cursor, microseconds, parse_cursor, timestamp
from runpod_flash.plane.logs.segments import LogBounds, file_name
from runpod_flash.plane.logs.worker_logs import WorkerLogs
from runpod_flash.testing import ManualClock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from runpod_flash.plane.logs.record import LogRecord


class Kept:
    """Logs in a folder, and short words for tests."""

    def __init__(self, root: Path, bounds: LogBounds = LogBounds(), lines: int = 100) -> None:  # noqa: B008
        self.root = root
        self.clock = ManualClock(1_780_000_000.0)
        self.events = EventStream()
        self.logs = WorkerLogs(
            root, self.events, {"job-1": "request-1"}.get, bounds, self.clock, lines  # type: ignore[arg-type]
        )  # fmt: skip

    def write(self, worker: str, *lines: str, job: str = "") -> None:
        for line in lines:
            self.clock.advance(0.001)
            endpoint = worker.rpartition("-")[0]
            self.events.publish(Logged(endpoint, LogLine(worker, line, job)))

    def read(self, endpoint: str = "", **asked: object) -> list[str]:
        async def whole() -> list[str]:
            query = LogQuery(endpoint, **asked)  # type: ignore[arg-type]
            return [record.text async for batch in self.logs.read(query) for record in batch]

        return asyncio.run(whole())

    def records(self, **asked: object) -> Sequence[LogRecord]:
        return asyncio.run(self.logs.tail(LogQuery(**asked)))  # type: ignore[arg-type]

    def bytes(self) -> int:
        return sum(path.stat().st_size for path in self.root.rglob("*.jsonl"))


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "logs")


def test_the_last_lines_of_a_worker_are_read_in_their_order(kept: Kept) -> None:
    kept.write("a-1", *map(str, range(10)))
    kept.write("a-2", "other")
    assert kept.read("a", worker="a-1", tail=3) == ["7", "8", "9"]
    assert kept.read("a", worker="a-1", tail=0) == []


def test_the_lines_of_all_workers_of_an_endpoint_are_merged_by_time(kept: Kept) -> None:
    for number in range(6):
        kept.write(f"a-{number % 2}", str(number))
        kept.write("b-1", "elsewhere")
    assert kept.read("a") == ["0", "1", "2", "3", "4", "5"]
    assert kept.read("a", tail=4) == ["2", "3", "4", "5"]
    assert len(kept.read()) == 12


def test_a_line_names_its_job_and_the_request_that_made_it(kept: Kept) -> None:
    kept.write("a-1", "hello", job="job-1")
    kept.write("a-1", "outside of jobs")
    first, second = (record.fields() for record in kept.records())
    assert (first["job"], first["requestId"], first["worker"]) == ("job-1", "request-1", "a-1")
    assert "job" not in second
    assert "requestId" not in second


def test_what_became_of_a_worker_stands_between_its_lines(kept: Kept) -> None:
    kept.events.publish(WorkerStarted("a", "a-1"))
    kept.write("a-1", "hello")
    kept.events.publish(Notice("a", "a runs on the CPU"))
    kept.events.publish(WorkerEnded("a", "a-1", "exited with code 1"))
    assert kept.read("a") == ["started", "hello", "a runs on the CPU", "exited with code 1"]
    assert kept.read("a", source="container") == ["hello"]
    assert kept.read("a", worker="a-1", source="system") == ["started", "exited with code 1"]


def test_reading_goes_on_after_a_cursor_without_gap_or_repetition(kept: Kept) -> None:
    for number in range(8):
        kept.write(f"a-{number % 3}", str(number))
    cursor = kept.records()[4].cursor
    assert kept.read("a", after=cursor) == ["5", "6", "7"]
    assert kept.read("a", after=Cursor()) == [str(number) for number in range(8)]


def test_logs_outlive_the_server(kept: Kept) -> None:
    kept.write("a-1", "before")
    kept.logs.close()
    again = Kept(kept.root)
    again.clock.advance(60)
    again.write("a-2", "after")
    assert again.read("a") == ["before", "after"]
    assert again.logs.has("a", "a-1")
    assert again.logs.endpoint_of("a-1") == "a"


def test_what_is_over_the_bound_goes_the_oldest_first(tmp_path: Path) -> None:
    kept = Kept(tmp_path, LogBounds(max_bytes=200_000, piece_bytes=20_000))
    for number in range(60):
        kept.write(f"a-{number % 3}", *[f"{number} {'x' * 80}"] * 50)
        kept.read("a", tail=1)
    assert kept.bytes() <= 200_000
    left = kept.read("a", after=Cursor())
    assert left[-1].startswith("59 ")
    assert not left[0].startswith("0 ")
    numbers = [int(line.split()[0]) for line in left]
    assert numbers == sorted(numbers)


def test_many_small_files_are_bounded_too(tmp_path: Path) -> None:
    kept = Kept(tmp_path, LogBounds(max_files=10))
    for number in range(40):
        kept.write(f"a-{number}", "a line")
    kept.read()
    assert len([*tmp_path.rglob("*.jsonl")]) == 10
    assert kept.read("a") == ["a line"] * 10


def test_lines_grow_too_old(tmp_path: Path) -> None:
    kept = Kept(tmp_path, LogBounds(max_seconds=100))
    kept.write("a-1", "old")
    kept.clock.advance(101)
    kept.write("b-1", "new")
    assert kept.read() == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_the_files_are_for_nobody_else(kept: Kept) -> None:
    kept.write("a-1", "hello")
    kept.read()
    assert kept.root.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a.b", "_", "ü" * 200, "x" * 300])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    kept = Kept(tmp_path / "logs")
    kept.events.publish(Logged(name, LogLine(f"{name}-1", "hello")))
    assert kept.records(endpoint=name)[0].endpoint == name
    (file,) = tmp_path.rglob("*.jsonl")
    assert file.parent.parent == tmp_path / "logs"


def test_two_names_never_share_a_file() -> None:
    names = ["", "_", "a", "a.b", "a%2Eb", "..", "x" * 300, "x" * 301, "_a", "%"]
    assert len({file_name(name) for name in names}) == len(names)


def test_a_damaged_line_is_passed_over(kept: Kept) -> None:
    kept.write("a-1", "one")
    kept.read()
    (file,) = kept.root.rglob("*.jsonl")
    with file.open("a") as stream:
        stream.write("not json\n{}\n")
    kept.write("a-1", "two")
    assert kept.read("a") == ["one", "two"]


def test_a_follower_gets_what_is_kept_and_then_what_is_written(kept: Kept) -> None:
    async def whole() -> None:
        kept.write("a-1", "before")
        query = LogQuery("a", follow=True)
        follower = kept.logs.follower(query)
        batches = kept.logs.read(query, follower)
        assert [record.text for record in await anext(batches)] == ["before"]
        kept.write("a-1", "after")
        kept.write("b-1", "elsewhere")
        assert [record.text for record in await anext(batches)] == ["after"]
        kept.logs.leave(follower)

    asyncio.run(whole())


def test_what_is_written_while_the_kept_lines_are_read_comes_once(kept: Kept) -> None:
    async def whole() -> None:
        query = LogQuery("a", follow=True)
        follower = kept.logs.follower(query)
        kept.write("a-1", "meanwhile")
        batches = kept.logs.read(query, follower)
        assert [record.text for record in await anext(batches)] == ["meanwhile"]
        kept.write("a-1", "after")
        assert [record.text for record in await anext(batches)] == ["after"]

    asyncio.run(whole())


def test_a_reader_that_leaves_while_lines_are_written_out_disturbs_nobody(kept: Kept) -> None:
    async def whole() -> None:
        for _ in range(20):
            leaving = asyncio.ensure_future(kept.logs.tail(LogQuery("a")))
            await asyncio.sleep(0)
            leaving.cancel()
        kept.write("a-1", "after")
        assert len(await kept.logs.tail(LogQuery("a"))) == 1

    asyncio.run(whole())


def test_a_disk_that_takes_nothing_costs_the_lines_and_no_more(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.root.joinpath("a").write_text("a file where the folder should be")
    kept.write("a-1", "lost")
    kept.write("b-1", "kept")
    assert kept.read("b") == ["kept"]
    assert "1 lines of a-1 were not kept" in caplog.text
    kept.root.joinpath("a").unlink()
    kept.write("a-1", "again")
    assert kept.read("a") == ["again"]


def test_a_follower_that_is_too_far_behind_is_cut_off(kept: Kept) -> None:
    async def whole() -> None:
        slow, other = (kept.logs.follower(LogQuery("a")) for _ in range(2))
        kept.write("a-1", *map(str, range(60)))
        assert len(await other.next()) == 60
        kept.write("a-1", *map(str, range(60)))
        await asyncio.sleep(0)
        assert slow.cut.is_set()
        assert not other.cut.is_set()

    asyncio.run(whole())


def test_a_clock_that_is_set_back_does_not_turn_the_order_around(kept: Kept) -> None:
    kept.write("a-1", "first")
    kept.clock.now -= 3600
    kept.write("a-1", "second")
    assert kept.read("a") == ["first", "second"]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:01Z", 1_000_000),
        ("1970-01-01T00:00:01.5Z", 1_500_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01t00:00:00.123456789z", 123_456),
    ],
)
def test_times_are_read_in_all_their_forms(text: str, at: int) -> None:
    assert microseconds(text) == at


@pytest.mark.parametrize("text", ["", "yesterday", "12", "2026-13-01T00:00:00Z", "2026-06-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"time|date|month"):
        microseconds(text)


def test_a_cursor_is_read_as_it_was_written_and_without_its_number() -> None:
    cursor = Cursor(1_780_000_000_123_456, 42)
    assert parse_cursor(str(cursor)) == cursor
    bare = parse_cursor(timestamp(cursor.at))
    assert bare > cursor
    assert bare < Cursor(cursor.at + 1, 0)
