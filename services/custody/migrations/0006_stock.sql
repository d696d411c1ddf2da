ALTER TABLE meter_keys ADD COLUMN state TEXT NOT NULL DEFAULT 'ACTIVE';
ALTER TABLE meter_keys ADD COLUMN state_reason TEXT NOT NULL DEFAULT '';
ALTER TABLE meter_keys ADD COLUMN change_us BIGINT NOT NULL DEFAULT 0;
ALTER TABLE meter_keys ADD COLUMN import_id TEXT NOT NULL DEFAULT '';
ALTER TABLE meter_keys ADD COLUMN broadcast_check_value BLOB;
CREATE TABLE unmarked_keys (
    meter_id TEXT NOT NULL PRIMARY KEY
);
INSERT INTO unmarked_keys (meter_id) SELECT meter_id FROM meter_keys WHERE LENGTH(wrapped_encryption_key) > 0;
