//! The past of units in memory: windows that were asked for lately and change no more by themselves.
//!
//! What the past is, and how one sees that it has changed, [`crate::window::past`] says. A copy is
//! used only together with a reading of what is younger, and only if that reading, in its one
//! snapshot, finds the past changed as often as it was when it was copied.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use proto::device::DeviceId;

use super::{Interval, ReadError, Reader, SpeedRows, column};

/// How long a copy is kept: by then another 5 minutes are past.
const KEPT: Duration = Duration::from_secs(300);

/// Copies of the past by unit, length of the windows, and beginning.
#[derive(Clone)]
pub(super) struct PastCache(Cache<Key, Arc<Past>>);

type Key = (DeviceId, Interval, i64);

/// The windows of a unit from some time on, as far as they are past.
pub(super) struct Past {
    /// Up to where, ms since 1970.
    pub(super) to_ms: i64,
    /// The windows.
    pub(super) rows: SpeedRows,
}

impl PastCache {
    /// Of at most so many bytes; those asked for least go first.
    pub(super) fn new(bytes_max: u64) -> Self {
        let weight =
            |_: &Key, past: &Arc<Past>| u32::try_from(past.rows.memory_bytes()).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(bytes_max).weigher(weight);
        Self(cache.time_to_live(KEPT).build())
    }
}

impl Reader {
    /// The past of this time, from memory or the database. None when nothing of it is past.
    pub(super) async fn past(
        &self,
        device: &DeviceId,
        interval: Interval,
        covered_ms: Range<i64>,
    ) -> Result<Option<Arc<Past>>, ReadError> {
        let key = (device.clone(), interval, covered_ms.start);
        let known = self.past.0.get(&key);
        if let Some(past) = known.filter(|past| past.to_ms <= covered_ms.end) {
            return Ok(Some(past));
        }
        let statement = "SELECT (extract(epoch FROM past_to) * 1000)::int8 FROM v_device \
                         WHERE device = $1";
        let rows = self.query(statement, &[&device.as_str()]).await?;
        let past_to_ms: Option<i64> = rows.first().map_or(Ok(None), |row| column(row, 0))?;
        let to_ms = past_to_ms.map(|to| interval.floor(to).min(covered_ms.end));
        let Some(to_ms) = to_ms.filter(|to| *to > covered_ms.start) else {
            return Ok(None);
        };
        let past_ms = covered_ms.start..to_ms;
        // Losses are booked at any time: they are asked for with what is younger.
        let rows = self
            .read_speed(device, interval, past_ms, to_ms..to_ms)
            .await?;
        Ok(rows.map(|rows| {
            let past = Arc::new(Past { to_ms, rows });
            self.past.0.insert(key, Arc::clone(&past));
            past
        }))
    }
}
