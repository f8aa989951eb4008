//! What happens to the windows of units that have nothing to do with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use proto::{Bucket, DeviceId, PassageBatch};

use crate::bench::stage::Stage;
use crate::fleet::{Posted, Recorder};
use crate::recompute::Fact;

use super::camera::{SharedLedger, book};

const REVISIONS: &str = "SELECT d.device, (extract(epoch FROM w.bucket) * 1000)::int8, w.rev \
                         FROM speed_stats_5m w JOIN device d USING (device_key) \
                         WHERE d.device = ANY($1)";

/// A window of a unit: its name, and the window's start in milliseconds.
pub(super) type Key = (String, i64);

/// The revision of each window.
pub(super) type Revisions = HashMap<Key, i64>;

/// How many messages of its own unit touched each window.
pub(super) type Touched = Arc<Mutex<Revisions>>;

/// The revisions of all windows of these units.
///
/// # Errors
/// The database does not answer.
pub(super) async fn revisions(stage: &Stage, devices: &[DeviceId]) -> Result<Revisions> {
    let names: Vec<String> = devices.iter().map(ToString::to_string).collect();
    let database = stage.system.database().await?;
    let rows = database.client().query(REVISIONS, &[&names]).await?;
    Ok(rows
        .iter()
        .map(|row| ((row.get(0), row.get(1)), i64::from(row.get::<_, i32>(2))))
        .collect())
}

/// Revisions of windows that nobody wrote to: those before `live_ms`, which must stand still.
pub(super) fn moved(before: &Revisions, after: &Revisions, live_ms: i64) -> u64 {
    let old = before.iter().filter(|((_, start), _)| *start < live_ms);
    old.map(|(key, rev)| after.get(key).map_or(1, |now| now.abs_diff(*rev)))
        .sum()
}

/// Revisions of live windows beyond the messages of their own unit, each of which makes at most
/// one.
pub(super) fn surplus(after: &Revisions, touched: &Revisions, live_ms: i64) -> u64 {
    let live = after.iter().filter(|((_, start), _)| *start >= live_ms);
    live.map(|(key, rev)| {
        let own = touched.get(key).copied().unwrap_or(0);
        u64::try_from(rev - own).unwrap_or(0)
    })
    .sum()
}

/// Books every passage of a message, and the windows that it touches.
pub(super) fn note(
    ledger: &SharedLedger,
    touched: &Touched,
    device: &DeviceId,
    passages: &PassageBatch,
) {
    let device = device.as_str();
    let mut last = None;
    for passage in passages.iter() {
        let start_ms = Bucket::of(passage.event_time).start().as_millis();
        // In order of time, so each window of a batch is one run.
        if last.replace(start_ms) != Some(start_ms) {
            let mut touched = touched.lock().unwrap_or_else(PoisonError::into_inner);
            *touched.entry((device.to_owned(), start_ms)).or_default() += 1;
        }
        book(ledger, device, Fact::from(&passage));
    }
}

/// Notes every message of a fleet, and tells `posted` of it.
pub(super) fn recorder(
    ledger: SharedLedger,
    touched: Touched,
    posted: impl Fn(&Posted<'_>) + Send + Sync + 'static,
) -> Recorder {
    Arc::new(move |batch: Posted<'_>| {
        posted(&batch);
        note(&ledger, &touched, batch.device, batch.passages);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(windows: &[(i64, i64)]) -> Revisions {
        let key = |start| ("a".to_owned(), start);
        windows
            .iter()
            .map(|(start, rev)| (key(*start), *rev))
            .collect()
    }

    #[test]
    fn a_settled_window_that_moves_or_vanishes_is_seen() {
        let before = of(&[(0, 3), (300_000, 5), (600_000, 7)]);
        assert_eq!(moved(&before, &before, 600_000), 0);
        let after = of(&[(0, 5), (600_000, 90)]);
        assert_eq!(moved(&before, &after, 600_000), 2 + 1);
    }

    #[test]
    fn a_live_window_may_move_with_each_of_its_own_messages() {
        let after = of(&[(0, 9), (600_000, 7)]);
        assert_eq!(surplus(&after, &of(&[(600_000, 7)]), 600_000), 0);
        assert_eq!(surplus(&after, &of(&[(600_000, 4)]), 600_000), 3);
        assert_eq!(surplus(&after, &of(&[]), 600_000), 7);
    }
}
