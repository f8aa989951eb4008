//! What is dropped when it is old: days of raw passages, rejected passages, the history of answers, the
//! cursors of streams that ended. And what the views must know of the settings.
//!
//! Days beyond the horizon move to a columnstore, where the server has one: whatever is late has its day
//! before that, and rows in a columnstore are dear to change. Days of raw passages are made ahead as well.
//! A flush makes those that it touches itself; making them ahead only spares it the wait. Any aggregator
//! may do it, one at a time. What is old is old by the clock of the database: one machine's own may be
//! wrong, and what is dropped is gone.
//!
//! Invariants: `history_kept` says how far the history reaches before anything of it is deleted; no
//! cursor is forgotten of whose passages a window above `cursor_floor` may hold any.

use std::time::Duration;

use service::tasks::TaskSet;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::connect::{Target, answered};
use crate::config::{RawConfig, StoreConfig};
use crate::metrics::Metrics;

/// From one pass to the next, and until one counts as failed.
const EVERY: Duration = Duration::from_secs(3_600);
/// After a failure, such as a reader that holds the table.
const AGAIN: Duration = Duration::from_secs(60);

/// Any number, the same in every Verst: the advisory lock of this work.
const LOCK: i64 = 0x5645_5253_5400_0002;

/// Days made ahead, today among them.
const DAYS_AHEAD: i32 = 3;

/// Rows of the history deleted at a time: neither locks nor snapshots last long.
const BATCH_ROWS: i64 = 5_000;

/// Versions that ended before the kept time.
const OLD_VERSIONS: &str = "
    DELETE FROM speed_history WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM speed_history
        WHERE valid_to <= (SELECT kept_from FROM history_kept) LIMIT $1))";

/// The last entry of each unit before the kept time still says how the kept time began.
const OLD_FINALITY: &str = "
    DELETE FROM finality_log WHERE ctid = ANY (ARRAY(
        SELECT l.ctid FROM finality_log l
        WHERE l.at < (SELECT kept_from FROM history_kept)
          AND EXISTS (
              SELECT FROM finality_log later
              WHERE later.device_key = l.device_key AND later.at > l.at
                AND later.at <= (SELECT kept_from FROM history_kept))
        LIMIT $1))";

