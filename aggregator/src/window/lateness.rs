//! Whether a passage may still, or already, enter its window.
//!
//! Late is normal: within the horizon a late passage corrects its window. Outside it the passage goes
//! to the side table, with the reason.

use proto::passage::EventTime;
use proto::window::Bucket;

/// Summaries keep this distance from the old end of the horizon, so that the raw passages that follow
/// them still find it open.
const SUMMARY_MARGIN_MS: i64 = 2 * 86_400_000;

/// A summary's windows end at most this long after the centre's clock.
const SUMMARY_AHEAD_MS: i64 = 10 * 60_000;

/// How long ago a window may have begun that takes summaries, with a horizon of so many ms.
#[must_use]
pub fn summaries_age_max_ms(horizon_ms: i64) -> u64 {
    u64::try_from(horizon_ms - SUMMARY_MARGIN_MS).unwrap_or(0)
}

/// Event times that windows take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    oldest_ms: i64,
    newest_ms: i64,
    now_ms: i64,
}

/// Why a passage is in the side table instead of in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rejection {
    /// Before the horizon.
    TooOld,
    /// Ahead of the centre's clock.
    TooNew,
    /// Its window holds as many passages as a window may.
    WindowFull,
}

impl Rejection {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::TooOld, Self::TooNew, Self::WindowFull];

    /// Reads the word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.word() == word)
    }

    /// The word for it in the database and in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::TooOld => "too_old",
            Self::TooNew => "too_new",
            Self::WindowFull => "window_full",
        }
    }
}

impl Horizon {
    /// From the centre's clock and the settings.
    #[must_use]
    pub const fn at(now_ms: i64, horizon_ms: i64, ahead_ms: i64) -> Self {
        Self {
            oldest_ms: now_ms - horizon_ms,
            newest_ms: now_ms + ahead_ms,
            now_ms,
        }
    }

    /// The same, but for event times before the floor: what was settled there is forgotten.
    #[must_use]
    pub fn not_below(self, floor_ms: i64) -> Self {
        Self {
            oldest_ms: self.oldest_ms.max(floor_ms),
            ..self
        }
    }

    /// No window takes an older passage, ms since 1970.
    #[must_use]
    pub const fn oldest_ms(&self) -> i64 {
        self.oldest_ms
    }

    /// Nor a newer one.
    #[must_use]
    pub const fn newest_ms(&self) -> i64 {
        self.newest_ms
    }

    /// Why a passage of this time cannot enter a window; none when it can.
    #[must_use]
    pub const fn rejects(&self, time: EventTime) -> Option<Rejection> {
        if time.as_millis() < self.oldest_ms {
            Some(Rejection::TooOld)
        } else if time.as_millis() > self.newest_ms {
            Some(Rejection::TooNew)
        } else {
            None
        }
    }

    /// Whether all passages of this span of time enter their windows.
    #[must_use]
    pub const fn covers(&self, (least, greatest): (EventTime, EventTime)) -> bool {
        self.rejects(least).is_none() && self.rejects(greatest).is_none()
    }

    /// Whether some passage of this window may enter it.
    #[must_use]
    pub const fn touches(&self, bucket: Bucket) -> bool {
        bucket.end().as_millis() > self.oldest_ms && bucket.start().as_millis() <= self.newest_ms
    }

    /// Whether a summary may change this window.
    #[must_use]
    pub const fn takes_summary(&self, bucket: Bucket) -> bool {
        bucket.start().as_millis() >= self.oldest_ms + SUMMARY_MARGIN_MS
            && bucket.end().as_millis() <= self.now_ms + SUMMARY_AHEAD_MS
    }
}

#[cfg(test)]
mod tests {
    use proto::window::BUCKET_MS;

    use super::*;

    const DAY: i64 = 86_400_000;
    const NOW: i64 = 20_000 * DAY + 7;

    #[test]
    fn both_ends_of_the_horizon_belong_to_it() {
        let horizon = Horizon::at(NOW, 60 * DAY, 300_000);
        for (ms, verdict) in [
            (NOW, None),
            (NOW - 60 * DAY, None),
            (NOW - 60 * DAY - 1, Some(Rejection::TooOld)),
            (NOW + 300_000, None),
            (NOW + 300_001, Some(Rejection::TooNew)),
        ] {
            let time = EventTime::from_millis(ms);
            assert_eq!(horizon.rejects(time), verdict, "{ms}");
            assert_eq!(
                horizon.covers((time, EventTime::from_millis(NOW))),
                verdict.is_none()
            );
        }
    }

    #[test]
    fn a_summary_stays_two_days_inside() {
        let horizon = Horizon::at(NOW, 60 * DAY, 300_000);
        let bucket = |ms| Bucket::of(EventTime::from_millis(ms));
        assert!(horizon.takes_summary(bucket(NOW)));
        assert!(!horizon.takes_summary(bucket(NOW + 600_000)));
        assert!(!horizon.takes_summary(bucket(NOW - 59 * DAY)));
        assert!(horizon.takes_summary(bucket(NOW - 57 * DAY)));
        let age_max_ms = i64::try_from(summaries_age_max_ms(60 * DAY)).unwrap();
        let oldest = Bucket::of(EventTime::from_millis(NOW - age_max_ms + BUCKET_MS));
        assert!(horizon.takes_summary(oldest), "units are told the same");
    }

    #[test]
    fn the_window_across_the_old_end_is_still_touched() {
        let horizon = Horizon::at(NOW, 60 * DAY, 300_000);
        let edge = Bucket::of(EventTime::from_millis(NOW - 60 * DAY));
        assert!(horizon.touches(edge));
        assert!(!horizon.touches(Bucket::of(EventTime::from_millis(
            edge.start().as_millis() - 1
        ))));
    }
}
