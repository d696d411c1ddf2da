CREATE TABLE entries (
    idx BIGINT NOT NULL PRIMARY KEY,
    body BLOB NOT NULL,
    leaf_hash BLOB NOT NULL,
    meter_id TEXT NOT NULL,
    reset_id TEXT NOT NULL
);
CREATE INDEX entries_meter ON entries (meter_id, idx);
CREATE INDEX entries_reset ON entries (reset_id, idx);
CREATE TABLE checkpoint (
    id BIGINT NOT NULL PRIMARY KEY,
    size BIGINT NOT NULL,
    note TEXT NOT NULL
);
CREATE TABLE receipts (
    scope TEXT NOT NULL,
    request_id TEXT NOT NULL,
    digest BLOB NOT NULL,
    idx BIGINT NOT NULL,
    policy_ids TEXT NOT NULL,
    permit BLOB NOT NULL,
    signature BLOB NOT NULL,
    key_id TEXT NOT NULL,
    PRIMARY KEY (scope, request_id)
);
CREATE TABLE allowlist (
    side BIGINT NOT NULL,
    network TEXT NOT NULL,
    reason TEXT NOT NULL,
    added_by TEXT NOT NULL,
    added_us BIGINT NOT NULL,
    PRIMARY KEY (side, network)
);
CREATE TABLE allowlist_version (
    id BIGINT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL
);
INSERT INTO allowlist_version (id, version) VALUES (1, 1);
