//! Whether a commit may still be lost: a standby that could be promoted and that commits do not wait
//! for.
//!
//! Receipts let units forget. Where an asynchronous standby takes the primary's place, what was
//! receipted and not replicated is gone; the units offer again what they still hold, and the rest is
//! booked as `centre_lost`. So the aggregator is not ready while there is such a standby, unless the
//! operator accepts it ([`crate::config::DatabaseConfig::accept_async_standby`]).
//!
//! A look every few seconds on a connection of its own; it changes nothing and closes no intake.

use std::time::Duration;

use service::ops::{Condition, Health};
use service::tasks::TaskSet;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use super::connect::{ConnectionError, Target, answered};

/// Whether commits wait for every standby that could be promoted, as `/readyz` shows it.
pub const CONDITION: &str = "standby";

/// From one look to the next, and until one counts as failed.
const EVERY: Duration = Duration::from_secs(5);

/// Whoever receives the log to promote it: no backup, no archiver, no logical subscriber. Without the
/// right to see how a standby is waited for, the settings tell.
const LOOK: &str = "
    SELECT count(*)::int8, min(application_name)
    FROM pg_stat_replication r
    WHERE state IS DISTINCT FROM 'backup'
      AND coalesce(application_name, '') NOT IN ('pg_basebackup', 'pg_receivewal')
      AND NOT EXISTS (SELECT FROM pg_replication_slots s
                      WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
      AND (coalesce(sync_state IN ('async', 'potential'),
              current_setting('synchronous_standby_names') = '')
          OR current_setting('synchronous_commit') IN ('off', 'local'))";

/// Looks until `stop`.
pub async fn run(target: Target, tasks: TaskSet, health: Health, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let watched = async {
            let client = target.connect("verst-standby", &tasks).await?;
            watch(&client, &health).await
        };
        tokio::select! {
            () = stop.cancelled() => return,
            Err(error) = watched => tracing::debug!(%error, "cannot look for standbys"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Ends with the connection.
async fn watch(client: &Client, health: &Health) -> Result<(), ConnectionError> {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        let row = answered(EVERY, client.query_one(LOOK, &[])).await?;
        let (standbys, first): (i64, Option<String>) = (row.get(0), row.get(1));
        health.set(CONDITION, condition(standbys, first.as_deref()));
    }
}

fn condition(standbys: i64, first: Option<&str>) -> Condition {
    if standbys == 0 {
        return Condition::Ok;
    }
    Condition::NotReady(format!(
        "{standbys} standbys are asynchronous ({}): name them in synchronous_standby_names, or \
         accept in database.accept_async_standby that a promotion loses what was confirmed",
        first.unwrap_or("unnamed")
    ))
}
