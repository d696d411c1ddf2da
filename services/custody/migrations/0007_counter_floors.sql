CREATE TABLE counter_floors (
    floor_id TEXT NOT NULL PRIMARY KEY,
    meter_id TEXT NOT NULL,
    source TEXT NOT NULL,
    from_counter BIGINT NOT NULL,
    to_counter BIGINT NOT NULL,
    raise_us BIGINT NOT NULL
);
CREATE INDEX counter_floors_meter ON counter_floors (meter_id, raise_us);
