CREATE TABLE meter_keys (
    meter_id TEXT NOT NULL PRIMARY KEY,
    client_system_title BLOB NOT NULL,
    server_system_title BLOB NOT NULL,
    wrapped_encryption_key BLOB NOT NULL,
    sealed_authentication_key BLOB NOT NULL,
    sealed_password BLOB NOT NULL,
    check_value BLOB NOT NULL,
    source TEXT NOT NULL,
    next_counter BIGINT NOT NULL,
    last_received BIGINT NOT NULL,
    create_us BIGINT NOT NULL
);
CREATE TABLE permits (
    permit_id TEXT NOT NULL PRIMARY KEY,
    body_digest BLOB NOT NULL,
    associations BIGINT NOT NULL,
    first_open_us BIGINT NOT NULL
);
CREATE TABLE permit_uses (
    permit_id TEXT NOT NULL,
    command_index BIGINT NOT NULL,
    use_number BIGINT NOT NULL,
    invocation_counter BIGINT NOT NULL,
    use_us BIGINT NOT NULL,
    PRIMARY KEY (permit_id, command_index, use_number)
);
CREATE TABLE outbox (
    request_id TEXT NOT NULL PRIMARY KEY,
    entry BLOB NOT NULL
);
