-- What a unit says of its backlog: up to when it reaches, and how fast it shrinks.
ALTER TABLE device_status
    ADD COLUMN backlog_newest        timestamptz,
    ADD COLUMN backlog_drain_per_min int8;

CREATE OR REPLACE VIEW v_device AS
SELECT
    d.device,
    d.shard,
    d.first_seen,
    (SELECT max(s.bucket) FROM speed_stats_5m s WHERE s.device_key = d.device_key)
        AS last_window_start,
    t.final_to,
    t.frontier,
    t.heartbeat_at,
    t.backlog_passages,
    t.backlog_bytes,
    t.backlog_oldest,
    t.camera_last_post,
    t.clock_offset_ms,
    t.agent_version,
    t.disk_used_bytes,
    t.disk_quota_bytes,
    t.disk_free_bytes,
    t.cloned_at,
    t.past_to,
    coalesce(t.past_changes, 0) AS past_changes,
    t.backlog_newest,
    t.backlog_drain_per_min,
    -- Within a year: a unit may claim any numbers, and none may make the view fail.
    CASE WHEN t.backlog_passages / nullif(greatest(t.backlog_drain_per_min, 0), 0) < 366 * 1440 THEN
        t.heartbeat_at + t.backlog_passages / t.backlog_drain_per_min::float8 * interval '1 min'
    END AS backlog_done_at
FROM device d
LEFT JOIN device_status t USING (device_key);

COMMENT ON COLUMN v_device.backlog_newest IS 'The newest event time among them.';
COMMENT ON COLUMN v_device.backlog_drain_per_min IS 'Passages by which they became fewer in a minute: receipted less accepted, below 0 while they became more.';
COMMENT ON COLUMN v_device.backlog_done_at IS 'When none will wait any more if that goes on; NULL while they do not become fewer, or when it would take more than a year.';
