CREATE TABLE certificates (
    fingerprint TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    meter_id TEXT NOT NULL,
    security_suite BIGINT NOT NULL,
    not_after_us BIGINT NOT NULL,
    der BLOB NOT NULL,
    create_us BIGINT NOT NULL
);
CREATE INDEX certificates_meter ON certificates (meter_id, kind);
CREATE INDEX certificates_end ON certificates (not_after_us);
CREATE TABLE revocation_lists (
    issuer TEXT NOT NULL PRIMARY KEY,
    this_update_us BIGINT NOT NULL,
    next_update_us BIGINT NOT NULL,
    create_us BIGINT NOT NULL
);
CREATE TABLE revoked_certificates (
    issuer TEXT NOT NULL,
    serial TEXT NOT NULL,
    revoke_us BIGINT NOT NULL,
    PRIMARY KEY (issuer, serial)
);
