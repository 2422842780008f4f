-- What is deployed. A release never changes but for its state: `preparing` until its workers have
-- started, then `active`, and `replaced` by the next one, or `failed` with a cause. Values of
-- environment variables belong to the environment: a rollback keeps them. Those of secrets are for all
-- of its endpoints, and have none. Values are encrypted, with a key that is not in this file.
CREATE TABLE environments (
    app         TEXT NOT NULL,
    name        TEXT NOT NULL,
    created_at  REAL NOT NULL,
    project     TEXT NOT NULL,
    PRIMARY KEY (app, name)
) WITHOUT ROWID;

CREATE TABLE releases (
    app         TEXT NOT NULL,
    environment TEXT NOT NULL,
    number      INTEGER NOT NULL,
    created_at  REAL NOT NULL,
    created_by  TEXT NOT NULL,
    state       TEXT NOT NULL,
    cause       TEXT NOT NULL,
    files       TEXT NOT NULL,
    catalog     TEXT NOT NULL,
    PRIMARY KEY (app, environment, number),
    FOREIGN KEY (app, environment) REFERENCES environments (app, name) ON DELETE CASCADE
) WITHOUT ROWID;

CREATE TABLE variables (
    app         TEXT NOT NULL,
    environment TEXT NOT NULL,
    endpoint    TEXT NOT NULL,
    name        TEXT NOT NULL,
    value       BLOB NOT NULL,
    set_at      REAL NOT NULL,
    PRIMARY KEY (app, environment, endpoint, name),
    FOREIGN KEY (app, environment) REFERENCES environments (app, name) ON DELETE CASCADE
) WITHOUT ROWID;
