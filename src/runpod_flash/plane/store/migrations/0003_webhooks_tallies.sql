-- `told`: whether the job's webhook knows of its end, or was given up. Tallies count what has been,
-- also of jobs that are not kept any more.
ALTER TABLE jobs ADD COLUMN told INTEGER NOT NULL DEFAULT 0;

CREATE TABLE tallies (
    endpoint  TEXT PRIMARY KEY,
    completed INTEGER NOT NULL,
    failed    INTEGER NOT NULL,
    retried   INTEGER NOT NULL
);
