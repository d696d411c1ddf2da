CREATE TABLE rotations (
    rotation_id TEXT NOT NULL PRIMARY KEY,
    meter_id TEXT NOT NULL,
    key_bits BIGINT NOT NULL,
    agreed BIGINT NOT NULL,
    state TEXT NOT NULL,
    sealed_send BLOB NOT NULL,
    sealed_confirm BLOB NOT NULL,
    kek_generation BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    openings BIGINT NOT NULL,
    openings_us BIGINT NOT NULL,
    detail TEXT NOT NULL,
    create_us BIGINT NOT NULL,
    state_us BIGINT NOT NULL
);
CREATE UNIQUE INDEX rotations_one_per_meter ON rotations (meter_id) WHERE state IN ('new', 'unsettled');
