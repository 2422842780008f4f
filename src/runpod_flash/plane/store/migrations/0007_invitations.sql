-- Links that make one key each; that of a server's first start is one of them. Of a link's token only
-- the hash is kept. `key_seconds` is for how long the key holds, NULL for ever. Times are seconds since
-- 1970; `endpoints` is a JSON list, empty for all endpoints.
CREATE TABLE invitations (
    id          TEXT PRIMARY KEY,
    hash        BLOB NOT NULL UNIQUE,
    name        TEXT NOT NULL,
    scope       TEXT NOT NULL,
    endpoints   TEXT NOT NULL,
    key_seconds REAL,
    created_at  REAL NOT NULL,
    expires_at  REAL NOT NULL
) WITHOUT ROWID;

INSERT INTO invitations
SELECT 'inv_' || lower(hex(randomblob(6))), hash, 'setup', 'admin', '[]', NULL,
    expires_at - 86400, expires_at
FROM setup_links;

DROP TABLE setup_links;
