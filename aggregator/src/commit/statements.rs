//! The statements of a flush.
//!
//! Windows, cursors and the state of units are written as absolute values, never as sums made by SQL:
//! adding arrays in the database costs ten times as much. Each carries its revision, and changes a row
//! only if that has the revision before.
//!
//! A flush happens at one instant, [`FLUSHED_AT`], taken under the lock by which readers of the past
//! see that a flush is under way ([`crate::store::reader`]): whatever is stamped with a time that has
//! passed when they see no flush is committed.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Statement};

use super::load::READ_WINDOWS;
use crate::intake::rows::COPY_STATEMENT;
use crate::window::rollup::Length;

/// Whoever raises a token waits until the flush that has read it is over. The instant of the flush is
/// taken when the table is locked already, with or without a row.
const LOCK_TOKENS: &str = "
    WITH flush AS MATERIALIZED (
        SELECT set_config('verst.flushed_at', clock_timestamp()::text, true) AS at
    ), tokens AS (
        SELECT shard, token FROM shard_token WHERE shard = ANY($1::int2[]) ORDER BY shard FOR STRENGTH
    )
    SELECT shard, token FROM flush LEFT JOIN tokens ON flush.at IS NOT NULL";

/// The instant of the flush, read once a statement.
const FLUSHED_AT: &str = "(SELECT current_setting('verst.flushed_at')::timestamptz)";

const MINUTE_MS: i64 = 60_000;

const UPSERT_WINDOWS: &str = "
    INSERT INTO TABLE AS w (
        device_key, bucket, n, n_speed, n_moving, violations,
        sum_ckmh, sumsq_ckmh2, pace_sum_ms_per_km, min_ckmh, max_ckmh,
        p15_ckmh, p50_ckmh, p85_ckmh, p95_ckmh, hist_lo,
        hist, class_n, lane_n, lane_n_speed, lane_sum_ckmh, rev, revised, created_at, updated_at)
    SELECT
        u.device_key, u.bucket, u.n, u.n_speed, u.n_moving, u.violations,
        u.sum_ckmh, u.sumsq_ckmh2, u.pace_sum_ms_per_km, u.min_ckmh, u.max_ckmh,
        u.p15, u.p50, u.p85, u.p95, u.hist_lo,
        ($1::int4[])[u.at : u.class_at - 1],
        ($1::int4[])[u.class_at : u.lane_at - 1],
        ($1::int4[])[u.lane_at : u.lane_speed_at - 1],
        ($1::int4[])[u.lane_speed_at : u.until - 1],
        ($2::int8[])[u.sums_at : u.sums_until - 1],
        u.rev, u.revised, FLUSHED_AT, FLUSHED_AT
    FROM unnest(
        $3::int4[], $4::timestamptz[], $5::int4[], $6::int4[], $7::int4[], $8::int4[],
        $9::int8[], $10::int8[], $11::int8[], $12::int4[], $13::int4[],
        $14::int4[], $15::int4[], $16::int4[], $17::int4[], $18::int2[],
        $19::int4[], $20::int4[], $21::int4[], $22::int4[], $23::int4[],
        $24::int4[], $25::int4[], $26::int4[], $27::boolean[]
    ) AS u (
        device_key, bucket, n, n_speed, n_moving, violations,
        sum_ckmh, sumsq_ckmh2, pace_sum_ms_per_km, min_ckmh, max_ckmh,
        p15, p50, p85, p95, hist_lo,
        at, class_at, lane_at, lane_speed_at, until,
        sums_at, sums_until, rev, revised)
    ON CONFLICT (device_key, bucket) DO UPDATE SET
        n = excluded.n, n_speed = excluded.n_speed, n_moving = excluded.n_moving,
        violations = excluded.violations, sum_ckmh = excluded.sum_ckmh,
        sumsq_ckmh2 = excluded.sumsq_ckmh2, pace_sum_ms_per_km = excluded.pace_sum_ms_per_km,
        min_ckmh = excluded.min_ckmh, max_ckmh = excluded.max_ckmh,
        p15_ckmh = excluded.p15_ckmh, p50_ckmh = excluded.p50_ckmh,
        p85_ckmh = excluded.p85_ckmh, p95_ckmh = excluded.p95_ckmh,
        hist_lo = excluded.hist_lo, hist = excluded.hist, class_n = excluded.class_n,
        lane_n = excluded.lane_n, lane_n_speed = excluded.lane_n_speed,
        lane_sum_ckmh = excluded.lane_sum_ckmh, rev = excluded.rev,
        revised = excluded.revised, updated_at = excluded.updated_at
    WHERE w.rev = excluded.rev - 1";

