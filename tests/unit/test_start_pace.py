"""How soon the next worker may be started: for a job, and for the minimum alone."""

from __future__ import annotations

from runpod_flash.plane.start_pace import (
    CAPACITY_RETRY_SECONDS,
    KEEP_RETRY_SECONDS,
    START_ATTEMPTS,
    StartPace,
)


def waits(pace: StartPace, clock: float) -> tuple[float, float]:
    """Seconds until a worker may be started for a job, and for the minimum alone."""
    awaited, kept = pace.not_before(awaited=True), pace.not_before(awaited=False)
    return max(round(awaited - clock, 3), 0), max(round(kept - clock, 3), 0)


def test_the_first_worker_may_be_started_at_once() -> None:
    assert waits(StartPace(), 7) == (0, 0)


def test_without_room_a_job_s_worker_is_tried_again_sooner_than_one_for_the_minimum() -> None:
    pace = StartPace()
    pace.refused(100)
    assert waits(pace, 100) == (CAPACITY_RETRY_SECONDS, KEEP_RETRY_SECONDS)
    pace.hurry()
    assert waits(pace, 100) == (0, 0)


def test_workers_that_die_early_are_tried_ever_later_and_then_given_up() -> None:
    pace = StartPace()
    tried = []
    for _ in range(START_ATTEMPTS - 1):
        assert pace.died_early(100)
        tried.append(waits(pace, 100)[0])
    assert tried == sorted(set(tried)) and tried[0] > 0
    assert not pace.died_early(100)
    pace.gave_up(100)
    assert pace.failed_starts == 0
    assert waits(pace, 100)[0] < tried[-1], "jobs that come now have not waited yet"


def test_a_ready_worker_makes_the_failures_before_it_no_longer_in_a_row() -> None:
    pace = StartPace()
    for _ in range(START_ATTEMPTS + 1):
        assert pace.died_early(100)
        pace.started()


def test_setbacks_delay_the_minimum_more_and_more_up_to_a_minute_and_no_job() -> None:
    pace = StartPace()
    seen = []
    for _ in range(30):
        pace.set_back(100)
        seen.append(waits(pace, 100))
    assert [job for job, _ in seen] == [0] * 30
    kept = [keep for _, keep in seen]
    assert kept == sorted(kept) and kept[0] < 1 and kept[-1] == 60
    pace.lasted()
    pace.set_back(100)
    assert waits(pace, 100) == seen[0]


def test_setbacks_are_counted_on_over_jobs_that_were_given_up() -> None:
    pace = StartPace()
    pauses = []
    for _ in range(3):
        pace.gave_up(100)
        pauses.append(waits(pace, 100)[1])
    assert pauses == sorted(set(pauses))


def test_a_new_declaration_forgets_what_became_of_the_old_one() -> None:
    pace = StartPace()
    pace.died_early(100)
    pace.set_back(100)
    pace.begin_anew()
    assert pace == StartPace()
