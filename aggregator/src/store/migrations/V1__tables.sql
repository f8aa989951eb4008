-- The centre's tables, the same on plain PostgreSQL and with TimescaleDB. Raw passages stand in V2.
--
-- Units: ckmh = 0.01 km/h, ms_per_km = milliseconds per kilometre. A missing value is NULL, never 0.
-- Everything that a flush writes is guarded: windows and cursors by `rev`, the whole by `shard_token`.

-- Which database this is, and in which of its lives. One row.
CREATE TABLE centre (
    single_row           boolean     PRIMARY KEY DEFAULT true CHECK (single_row),
    centre_id            uuid        NOT NULL DEFAULT gen_random_uuid(),
    -- Rises when a standby was promoted or a backup restored: what units were told may be gone.
    timeline             int4        NOT NULL DEFAULT 1 CHECK (timeline > 0),
    -- By which a promotion (timeline of the server) and a restored dump (another server) are seen.
    server_id            int8        NOT NULL,
    server_timeline      int8        NOT NULL,
    created_at           timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE device (
    device_key  int4        GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    device      text        NOT NULL UNIQUE CHECK (device ~ '^[A-Za-z0-9_-]{1,64}$'),
    shard       int2        NOT NULL CHECK (shard BETWEEN 0 AND 63),
    -- When the centre first heard of it. Before, it has no data, which is not the same as zero.
    first_seen  timestamptz NOT NULL DEFAULT now()
);

-- The fencing token of each shard. Flushes lock its row FOR SHARE, a new owner raises it and thereby
-- waits for the flush that still runs.
CREATE TABLE shard_token (
    shard  int2 PRIMARY KEY CHECK (shard BETWEEN 0 AND 63),
    token  int8 NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO shard_token (shard) SELECT generate_series(0, 63);

-- Who owns a shard until when, by the clock of the database.
CREATE TABLE shard_lease (
    shard       int2        PRIMARY KEY CHECK (shard BETWEEN 0 AND 63),
    owner       text,
    expires_at  timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);
INSERT INTO shard_lease (shard) SELECT generate_series(0, 63);

-- What of each stream is settled.
CREATE SEQUENCE stream_key AS int4;
CREATE TABLE stream_cursor (
    device_key  int4           NOT NULL REFERENCES device,
    stream      uuid           NOT NULL,
    stream_key  int4           NOT NULL UNIQUE,
    -- In a window or in a side table.
    counted     int8multirange NOT NULL,
    -- Its raw passage is in the database as well.
    stored      int8multirange NOT NULL,
    -- Booked in the ledger and not counted.
    lost        int8multirange NOT NULL,
    accepted_to int8           NOT NULL,
    -- counted and lost together reach from 1 to accepted_to.
    settled     boolean        NOT NULL,
    rev         int4           NOT NULL,
    first_seen  timestamptz    NOT NULL DEFAULT now(),
    updated_at  timestamptz    NOT NULL DEFAULT now(),
    PRIMARY KEY (device_key, stream),
    CHECK (stored <@ counted),
    CHECK (NOT counted && lost)
) WITH (fillfactor = 50);

-- Statistics of one device in one window of event time, UTC: [bucket, bucket + length).
-- Arrays count from 1 for lane 0 or class 0 and end with the last that is not 0; hist[1] is the bin
-- of hist_lo km/h, each bin 1 km/h wide, the bin of 400 km/h open.
CREATE TABLE speed_stats_5m (
    device_key   int4        NOT NULL,
    bucket       timestamptz NOT NULL,
    n            int4        NOT NULL,
    -- With a speed; of at least 1 km/h, those that have a pace; reported as violations.
    n_speed      int4        NOT NULL,
    n_moving     int4        NOT NULL,
    violations   int4        NOT NULL,
    sum_ckmh     int8        NOT NULL,
    sumsq_ckmh2  int8        NOT NULL,
    pace_sum_ms_per_km int8  NOT NULL,
    min_ckmh     int4,
    max_ckmh     int4,
    p15_ckmh     int4,
    p50_ckmh     int4,
    p85_ckmh     int4,
    p95_ckmh     int4,
    hist_lo      int2        NOT NULL,
    hist         int4[]      NOT NULL,
    class_n      int4[]      NOT NULL,
    lane_n       int4[]      NOT NULL,
    lane_n_speed int4[]      NOT NULL,
    lane_sum_ckmh int8[]     NOT NULL,
    rev          int4        NOT NULL,
    -- Changed by a flush after device_status.final_to had passed its end. Otherwise the window is
    -- final when its end <= final_to, and partial before.
    revised      boolean     NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (device_key, bucket),
    CHECK (bucket = date_bin('5 minutes', bucket, 'epoch'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

CREATE TABLE speed_stats_1h (
    LIKE speed_stats_5m INCLUDING DEFAULTS,
    PRIMARY KEY (device_key, bucket),
    CHECK (bucket = date_bin('1 hour', bucket, 'epoch'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

CREATE TABLE speed_stats_24h (
    LIKE speed_stats_5m INCLUDING DEFAULTS,
    PRIMARY KEY (device_key, bucket),
    CHECK (bucket = date_bin('24 hours', bucket, 'epoch'))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- Windows of all devices at one time: maps, totals, exports.
CREATE INDEX speed_stats_5m_bucket ON speed_stats_5m USING brin (bucket) WITH (autosummarize = on);

-- What a unit says of itself, and how far its windows are final.
CREATE TABLE device_status (
    device_key        int4        PRIMARY KEY REFERENCES device,
    -- Everything before it has been counted: windows that end by then are final. Monotone, a
    -- multiple of 5 minutes, never ahead of the centre's clock.
    final_to          timestamptz,
    -- The unit's statement behind it: the highest (run, counter) counts.
    frontier          timestamptz,
    frontier_run      int8        NOT NULL DEFAULT 0,
    frontier_counter  int8        NOT NULL DEFAULT 0,
    -- Two streams advanced by turns: a cloned identity, nothing turns final for a day.
    cloned_at         timestamptz,
    -- 5-minute windows that start before past_to (monotone) change only together with past_changes,
    -- by one per transaction: a copy of them is true for as long as past_changes stands.
    past_to           timestamptz,
    past_changes      int8        NOT NULL DEFAULT 0,
    -- The rest is from the last heartbeat.
    heartbeat_at      timestamptz,
    sent_at           timestamptz,
    backlog_passages  int8,
    backlog_bytes     int8,
    backlog_oldest    timestamptz,
    camera_last_post  timestamptz,
    clock_offset_ms   int8,
    agent_version     text,
    disk_used_bytes   int8,
    disk_quota_bytes  int8,
    disk_free_bytes   int8
) WITH (fillfactor = 50);

-- Passages that no window took, with the reason; their numbers are settled by the cursor.
CREATE TABLE rejected_passage (
    device_key  int4        NOT NULL REFERENCES device,
    stream_key  int4        NOT NULL,
    seq         int8        NOT NULL,
    event_time  timestamptz NOT NULL,
    -- too_old, too_new: beyond the horizon; window_full: above the limit of one window.
    reason      text        NOT NULL CHECK (reason IN ('too_old', 'too_new', 'window_full')),
    -- A summary had brought it into the windows before; only the raw passage came too late.
    counted     boolean     NOT NULL,
    passage     jsonb       NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX rejected_passage_time ON rejected_passage USING brin (received_at);

-- How many were rejected by the day (UTC) of receipt; above the cap they are counted here alone.
CREATE TABLE rejected_day (
    device_key  int4 NOT NULL REFERENCES device,
    day         date NOT NULL,
    passages    int8 NOT NULL,
    kept        int8 NOT NULL,
    PRIMARY KEY (device_key, day)
);

-- What is known to be lost: nothing vanishes silently.
CREATE TABLE loss_ledger (
    device_key  int4        NOT NULL REFERENCES device,
    stream_key  int4        NOT NULL,
    first_seq   int8        NOT NULL,
    last_seq    int8        NOT NULL,
    -- Counted after all, of the last_seq - first_seq + 1 passages.
    recovered   int8        NOT NULL DEFAULT 0,
    -- all: in no window and no table; raw_only: the windows have them.
    scope       text        NOT NULL CHECK (scope IN ('all', 'raw_only')),
    reason      text        NOT NULL CHECK (reason IN ('quota', 'corrupt', 'refused', 'operator', 'vanished', 'centre_lost')),
    event_min   timestamptz,
    event_max   timestamptz,
    booked_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream_key, first_seq, scope),
    CHECK (first_seq BETWEEN 1 AND last_seq),
    CHECK (recovered BETWEEN 0 AND last_seq - first_seq + 1)
);
-- "Is this window complete?": losses of a device over a span of event time.
CREATE INDEX loss_ledger_span ON loss_ledger (device_key, event_max);