/// Versions that were final, before they are overwritten.
const KEEP_VERSIONS: &str = "
    INSERT INTO speed_history (
        minutes, device_key, bucket, n, n_speed, n_moving, violations,
        sum_ckmh, sumsq_ckmh2, pace_sum_ms_per_km, min_ckmh, max_ckmh,
        p15_ckmh, p50_ckmh, p85_ckmh, p95_ckmh, hist_lo,
        hist, class_n, lane_n, lane_n_speed, lane_sum_ckmh, rev, revised,
        created_at, updated_at, valid_to)
    SELECT
        MINUTES, w.device_key, w.bucket, w.n, w.n_speed, w.n_moving, w.violations,
        w.sum_ckmh, w.sumsq_ckmh2, w.pace_sum_ms_per_km, w.min_ckmh, w.max_ckmh,
        w.p15_ckmh, w.p50_ckmh, w.p85_ckmh, w.p95_ckmh, w.hist_lo,
        w.hist, w.class_n, w.lane_n, w.lane_n_speed, w.lane_sum_ckmh, w.rev, w.revised,
        w.created_at, w.updated_at, FLUSHED_AT
    FROM unnest($1::int4[], $2::timestamptz[], $3::int4[]) AS u (device_key, bucket, rev)
    JOIN TABLE w ON w.device_key = u.device_key AND w.bucket = u.bucket AND w.rev = u.rev";

const LOG_FINALITY: &str = "
    INSERT INTO finality_log (device_key, at, final_to)
    SELECT u.device_key, FLUSHED_AT, u.final_to
    FROM unnest($1::int4[], $2::timestamptz[]) AS u (device_key, final_to)";

const INSERT_CURSORS: &str = "
    INSERT INTO stream_cursor
        (device_key, stream, stream_key, counted, stored, lost, presumed, rowless, accepted_to,
            settled, rev)
    SELECT u.device_key, u.stream::uuid, u.stream_key, u.counted::int8multirange,
        u.stored::int8multirange, u.lost::int8multirange, u.presumed::int8multirange,
        u.rowless::int8multirange, u.accepted_to, u.settled, u.rev
    FROM unnest($1::int4[], $2::text[], $3::int4[], $4::text[], $5::text[], $6::text[],
        $7::text[], $8::text[], $9::int8[], $10::boolean[], $11::int4[])
        AS u (device_key, stream, stream_key, counted, stored, lost, presumed, rowless, accepted_to,
            settled, rev)
    ON CONFLICT DO NOTHING";

const UPDATE_CURSORS: &str = "
    UPDATE stream_cursor c SET
        counted = u.counted::int8multirange, stored = u.stored::int8multirange,
        lost = u.lost::int8multirange, presumed = u.presumed::int8multirange,
        rowless = u.rowless::int8multirange, accepted_to = u.accepted_to, settled = u.settled,
        rev = u.rev, updated_at = now()
    FROM unnest($1::int4[], $2::text[], $3::int4[], $4::text[], $5::text[], $6::text[],
        $7::text[], $8::text[], $9::int8[], $10::boolean[], $11::int4[])
        AS u (device_key, stream, stream_key, counted, stored, lost, presumed, rowless, accepted_to,
            settled, rev)
    WHERE c.stream_key = u.stream_key AND c.rev = u.rev - 1";

