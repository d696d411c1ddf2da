ALTER TABLE meter_keys ADD COLUMN security_suite BIGINT NOT NULL DEFAULT 0;
ALTER TABLE meter_keys ADD COLUMN mechanisms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE meter_keys ADD COLUMN wrapped_hls_secret BLOB;
ALTER TABLE meter_keys ADD COLUMN sealed_hls_secret BLOB;
ALTER TABLE meter_keys ADD COLUMN wrapped_master_key BLOB;
ALTER TABLE meter_keys ADD COLUMN server_signing_key BLOB;
ALTER TABLE meter_keys ADD COLUMN server_agreement_key BLOB;
ALTER TABLE meter_keys ADD COLUMN row_seal BLOB;
