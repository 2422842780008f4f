-- Jobs and their streams. Times are seconds since 1970; `number` is the order in the queue.
-- Values are frames (docs/protocol.md): `outcome` says how a job ended, a call what it is made of,
-- apart from the row's own columns. Calls are apart, for a changed row is written anew as a whole.
CREATE TABLE jobs (
    id          TEXT PRIMARY KEY,
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
    outcome     BLOB
);

CREATE TABLE calls (
    job     TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    value   BLOB NOT NULL
);

CREATE TABLE chunks (
    job     TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number  INTEGER NOT NULL,
    value   BLOB NOT NULL,
    PRIMARY KEY (job, number)
);
