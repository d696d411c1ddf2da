CREATE TABLE meter (
    meter_id TEXT NOT NULL PRIMARY KEY,
    address TEXT NOT NULL,
    client_sap BIGINT NOT NULL,
    server_sap BIGINT NOT NULL,
    mechanism BIGINT NOT NULL,
    protection BIGINT NOT NULL,
    profile TEXT NOT NULL,
    invocation_counter_name TEXT NOT NULL,
    create_time BIGINT NOT NULL
);
CREATE UNIQUE INDEX meter_address ON meter (address, server_sap);
