CREATE TABLE resets (
    reset_id TEXT NOT NULL PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    request_digest BLOB NOT NULL,
    meter_id TEXT NOT NULL,
    tier BIGINT NOT NULL,
    reason TEXT NOT NULL,
    ticket TEXT NOT NULL,
    principal TEXT NOT NULL,
    profile TEXT NOT NULL,
    active BIGINT NOT NULL,
    phase TEXT NOT NULL,
    verdict TEXT NOT NULL,
    detail TEXT NOT NULL,
    exit_code BIGINT NOT NULL,
    machine TEXT NOT NULL,
    permit BLOB NOT NULL,
    association_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    last_sequence BIGINT NOT NULL,
    create_us BIGINT NOT NULL,
    update_us BIGINT NOT NULL
);
CREATE UNIQUE INDEX resets_one_per_meter ON resets (meter_id) WHERE active = 1;
CREATE INDEX resets_meter ON resets (meter_id, reset_id);
CREATE TABLE events (
    reset_id TEXT NOT NULL REFERENCES resets (reset_id),
    sequence BIGINT NOT NULL,
    time_us BIGINT NOT NULL,
    kind TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (reset_id, sequence)
);
CREATE TABLE snapshots (
    reset_id TEXT NOT NULL REFERENCES resets (reset_id),
    version BIGINT NOT NULL,
    moment TEXT NOT NULL,
    meter_id TEXT NOT NULL,
    identity TEXT NOT NULL,
    taken_us BIGINT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (reset_id, version)
);
CREATE INDEX snapshots_meter ON snapshots (meter_id, taken_us);
CREATE TABLE records (
    reset_id TEXT NOT NULL REFERENCES resets (reset_id),
    request_id TEXT NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL,
    entry BLOB NOT NULL,
    leaf_index BIGINT
);
CREATE INDEX records_reset ON records (reset_id, number);
