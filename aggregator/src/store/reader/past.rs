//! ● The past of units in memory: windows that were asked for lately and change no more by themselves.
//!
//! What the past is, and how one sees that it has changed, [`crate::window::past`] says. A copy is
//! used only together with a reading of what is younger, and only if that reading, in its one
//! snapshot, finds the past changed as often as it was when it was copied.
//!
//! A copy moves on with time: what has become past since is added to it, and what the next question
//! no longer asks for is taken off. So a unit that is asked about again and again, always for the
//! last day, is read as a whole once.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use proto::device::DeviceId;

use super::known::{Known, KnownWindow};
use super::{Interval, Sums, Totals};

/// How long a copy is kept that nobody has moved on.
const KEPT: Duration = Duration::from_secs(900);

/// Copies for one unit and length of windows: for so many kinds of questions, the last 24 hours and
/// since midnight, say.
const COPIES_MAX: usize = 4;

/// Up to so many windows are read each time. So many are taken off a copy before it is read anew.
const FEW: i64 = 12;

/// The newest windows of a question are hardly ever past: two, and one that begins meanwhile.
const YOUNG: i64 = 3;

/// About what the text of a window takes.
const SAID_BYTES: usize = 264;

/// The windows of a unit in some time, all of them past.
#[derive(Debug)]
pub(super) struct Past {
    /// Begins and ends with a window. Empty for a unit whose past was found to end there, before the
    /// split of its reading.
    pub(super) time_ms: Range<i64>,
    /// How many times the past of the unit had changed.
    pub(super) changes: i64,
    /// The windows.
    pub(super) known: Known,
}

impl Past {
    /// Whether an answer can be made of it and of what is younger.
    fn serves(&self, interval: Interval, covered_ms: &Range<i64>) -> bool {
        let Range { start, end } = self.time_ms;
        let dropped_ms = covered_ms.start - start;
        (0..=FEW * interval.length_ms()).contains(&dropped_ms)
            && covered_ms.start <= end
            && end <= covered_ms.end
    }

    /// The windows from `start_ms` on, when `dropped` are the totals of those before.
    pub(super) fn from(&self, start_ms: i64, dropped: &Totals) -> Known {
        let windows = &self.known.windows;
        let first = windows.partition_point(|window| window.row.start_ms < start_ms);
        if first == 0 {
            return self.known.clone();
        }
        let windows = windows[first..].to_vec();
        let mut sums = Sums::default();
        for window in &windows {
            sums.add(&window.row.sums);
        }
        let totals = self.known.totals.without(dropped, sums);
        Known { windows, totals }
    }

    fn memory_bytes(&self) -> usize {
        let window = size_of::<KnownWindow>() + 3 * size_of::<usize>() + SAID_BYTES;
        size_of::<Self>() + self.known.windows.len() * window + Totals::HISTOGRAM_BYTES
    }
}

/// The copies for one unit and length of windows, the newest last.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf(Vec<Arc<Past>>);

impl Shelf {
    /// A copy of which an answer can be made.
    pub(super) fn serving(
        &self,
        interval: Interval,
        covered_ms: &Range<i64>,
    ) -> Option<&Arc<Past>> {
        let mut newest_first = self.0.iter().rev();
        newest_first.find(|past| past.serves(interval, covered_ms))
    }

    /// Where a reading of all this time is best split: before it, everything should be past.
    pub(super) fn split(&self, interval: Interval, covered_ms: &Range<i64>) -> i64 {
        if is_short(interval, covered_ms) {
            return covered_ms.start;
        }
        let likely = covered_ms.end - YOUNG * interval.length_ms();
        let known = self.0.iter().map(|past| past.time_ms.end).max();
        known
            .map_or(likely, |known| known.min(likely))
            .max(covered_ms.start)
    }

    /// Whether it holds just this.
    pub(super) fn has(&self, time_ms: &Range<i64>, changes: i64) -> bool {
        let mut copies = self.0.iter();
        copies.any(|past| past.time_ms == *time_ms && past.changes == changes)
    }

    /// With one copy more. Those that are no longer true go, and those that it has moved on from.
    fn with(&self, interval: Interval, past: Past) -> Self {
        let kept = self.0.iter().filter(|other| {
            other.changes == past.changes && !other.serves(interval, &past.time_ms)
        });
        let mut copies: Vec<_> = kept.cloned().collect();
        if copies.len() == COPIES_MAX {
            copies.remove(0);
        }
        copies.push(Arc::new(past));
        Self(copies)
    }

    fn memory_bytes(&self) -> usize {
        self.0.iter().map(|past| past.memory_bytes()).sum()
    }
}

/// Whether so few windows are asked for that nothing of them is kept.
pub(super) fn is_short(interval: Interval, covered_ms: &Range<i64>) -> bool {
    covered_ms.end - covered_ms.start <= FEW * interval.length_ms()
}

/// Shelves by unit and length of the windows.
#[derive(Clone)]
pub(super) struct PastCache(Cache<(DeviceId, Interval), Shelf>);

