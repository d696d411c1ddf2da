CREATE TABLE denials (
    request_id TEXT NOT NULL PRIMARY KEY,
    create_us BIGINT NOT NULL,
    entry BLOB NOT NULL
);
