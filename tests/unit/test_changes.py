"""What of a transaction that failed goes into the next one."""

from __future__ import annotations

from runpod_flash.plane.store.base import Call, Chunk, NewJob, Tally
from runpod_flash.plane.store.changes import Changes
from runpod_flash.plane.store.rows import Row
from runpod_flash.wire.codec import Payload

OLD, NEW = Chunk(0, Payload(b"1")), Chunk(0, Payload(b"2"))


def row(job_id: str = "job") -> Row:
    return Row(NewJob(job_id, "e", Call(Payload(b"[]"))), 1, 1, 0, 1000.0)


def here(_: Row) -> bool:
    return True


def test_chunks_of_a_stream_that_began_anew_meanwhile_are_left_out() -> None:
    job = row()
    failed = Changes({"job": job}, [(job, OLD)])
    job.stream = [NEW]
    merged = failed.followed_by(Changes({"job": job}, [(job, NEW)], [1]), here)
    assert merged == Changes({"job": job}, [(job, NEW)], [1])


def test_jobs_that_are_not_there_any_more_are_left_out_and_their_keys_deleted() -> None:
    job, other = row(), row("other")
    job.stream = other.stream = [OLD]
    failed = Changes({"job": job, "other": other}, [(job, OLD), (other, OLD)])
    merged = failed.followed_by(Changes(gone=[1]), lambda row: row is other)
    assert merged == Changes({"other": other}, [(other, OLD)], gone=[1])


def test_the_later_tally_counts_and_nothing_else_is_lost() -> None:
    failed = Changes(restarted=[1], gone=[2], tallies={"e": Tally(1), "f": Tally(5)})
    later = Changes(restarted=[3], gone=[4], tallies={"e": Tally(2)})
    assert failed.followed_by(later, here) == Changes(
        restarted=[1, 3], gone=[2, 4], tallies={"e": Tally(2), "f": Tally(5)}
    )


def test_a_forgotten_job_is_deleted_before_one_of_its_id_is_written() -> None:
    old, again = row(), row()
    changes = Changes({"job": old}, [(old, OLD)])
    changes.drop(old)
    changes.rows["job"] = again
    statements = [statement.split()[0] for statement, _ in changes.statements(changes.look())]
    assert statements == ["DELETE", "INSERT", "INSERT"]
