-- Browsers in which somebody has signed in to approve logins. Of a session's token only the hash is
-- kept; a session of a key that is no more counts for nothing. Times are seconds since 1970.
CREATE TABLE browser_sessions (
    hash        BLOB PRIMARY KEY,
    key_id      TEXT NOT NULL,
    expires_at  REAL NOT NULL
) WITHOUT ROWID;
