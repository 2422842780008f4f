-- Jobs and their streams. Times are seconds since 1970; `number` is the order in the queue.
-- Values are frames (docs/protocol.md); `call` and `outcome` hold what a job is made of and how it
-- ended, apart from the row's own columns.
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
    call        BLOB NOT NULL,
    outcome     BLOB
);

CREATE TABLE chunks (
    job     TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number  INTEGER NOT NULL,
    value   BLOB NOT NULL,
    PRIMARY KEY (job, number)
);