impl PastCache {
    /// Of about so many bytes; those asked for least go first.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self::keeping(bytes_max, KEPT)
    }

    fn keeping(bytes_max: u64, kept: Duration) -> Self {
        let weight = |_: &_, shelf: &Shelf| u32::try_from(shelf.memory_bytes()).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(bytes_max).weigher(weight);
        Self(cache.time_to_live(kept).build())
    }

    /// What is in memory of a unit.
    pub(super) fn shelf(&self, device: &DeviceId, interval: Interval) -> Shelf {
        self.0.get(&(device.clone(), interval)).unwrap_or_default()
    }

    /// Keeps a copy beside the others on its shelf.
    pub(super) fn put(&self, device: &DeviceId, interval: Interval, shelf: &Shelf, past: Past) {
        self.0
            .insert((device.clone(), interval), shelf.with(interval, past));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const FIVE: Interval = Interval::FiveMinutes;

    fn past(minutes: Range<i64>, changes: i64) -> Past {
        Past {
            time_ms: minutes.start * MINUTE..minutes.end * MINUTE,
            changes,
            known: Known::default(),
        }
    }

    fn served(shelf: &Shelf, minutes: Range<i64>) -> Option<i64> {
        let covered_ms = minutes.start * MINUTE..minutes.end * MINUTE;
        let past = shelf.serving(FIVE, &covered_ms)?;
        Some(past.time_ms.end / MINUTE)
    }

    #[test]
    fn a_copy_serves_later_questions_until_an_hour_would_be_dropped() {
        let shelf = Shelf::default().with(FIVE, past(60..180, 0));
        assert_eq!(served(&shelf, 60..200), Some(180));
        assert_eq!(served(&shelf, 60..180), Some(180));
        assert_eq!(served(&shelf, 120..260), Some(180));
        assert_eq!(served(&shelf, 125..260), None);
        assert_eq!(served(&shelf, 55..200), None, "begins before the copy");
        assert_eq!(served(&shelf, 60..175), None, "ends before the copy");
    }

    #[test]
    fn a_copy_that_moved_on_replaces_the_one_before_and_no_other() {
        let shelf = Shelf::default()
            .with(FIVE, past(0..500, 0))
            .with(FIVE, past(400..500, 0))
            .with(FIVE, past(405..505, 0));
        assert_eq!(shelf.0.len(), 2);
        assert_eq!(served(&shelf, 0..510), Some(500));
        assert_eq!(served(&shelf, 405..510), Some(505));
        let changed = shelf.with(FIVE, past(405..505, 1));
        assert_eq!(changed.0.len(), 1);
    }

    #[test]
    fn a_shelf_has_no_more_than_its_places() {
        let mut shelf = Shelf::default();
        for day in 0..20 {
            let from = day * 24 * 60;
            shelf = shelf.with(FIVE, past(from..from + 60, 0));
        }
        assert_eq!(shelf.0.len(), COPIES_MAX);
    }

    /// Puts a copy of each of so many units into the cache; says of how many one is there.
    fn kept(cache: &PastCache, units: u32) -> usize {
        let device = |n| DeviceId::new(&format!("KV{n}")).unwrap();
        for n in 0..units {
            cache.put(&device(n), FIVE, &Shelf::default(), past(0..500, 0));
        }
        cache.0.run_pending_tasks();
        let shelves = (0..units).map(|n| cache.shelf(&device(n), FIVE));
        shelves.filter(|shelf| !shelf.0.is_empty()).count()
    }

    #[test]
    fn the_past_in_memory_takes_no_more_than_its_bytes() {
        let bytes = past(0..500, 0).memory_bytes() as u64;
        assert_eq!(kept(&PastCache::new(10 * bytes), 10), 10);
        let cache = PastCache::new(10 * bytes);
        let kept = kept(&cache, 1_000);
        assert!((1..=10).contains(&kept), "{kept} of 10");
        assert!(cache.0.weighted_size() <= 10 * bytes);
    }

    #[test]
    fn a_copy_that_nobody_moves_on_is_forgotten_after_its_time() {
        let cache = PastCache::keeping(1 << 20, Duration::ZERO);
        assert_eq!(kept(&cache, 3), 0);
        assert_eq!(
            PastCache::new(1 << 20).0.policy().time_to_live(),
            Some(KEPT)
        );
    }

    #[test]
    fn a_unit_that_lags_is_split_where_its_past_ends() {
        let covered = 0..300 * MINUTE;
        assert_eq!(Shelf::default().split(FIVE, &covered), 285 * MINUTE);
        let lags = Shelf::default().with(FIVE, past(100..100, 0));
        assert_eq!(lags.split(FIVE, &covered), 100 * MINUTE);
        let covered = 200 * MINUTE..300 * MINUTE;
        assert_eq!(lags.split(FIVE, &covered), 200 * MINUTE);
        let hour = 200 * MINUTE..260 * MINUTE;
        assert_eq!(Shelf::default().split(FIVE, &hour), hour.start);
    }
}
