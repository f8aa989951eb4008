-- How complete the statistics are, and what holds them back: for dashboards and reports.
--
-- The words and the rules are those of the REST API (api/answer/reason.rs): a unit that is silent,
-- cloned or behind concerns its own windows and nobody else's.

CREATE VIEW v_backlog AS
SELECT
    r.device,
    r.shard,
    CASE
        WHEN r.cloned THEN 'cloned'
        WHEN r.unheard THEN 'never_heard'
        WHEN r.silent_since IS NOT NULL THEN 'unit_offline'
        WHEN r.waits THEN 'backlog'
    END AS behind,
    r.silent_since,
    r.waits,
    r.backlog_passages,
    r.backlog_bytes,
    r.backlog_oldest,
    r.backlog_newest,
    r.backlog_drain_per_min,
    r.backlog_done_at,
    r.heartbeat_at,
    r.first_seen,
    r.final_to,
    r.open_from
FROM (
    SELECT
        d.device,
        d.shard,
        d.first_seen,
        d.final_to,
        d.heartbeat_at,
        d.backlog_passages,
        d.backlog_bytes,
        d.backlog_oldest,
        d.backlog_newest,
        d.backlog_drain_per_min,
        d.backlog_done_at,
        coalesce(d.cloned_at > now() - interval '24 hours', false) AS cloned,
        d.heartbeat_at IS NULL AND d.frontier IS NULL AND d.final_to IS NULL AS unheard,
        CASE WHEN d.heartbeat_at <= now() - interval '5 minutes' THEN d.heartbeat_at END
            AS silent_since,
        coalesce(d.backlog_passages > 0 AND d.heartbeat_at IS NOT NULL
            AND (d.backlog_oldest IS NULL
                OR d.backlog_oldest < d.heartbeat_at - interval '1 minute'), false) AS waits,
        -- Its camera's largest delay shows in a statement that no backlog held back.
        CASE
            WHEN d.frontier IS NULL OR d.heartbeat_at IS NULL THEN now()
            WHEN d.backlog_passages IS DISTINCT FROM 0
                AND (d.backlog_oldest IS NULL
                    OR date_bin('5 minutes', d.backlog_oldest, 'epoch') <= d.frontier) THEN now()
            ELSE least(now(), d.frontier + (now() - d.heartbeat_at))
        END AS open_from
    FROM v_device d
) r;

COMMENT ON VIEW v_backlog IS 'What each unit holds back, as of its last heartbeat, and whether it is behind.';
COMMENT ON COLUMN v_backlog.device IS 'Name of the unit (kvfv_id).';
COMMENT ON COLUMN v_backlog.shard IS 'Group of units, 0 to 63, owned together by one aggregator.';
COMMENT ON COLUMN v_backlog.behind IS 'Why the unit is behind: cloned, never_heard, unit_offline or backlog, the first that holds; NULL when it is not.';
COMMENT ON COLUMN v_backlog.silent_since IS 'When its last heartbeat arrived, if that is 5 minutes ago or more.';
COMMENT ON COLUMN v_backlog.waits IS 'Whether passages waited that were older than a minute; less is traffic on its way.';
COMMENT ON COLUMN v_backlog.backlog_passages IS 'Passages that waited at the unit for a receipt.';
COMMENT ON COLUMN v_backlog.backlog_bytes IS 'Their size in logical bytes.';
COMMENT ON COLUMN v_backlog.backlog_oldest IS 'The oldest event time among them.';
COMMENT ON COLUMN v_backlog.backlog_newest IS 'The newest event time among them.';
COMMENT ON COLUMN v_backlog.backlog_drain_per_min IS 'Passages by which they became fewer in a minute: receipted less accepted, below 0 while they became more.';
COMMENT ON COLUMN v_backlog.backlog_done_at IS 'When none will wait any more if that goes on; NULL while they do not become fewer.';
COMMENT ON COLUMN v_backlog.heartbeat_at IS 'When that heartbeat arrived, by the clock of the centre.';
COMMENT ON COLUMN v_backlog.first_seen IS 'When the centre first heard of the unit.';
COMMENT ON COLUMN v_backlog.final_to IS 'Windows that end by then are final.';
COMMENT ON COLUMN v_backlog.open_from IS 'Where final_to would stand by now if the unit were heard of and held nothing: later windows may still be filled by its camera.';