const UPSERT_STATUS: &str = "
    INSERT INTO device_status AS s (device_key, final_to, frontier, frontier_run, frontier_counter,
        cloned_at, past_to, past_changes)
    SELECT * FROM unnest($1::int4[], $2::timestamptz[], $3::timestamptz[], $4::int8[], $5::int8[],
        $6::timestamptz[], $7::timestamptz[], $8::int8[])
    ON CONFLICT (device_key) DO UPDATE SET
        final_to = greatest(s.final_to, excluded.final_to), frontier = excluded.frontier,
        frontier_run = excluded.frontier_run, frontier_counter = excluded.frontier_counter,
        cloned_at = excluded.cloned_at, past_to = greatest(s.past_to, excluded.past_to),
        past_changes = s.past_changes + excluded.past_changes";

const UPSERT_HEARTBEATS: &str = "
    INSERT INTO device_status AS s (
        device_key, heartbeat_at, sent_at, backlog_passages, backlog_bytes, backlog_oldest,
        backlog_newest, backlog_drain_per_min, camera_last_post, clock_offset_ms, agent_version,
        disk_used_bytes, disk_quota_bytes, disk_free_bytes, inventory_stream,
        inventory_accepted_to, inventory_held)
    SELECT u.device_key, now(), u.sent_at, u.passages, u.bytes, u.oldest, u.newest,
        u.drain, u.camera, u.clock, u.version, u.used, u.quota, u.free,
        u.streams::uuid[], u.accepted_to::int8[], u.held::int8multirange[]
    FROM unnest($1::int4[], $2::timestamptz[], $3::int8[], $4::int8[], $5::timestamptz[],
        $6::timestamptz[], $7::int8[], $8::timestamptz[], $9::int8[], $10::text[], $11::int8[],
        $12::int8[], $13::int8[], $14::text[], $15::text[], $16::text[])
        AS u (device_key, sent_at, passages, bytes, oldest, newest, drain, camera, clock, version,
            used, quota, free, streams, accepted_to, held)
    ON CONFLICT (device_key) DO UPDATE SET
        heartbeat_at = excluded.heartbeat_at, sent_at = excluded.sent_at,
        backlog_passages = excluded.backlog_passages, backlog_bytes = excluded.backlog_bytes,
        backlog_oldest = excluded.backlog_oldest, backlog_newest = excluded.backlog_newest,
        backlog_drain_per_min = excluded.backlog_drain_per_min,
        camera_last_post = excluded.camera_last_post,
        clock_offset_ms = excluded.clock_offset_ms, agent_version = excluded.agent_version,
        disk_used_bytes = excluded.disk_used_bytes, disk_quota_bytes = excluded.disk_quota_bytes,
        disk_free_bytes = excluded.disk_free_bytes,
        inventory_stream = excluded.inventory_stream,
        inventory_accepted_to = excluded.inventory_accepted_to,
        inventory_held = excluded.inventory_held";

const INSERT_REJECTED: &str = "
    INSERT INTO rejected_passage
        (device_key, stream_key, seq, event_time, reason, counted, passage)
    SELECT u.device_key, u.stream_key, u.seq, u.event_time, u.reason, u.counted, u.passage::jsonb
    FROM unnest($1::int4[], $2::int4[], $3::int8[], $4::timestamptz[], $5::text[], $6::boolean[],
        $7::text[])
        AS u (device_key, stream_key, seq, event_time, reason, counted, passage)";

const UPSERT_REJECTED_DAYS: &str = "
    INSERT INTO rejected_day (device_key, day, passages, kept)
    SELECT u.device_key, 'epoch'::date + u.day, u.passages, u.kept
    FROM unnest($1::int4[], $2::int4[], $3::int8[], $4::int8[])
        AS u (device_key, day, passages, kept)
    ON CONFLICT (device_key, day) DO UPDATE SET
        passages = excluded.passages, kept = excluded.kept";

