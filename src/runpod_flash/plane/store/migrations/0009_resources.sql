-- Resources that are nothing but what was sent, such as templates: JSON, encrypted as variables are.
CREATE TABLE resources (
    kind        TEXT NOT NULL,
    id          TEXT NOT NULL,
    created_at  REAL NOT NULL,
    value       BLOB NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