/// Keeps the days in order until `stop`.
pub async fn run(
    target: Target,
    raw: RawConfig,
    store: StoreConfig,
    horizon_days: u32,
    tasks: TaskSet,
    metrics: Metrics,
    stop: CancellationToken,
) {
    loop {
        let done = async {
            let client = target.connect("verst-retention", &tasks).await?;
            let pass = async {
                let dropped = keep(&client, &raw, &store).await?;
                if raw.enabled && raw.columnstore {
                    let until = before(today(&client).await?, horizon_days);
                    // A day may take minutes. Left in the middle, the server ends or undoes it by itself.
                    tokio::select! {
                        () = stop.cancelled() => {}
                        packed = pack(&client, until) => packed?,
                    }
                }
                Ok(dropped)
            };
            answered(EVERY, pass).await
        };
        let pause = match done.await {
            Ok(dropped) => {
                metrics
                    .raw_days_dropped
                    .inc_by(u64::from(dropped.unsigned_abs()));
                EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "cannot drop what is old, or make days of raw passages; trying again");
                AGAIN
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Makes and drops days once. Says how many were dropped; none when another is at it.
async fn keep(
    client: &Client,
    raw: &RawConfig,
    store: &StoreConfig,
) -> Result<i32, tokio_postgres::Error> {
    client.batch_execute("SET lock_timeout = '5s'").await?;
    let alone: bool = client
        .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
        .await?
        .get(0);
    if !alone {
        return Ok(0);
    }
    let today = today(client).await?;
    let oldest = before(today, raw.retention_days);
    if raw.enabled {
        let days: Vec<i32> = (today..today + DAYS_AHEAD).collect();
        let prepare = "SELECT raw_days_prepare(ARRAY(
            SELECT 'epoch'::date + day FROM unnest($1::int4[]) AS day))";
        client.execute(prepare, &[&days]).await?;
    }
    let old = "DELETE FROM rejected_passage
               WHERE received_at < ('epoch'::date + $1::int4)::timestamp AT TIME ZONE 'UTC'";
    client.execute(old, &[&oldest]).await?;
    client
        .execute(
            "DELETE FROM rejected_day WHERE day < 'epoch'::date + $1::int4",
            &[&oldest],
        )
        .await?;
    forget_history(client, store.history_days).await?;
    forget_streams(client, store.streams_days.max(raw.retention_days + 1)).await?;
    state_limit(client, store.unexplained_after_minutes).await?;
    let row = client
        .query_one("SELECT raw_days_drop('epoch'::date + $1::int4)", &[&oldest])
        .await?;
    Ok(row.get(0))
}

/// Today (UTC) by the database's clock, as days since 1970.
async fn today(client: &Client) -> Result<i32, tokio_postgres::Error> {
    let today = "SELECT (now() AT TIME ZONE 'UTC')::date - 'epoch'::date";
    Ok(client.query_one(today, &[]).await?.get(0))
}

/// The day so many days before.
fn before(day: i32, days: u32) -> i32 {
    day.saturating_sub(i32::try_from(days).unwrap_or(i32::MAX))
}

/// Moves the days before this one (since 1970) to the columnstore, one after the other.
pub(crate) async fn pack(client: &Client, before: i32) -> Result<(), tokio_postgres::Error> {
    let pack = "SELECT raw_day_pack('epoch'::date + $1::int4)";
    while client.query_one(pack, &[&before]).await?.get::<_, i32>(0) > 0 {}
    Ok(())
}

/// Forgets what was settled of streams that ended so many days ago, which must be more than the
/// horizon: settled, no longer spoken of by their unit, and without a passage in any window since. The
/// floor rises before, so that nobody counts their passages again.
pub(crate) async fn forget_streams(
    client: &Client,
    days: u32,
) -> Result<(), tokio_postgres::Error> {
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    let before = "now() - make_interval(days => $1)";
    let any = format!("SELECT EXISTS (SELECT {})", ended(before));
    while client.query_one(&any, &[&days]).await?.get(0) {
        // Flushes under way took the floor to be where it is; those after them see it raised.
        let begin = "BEGIN; SELECT shard FROM shard_token ORDER BY shard FOR UPDATE";
        client.batch_execute(begin).await?;
        let raise = format!("UPDATE cursor_floor SET floor = greatest(floor, {before})");
        client.execute(&raise, &[&days]).await?;
        let forget = format!(
            "DELETE FROM stream_cursor WHERE ctid = ANY (ARRAY(SELECT c.ctid {} LIMIT $1))",
            ended("(SELECT floor FROM cursor_floor)")
        );
        client.execute(&forget, &[&BATCH_ROWS]).await?;
        client.batch_execute("COMMIT").await?;
    }
    Ok(())
}

/// Selects streams all of whose passages happened before a time: none of a stream is newer than an
/// hour after its cursor was last written, which is as far ahead of the clock as windows reach.
fn ended(before: &str) -> String {
    format!(
        "FROM stream_cursor c
         WHERE c.settled AND c.updated_at < {before} - interval '2 hours'
           AND NOT EXISTS (SELECT FROM device_status t
                           WHERE t.device_key = c.device_key AND c.stream = ANY (t.inventory_stream))"
    )
}

/// Tells the views after how long a unit's word explains nothing any more.
pub(crate) async fn state_limit(
    client: &Client,
    unexplained_after_minutes: u32,
) -> Result<(), tokio_postgres::Error> {
    let minutes = i32::try_from(unexplained_after_minutes).unwrap_or(i32::MAX);
    let state = "UPDATE ledger_limit SET unexplained_after = make_interval(mins => $1)
                 WHERE unexplained_after <> make_interval(mins => $1)";
    client.execute(state, &[&minutes]).await.map(drop)
}

/// Deletes what of the history is older than so many days.
pub(crate) async fn forget_history(
    client: &Client,
    days: u32,
) -> Result<(), tokio_postgres::Error> {
    let days = i32::try_from(days).unwrap_or(i32::MAX);
    let keep = "UPDATE history_kept
                SET kept_from = greatest(kept_from, now() - make_interval(days => $1))";
    client.execute(keep, &[&days]).await?;
    for old in [OLD_VERSIONS, OLD_FINALITY] {
        while client.execute(old, &[&BATCH_ROWS]).await? >= BATCH_ROWS.unsigned_abs() {}
    }
    Ok(())
}