/// Both name a passage; the time is what the index knows.
const TAKE_REJECTED: &str = "
    DELETE FROM rejected_passage r
    USING unnest($1::int4[], $2::int4[], $3::int8[], $4::timestamptz[])
        AS u (device_key, stream_key, seq, event_time)
    WHERE r.device_key = u.device_key AND r.event_time = u.event_time
        AND r.stream_key = u.stream_key AND r.seq = u.seq";

/// Finds the devices that stand as they did when the plan was made.
const STANDING: &str = "
    SELECT FROM unnest($1::int4[], $2::timestamptz[], $3::timestamptz[])
        AS u (device_key, final_to, cloned_at)
    LEFT JOIN device_status s USING (device_key)
    WHERE s.final_to IS NOT DISTINCT FROM u.final_to
        AND s.cloned_at IS NOT DISTINCT FROM u.cloned_at";

/// Finds the floor while it is where the plan took it to be, or below. Under the lock of the tokens,
/// which whoever raises it takes, too; in a statement of its own, for what a statement sees was decided
/// before it waited for a lock.
const FLOOR: &str = "SELECT FROM cursor_floor WHERE floor <= $1::timestamptz";

const INSERT_LOSSES: &str = "
    INSERT INTO loss_ledger
        (device_key, stream_key, first_seq, last_seq, scope, reason, event_min, event_max, booked_at)
    SELECT u.*, FLUSHED_AT
    FROM unnest($1::int4[], $2::int4[], $3::int8[], $4::int8[], $5::text[], $6::text[],
        $7::timestamptz[], $8::timestamptz[]) AS u";

/// The entry of a stream, a scope and a reason grows until its day (UTC) ends: a unit whose clock is
/// wrong would make one with each flush.
const UPSERT_UNKEPT: &str = "
    WITH news AS MATERIALIZED (
        SELECT * FROM unnest($1::int4[], $2::int4[], $3::int8[], $4::int8[], $5::int8[], $6::text[],
            $7::text[], $8::timestamptz[], $9::timestamptz[])
            AS u (device_key, stream_key, first_seq, last_seq, passages, scope, reason, event_min,
                event_max)
    ), grown AS (
        UPDATE loss_ledger l SET
            first_seq = least(l.first_seq, n.first_seq), last_seq = greatest(l.last_seq, n.last_seq),
            recovered = greatest(l.last_seq, n.last_seq) - least(l.first_seq, n.first_seq)
                - (l.last_seq - l.first_seq - l.recovered) - n.passages,
            event_min = least(l.event_min, n.event_min), event_max = greatest(l.event_max, n.event_max)
        FROM news n
        WHERE l.stream_key = n.stream_key AND l.scope = n.scope AND l.reason = n.reason
            AND l.booked_at >= date_trunc('day', FLUSHED_AT, 'UTC')
        RETURNING l.stream_key, l.scope, l.reason
    ), begun AS (
        INSERT INTO loss_ledger (device_key, stream_key, first_seq, last_seq, recovered, scope, reason,
            event_min, event_max, booked_at)
        SELECT n.device_key, n.stream_key, n.first_seq, n.last_seq,
            n.last_seq - n.first_seq + 1 - n.passages, n.scope, n.reason, n.event_min, n.event_max,
            FLUSHED_AT
        FROM news n
        WHERE NOT EXISTS (SELECT FROM grown g WHERE g.stream_key = n.stream_key
            AND g.scope = n.scope AND g.reason = n.reason)
        RETURNING stream_key
    )
    SELECT stream_key FROM grown UNION ALL SELECT stream_key FROM begun";

