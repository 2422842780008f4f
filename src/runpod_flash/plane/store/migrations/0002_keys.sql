-- Who may use the server. Of a key and of a setup link's token only the hash is kept. Times are
-- seconds since 1970; `endpoints` is a JSON list, empty for all endpoints.
CREATE TABLE keys (
    id          TEXT PRIMARY KEY,
    hash        BLOB NOT NULL UNIQUE,
    name        TEXT NOT NULL UNIQUE,
    ending      TEXT NOT NULL,
    scope       TEXT NOT NULL,
    endpoints   TEXT NOT NULL,
    created_at  REAL NOT NULL,
    expires_at  REAL,
    used_at     REAL
) WITHOUT ROWID;

CREATE TABLE setup_links (
    hash        BLOB PRIMARY KEY,
    expires_at  REAL NOT NULL
) WITHOUT ROWID;