CREATE FUNCTION verst_completeness(
    range_from timestamptz,
    range_to   timestamptz DEFAULT now(),
    units      text[]      DEFAULT NULL
) RETURNS TABLE (
    device           text,
    windows          int8,
    windows_final    int8,
    final_share      float8,
    complete         boolean,
    final_to         timestamptz,
    reason           text,
    silent_since     timestamptz,
    backlog_passages int8,
    backlog_oldest   timestamptz,
    backlog_newest   timestamptz,
    backlog_done_at  timestamptz
) LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT
        b.device,
        w.count,
        w.final,
        w.final::float8 / nullif(w.count, 0),
        NOT EXISTS (
            SELECT FROM v_loss l
            WHERE l.device = b.device AND l.scope = 'all' AND l.passages > 0
              AND (l.event_max >= w.first_start OR l.event_max IS NULL)
              AND (l.event_min < w.last_end OR l.event_min IS NULL)
        ),
        b.final_to,
        CASE
            WHEN w.final = w.count THEN NULL
            WHEN b.behind IN ('cloned', 'never_heard') THEN b.behind
            WHEN w.last_end > b.silent_since
                OR (b.silent_since IS NOT NULL
                    AND w.partial_start + interval '5 minutes' <= b.open_from) THEN 'unit_offline'
            WHEN b.waits AND (w.last_end > b.backlog_oldest OR b.backlog_oldest IS NULL)
                AND w.partial_start <= coalesce(b.backlog_newest, b.heartbeat_at) THEN 'backlog'
            ELSE 'open'
        END,
        b.silent_since,
        b.backlog_passages,
        b.backlog_oldest,
        b.backlog_newest,
        b.backlog_done_at
    FROM v_backlog b
    CROSS JOIN LATERAL (
        SELECT
            ceil(extract(epoch FROM greatest(range_from, date_bin('5 minutes', b.first_seen, 'epoch'))) / 300)
                ::int8 AS first,
            ceil(extract(epoch FROM least(range_to, now())) / 300)::int8 AS behind_last,
            coalesce(floor(extract(epoch FROM b.final_to) / 300)::int8, 0) AS settled
    ) n
    CROSS JOIN LATERAL (
        SELECT
            count(*) AS count,
            count(*) FILTER (WHERE s.window_end <= b.final_to) AS final,
            min(s.window_start) FILTER (WHERE (s.window_end <= b.final_to) IS NOT TRUE) AS partial_start
        FROM v_speed_5m s
        WHERE s.device = b.device AND s.window_start >= range_from
          AND s.window_start < least(range_to, date_bin('5 minutes', b.first_seen, 'epoch'))
    ) early
    CROSS JOIN LATERAL (
        SELECT
            early.count + greatest(n.behind_last - n.first, 0) AS count,
            early.final + least(greatest(n.settled - n.first, 0), greatest(n.behind_last - n.first, 0)) AS final,
            range_from AS first_start,
            to_timestamp(n.behind_last * 300) AS last_end,
            coalesce(early.partial_start, to_timestamp(greatest(n.settled, n.first) * 300)) AS partial_start
    ) w
    WHERE units IS NULL OR b.device = ANY (units);
END;

COMMENT ON FUNCTION verst_completeness(timestamptz, timestamptz, text[]) IS
'For each unit (or those named) and the 5-minute windows that start in [range_from, range_to), since the unit was first seen and until now, and earlier ones in which it counted a vehicle: how many there are, how many are final (revised ones among them), their share, whether no passage of that time is known to be lost (complete), and why the others are partial (reason: cloned, never_heard, unit_offline, backlog or open, the first that holds; NULL when all are final). The share of a fleet: sum(windows_final)::float8 / sum(windows). A unit is behind when its reason is neither NULL nor open.';

SELECT verst_roles_grant();
