CREATE TABLE rotations (
    rotation_id TEXT NOT NULL PRIMARY KEY,
    request_id TEXT NOT NULL UNIQUE,
    request_digest BLOB NOT NULL,
    meter_id TEXT NOT NULL,
    key_bits BIGINT NOT NULL,
    agree BIGINT NOT NULL,
    reason TEXT NOT NULL,
    ticket TEXT NOT NULL,
    principal TEXT NOT NULL,
    active BIGINT NOT NULL,
    state TEXT NOT NULL,
    settled BIGINT NOT NULL,
    verdict TEXT NOT NULL,
    detail TEXT NOT NULL,
    exit_code BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    next_us BIGINT NOT NULL,
    version BIGINT NOT NULL,
    create_us BIGINT NOT NULL,
    update_us BIGINT NOT NULL
);
CREATE UNIQUE INDEX rotations_one_per_meter ON rotations (meter_id) WHERE active = 1;
CREATE INDEX rotations_meter ON rotations (meter_id, rotation_id);
CREATE TABLE rotation_records (
    request_id TEXT NOT NULL PRIMARY KEY,
    rotation_id TEXT NOT NULL REFERENCES rotations (rotation_id),
    number BIGINT NOT NULL,
    entry BLOB NOT NULL,
    leaf_index BIGINT
);
CREATE INDEX rotation_records_rotation ON rotation_records (rotation_id, number);
