//! Statistics of the passages of one device in one window of event time.
//!
//! One piece of code makes them, on the unit (summaries) and at the centre (batches). Every sum is
//! a whole number, so any split and any order of the same passages merges to the same bits.
//!
//! Words of traffic engineering: the *time-mean speed* is the mean of the speeds that a point
//! measures; the *space-mean speed* is the harmonic mean, the speed of the stream over a stretch of
//! road; V85 is the speed that 85 % of the vehicles do not exceed.

mod fold;
mod stats;

use serde::{Deserialize, Serialize};

use crate::passage::EventTime;

pub use fold::fold;
pub use stats::{BINS, Histogram, SpeedStats, StatsError, percentile};

/// Length of the base window.
pub const BUCKET_MS: i64 = 300_000;

/// A 5-minute window of event time, UTC: `[index × 5 min, (index + 1) × 5 min)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Bucket(i64);

impl Bucket {
    /// The window in which an event time lies.
    #[must_use]
    pub const fn of(time: EventTime) -> Self {
        Self(time.as_millis().div_euclid(BUCKET_MS))
    }

    /// Its first instant.
    #[must_use]
    pub const fn start(self) -> EventTime {
        EventTime::from_millis(self.0 * BUCKET_MS)
    }

    /// The first instant after it.
    #[must_use]
    pub const fn end(self) -> EventTime {
        EventTime::from_millis((self.0 + 1) * BUCKET_MS)
    }

    /// Its place on the axis of time.
    #[must_use]
    pub const fn index(self) -> i64 {
        self.0
    }

    fn is_plausible(self) -> bool {
        self.0
            .checked_mul(BUCKET_MS)
            .is_some_and(|ms| EventTime::from_millis(ms).is_plausible())
    }
}

/// The statistics of some passages of one 5-minute window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowDelta {
    /// Which window.
    pub bucket: Bucket,
    /// What they add to it.
    pub stats: SpeedStats,
}

impl WindowDelta {
    /// Whether this could come from real passages.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn check(&self) -> Result<(), StatsError> {
        if !self.bucket.is_plausible() {
            return Err(StatsError::Time(self.bucket.index()));
        }
        self.stats.check()
    }
}
