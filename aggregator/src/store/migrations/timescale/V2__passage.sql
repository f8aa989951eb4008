-- Raw passages with TimescaleDB: a hypertable with one chunk for each day (UTC) that has any.
-- No unique index: the cursor makes each (stream_key, seq) stand here at most once.
CREATE TABLE passage (
    event_time            timestamptz NOT NULL,
    seq                   int8        NOT NULL,
    device_key            int4        NOT NULL,
    stream_key            int4        NOT NULL,
    speed_ckmh            int4,
    lane                  int2,
    -- 0 approaching, 1 receding, 2 N, 3 NE … 9 NW.
    direction             int2,
    vehicle_class         int2,
    length_cm             int2,
    speed_limit_kmh       int2,
    confidence_permille   int2,
    violation             boolean     NOT NULL,
    plate                 text,
    plate_hash            bytea,
    extra                 jsonb
);
SELECT create_hypertable('passage', by_range('event_time', interval '1 day'), create_default_indexes => false);
CREATE INDEX passage_time ON passage USING brin (event_time);

-- Chunks make themselves.
CREATE FUNCTION raw_days_prepare(days date[]) RETURNS void LANGUAGE sql AS $$ SELECT $$;

-- Drops the chunks of all days before this one; says how many.
CREATE FUNCTION raw_days_drop(before date) RETURNS int4 LANGUAGE sql AS $$
    SELECT count(*)::int4 FROM drop_chunks('passage', (before::timestamp AT TIME ZONE 'UTC'))
$$;
