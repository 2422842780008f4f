-- Jobs have numbers for keys, so that new ones are written side by side: an index of their ids would
-- be changed all over the place. Whoever looks for an id knows its key (`plane/store/sqlite.py`).
ALTER TABLE chunks RENAME TO old_chunks;
ALTER TABLE calls RENAME TO old_calls;
ALTER TABLE jobs RENAME TO old_jobs;
ALTER TABLE tallies RENAME TO old_tallies;

CREATE TABLE jobs (
    key         INTEGER PRIMARY KEY,
    id          TEXT NOT NULL,
    number      INTEGER NOT NULL,
    depth       INTEGER NOT NULL,
    endpoint    TEXT NOT NULL,
    state       TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    deaths      INTEGER NOT NULL,
    worker      TEXT NOT NULL,
    created_at  REAL NOT NULL,
    started_at  REAL,
    finished_at REAL,
    told        INTEGER NOT NULL,
    outcome     BLOB
);

CREATE TABLE calls (
    job     INTEGER PRIMARY KEY REFERENCES jobs (key) ON DELETE CASCADE,
    value   BLOB NOT NULL
);

CREATE TABLE chunks (
    job     INTEGER NOT NULL REFERENCES jobs (key) ON DELETE CASCADE,
    number  INTEGER NOT NULL,
    value   BLOB NOT NULL,
    PRIMARY KEY (job, number)
);

CREATE TABLE tallies (
    endpoint  TEXT PRIMARY KEY,
    completed INTEGER NOT NULL,
    failed    INTEGER NOT NULL,
    retried   INTEGER NOT NULL
) WITHOUT ROWID;

INSERT INTO jobs SELECT number, id, number, depth, endpoint, state, attempt, deaths, worker, created_at,
    started_at, finished_at, told, outcome FROM old_jobs;
INSERT INTO calls SELECT number, value FROM old_calls JOIN old_jobs ON job = id;
INSERT INTO chunks SELECT old_jobs.number, old_chunks.number, value
    FROM old_chunks JOIN old_jobs ON job = id;
INSERT INTO tallies SELECT * FROM old_tallies;

DROP TABLE old_chunks;
DROP TABLE old_calls;
DROP TABLE old_jobs;
DROP TABLE old_tallies;
