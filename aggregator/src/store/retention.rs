//! Days of raw passages: made ahead, dropped when they are old.
//!
//! A flush makes the days that it touches itself; making them ahead only spares it the wait. Any
//! aggregator may do it, one at a time.

use std::time::Duration;

use service::clock::wall_millis;
use service::tasks::TaskSet;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::connect::Target;
use crate::config::RawConfig;
use crate::metrics::Metrics;

const EVERY: Duration = Duration::from_secs(3_600);
/// After a failure, such as a reader that holds the table.
const AGAIN: Duration = Duration::from_secs(60);

/// Any number, the same in every Verst: the advisory lock of this work.
const LOCK: i64 = 0x5645_5253_5400_0002;

/// Days made ahead, today among them.
const DAYS_AHEAD: i32 = 3;

/// Keeps the days in order until `stop`.
pub async fn run(
    target: Target,
    settings: RawConfig,
    tasks: TaskSet,
    metrics: Metrics,
    stop: CancellationToken,
) {
    loop {
        let done = async {
            let client = target.connect("verst-retention", &tasks).await?;
            keep(&client, &settings).await
        };
        let pause = match done.await {
            Ok(dropped) => {
                metrics
                    .raw_days_dropped
                    .inc_by(u64::from(dropped.unsigned_abs()));
                EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "cannot make or drop days of raw passages; trying again");
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
async fn keep(client: &Client, settings: &RawConfig) -> Result<i32, tokio_postgres::Error> {
    client.batch_execute("SET lock_timeout = '5s'").await?;
    let alone: bool = client
        .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
        .await?
        .get(0);
    if !alone {
        return Ok(0);
    }
    let today = i32::try_from(wall_millis().div_euclid(86_400_000)).unwrap_or(i32::MAX);
    let oldest = today - i32::try_from(settings.retention_days).unwrap_or(i32::MAX);
    if settings.enabled {
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
    let row = client
        .query_one("SELECT raw_days_drop('epoch'::date + $1::int4)", &[&oldest])
        .await?;
    Ok(row.get(0))
}
