CREATE UNIQUE INDEX meter_keys_encryption_key ON meter_keys (wrapped_encryption_key) WHERE LENGTH(wrapped_encryption_key) > 0;
