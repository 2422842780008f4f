-- Network volumes: what is called by a name is one in each data center. Their files are in the data
-- directory, below their ids.
CREATE TABLE volumes (
    id          TEXT NOT NULL PRIMARY KEY,
    name        TEXT NOT NULL,
    size        INTEGER NOT NULL,
    datacenter  TEXT NOT NULL,
    created_at  REAL NOT NULL,
    UNIQUE (name, datacenter)
) WITHOUT ROWID;
