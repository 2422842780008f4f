-- A job that has ended when it is first written is one row: its call is in the row itself, and what
-- the rows show is not counted again. Tallies are of those that are not kept any more.
ALTER TABLE jobs ADD COLUMN call BLOB;

UPDATE tallies SET
    completed = completed - (
        SELECT count(*) FROM jobs WHERE endpoint = tallies.endpoint AND state = 'COMPLETED'
    ),
    failed = failed - (
        SELECT count(*) FROM jobs
        WHERE endpoint = tallies.endpoint AND state IN ('FAILED', 'TIMED_OUT')
    ),
    retried = retried - (
        SELECT coalesce(sum(max(attempt - 1, 0)), 0) FROM jobs WHERE endpoint = tallies.endpoint
    );