/// One entry at most holds any lost number of a scope, so each recovered range is found in one or,
/// where it spans several, in neighbouring entries. Of raw rows those come back that nobody declared:
/// other entries of them may name numbers that they do not hold.
const UPDATE_RECOVERED: &str = "
    UPDATE loss_ledger l SET
        recovered = l.recovered + u.numbers,
        recovered_at = CASE WHEN l.recovered + u.numbers = l.last_seq - l.first_seq + 1
            THEN FLUSHED_AT END
    FROM (
        SELECT l.stream_key, l.first_seq, l.scope, l.reason,
            sum(least(l.last_seq, r.last_seq) - greatest(l.first_seq, r.first_seq) + 1)::int8 AS numbers
        FROM unnest($1::int4[], $2::text[], $3::int8[], $4::int8[])
            AS r (stream_key, scope, first_seq, last_seq)
        JOIN loss_ledger l ON l.stream_key = r.stream_key AND l.scope = r.scope
            AND l.first_seq <= r.last_seq AND l.last_seq >= r.first_seq
            AND (l.scope = 'all' OR l.reason IN ('vanished', 'centre_lost'))
        GROUP BY l.stream_key, l.first_seq, l.scope, l.reason
    ) AS u
    WHERE l.stream_key = u.stream_key AND l.first_seq = u.first_seq AND l.scope = u.scope
        AND l.reason = u.reason";

/// Makes sure that there are partitions for days.
const PREPARE_DAYS: &str = "SELECT raw_days_prepare(ARRAY(
    SELECT 'epoch'::date + day FROM unnest($1::int4[]) AS day))";

/// The prepared statements of a flush.
pub(super) struct Statements {
    pub(super) days: Statement,
    pub(super) copy: Statement,
    pub(super) tokens: Statement,
    pub(super) tokens_alone: Statement,
    pub(super) standing: Statement,
    pub(super) floor: Statement,
    pub(super) reading: BTreeMap<Length, Statement>,
    pub(super) versions: BTreeMap<Length, Statement>,
    pub(super) windows: BTreeMap<Length, Statement>,
    pub(super) new_cursors: Statement,
    pub(super) cursors: Statement,
    pub(super) status: Statement,
    pub(super) finality_log: Statement,
    pub(super) heartbeats: Statement,
    pub(super) rejected: Statement,
    pub(super) rejected_days: Statement,
    pub(super) taken: Statement,
    pub(super) losses: Statement,
    pub(super) unkept: Statement,
    pub(super) recovered: Statement,
}

impl Statements {
    pub(super) async fn prepare(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let stamped = |statement: &str| statement.replace("FLUSHED_AT", FLUSHED_AT);
        let (mut versions, mut windows) = (BTreeMap::new(), BTreeMap::new());
        let mut reading = BTreeMap::new();
        for length in Length::ALL {
            let of_length = |statement: &str| {
                stamped(statement)
                    .replace("TABLE", length.table())
                    .replace("MINUTES", &(length.ms() / MINUTE_MS).to_string())
            };
            reading.insert(length, client.prepare(&of_length(READ_WINDOWS)).await?);
            versions.insert(length, client.prepare(&of_length(KEEP_VERSIONS)).await?);
            windows.insert(length, client.prepare(&of_length(UPSERT_WINDOWS)).await?);
        }
        let lock = |strength: &str| LOCK_TOKENS.replace("STRENGTH", strength);
        Ok(Self {
            days: client.prepare(PREPARE_DAYS).await?,
            copy: client.prepare(COPY_STATEMENT).await?,
            tokens: client.prepare(&lock("SHARE")).await?,
            tokens_alone: client.prepare(&lock("UPDATE")).await?,
            standing: client.prepare(STANDING).await?,
            floor: client.prepare(FLOOR).await?,
            reading,
            versions,
            windows,
            new_cursors: client.prepare(INSERT_CURSORS).await?,
            cursors: client.prepare(UPDATE_CURSORS).await?,
            status: client.prepare(UPSERT_STATUS).await?,
            finality_log: client.prepare(&stamped(LOG_FINALITY)).await?,
            heartbeats: client.prepare(UPSERT_HEARTBEATS).await?,
            rejected: client.prepare(INSERT_REJECTED).await?,
            rejected_days: client.prepare(UPSERT_REJECTED_DAYS).await?,
            taken: client.prepare(TAKE_REJECTED).await?,
            losses: client.prepare(&stamped(INSERT_LOSSES)).await?,
            unkept: client.prepare(&stamped(UPSERT_UNKEPT)).await?,
            recovered: client.prepare(&stamped(UPDATE_RECOVERED)).await?,
        })
    }
}
