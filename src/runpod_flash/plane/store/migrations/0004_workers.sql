-- Workers that are started elsewhere, and endpoints that only such workers serve. Of a token only
-- the hash is kept. Times are seconds since 1970; `used` says that the worker has come.
CREATE TABLE workers (
    id          TEXT PRIMARY KEY,
    endpoint    TEXT NOT NULL,
    hash        BLOB NOT NULL UNIQUE,
    created_at  REAL NOT NULL,
    used        INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE external_endpoints (
    name        TEXT PRIMARY KEY,
    created_at  REAL NOT NULL
) WITHOUT ROWID;
