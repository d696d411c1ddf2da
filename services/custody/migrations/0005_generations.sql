ALTER TABLE meter_keys ADD COLUMN kek_generation BIGINT NOT NULL DEFAULT 1;
ALTER TABLE meter_keys ADD COLUMN row_version BIGINT NOT NULL DEFAULT 1;
ALTER TABLE meter_keys ADD COLUMN ek_generation BIGINT NOT NULL DEFAULT 1;
ALTER TABLE meter_keys ADD COLUMN ak_generation BIGINT NOT NULL DEFAULT 1;
ALTER TABLE meter_keys ADD COLUMN mk_generation BIGINT NOT NULL DEFAULT 1;
ALTER TABLE meter_keys ADD COLUMN bk_generation BIGINT NOT NULL DEFAULT 1;
ALTER TABLE meter_keys ADD COLUMN wrapped_broadcast_key BLOB;
ALTER TABLE meter_keys ADD COLUMN rotation_id TEXT;
ALTER TABLE meter_keys ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;
ALTER TABLE meter_keys ADD COLUMN counter_block BIGINT NOT NULL DEFAULT 0;
ALTER TABLE meter_keys ADD COLUMN reserve_us BIGINT NOT NULL DEFAULT 0;
CREATE TABLE key_generations (
    meter_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    generation BIGINT NOT NULL,
    state TEXT NOT NULL,
    secret BLOB NOT NULL,
    check_value BLOB NOT NULL,
    seal BLOB NOT NULL,
    kek_generation BIGINT NOT NULL,
    next_counter BIGINT NOT NULL,
    last_received BIGINT NOT NULL,
    create_us BIGINT NOT NULL,
    state_us BIGINT NOT NULL,
    PRIMARY KEY (meter_id, kind, generation)
);
CREATE TABLE key_fingerprints (
    fingerprint BLOB NOT NULL PRIMARY KEY,
    meter_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    generation BIGINT NOT NULL,
    create_us BIGINT NOT NULL
);
CREATE INDEX key_fingerprints_meter ON key_fingerprints (meter_id);
