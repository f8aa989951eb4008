//! ● The stretch of time that a question is about, and the windows that stand for it.
//!
//! A range is half-open, `[from, to)`. It covers the windows whose *start* lies in it, whole: a
//! question that is not aligned to windows loses the window it begins inside of and gains the rest
//! of the window it ends inside of, so that adjoining ranges share no window and miss none.

use std::ops::Range;

use super::utc::Utc;
use crate::store::reader::Interval;

/// A half-open range of time and the length of its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeRange {
    from: Utc,
    to: Utc,
    interval: Interval,
}

/// A range that cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// It ends before it begins, or at once.
    #[error("from {from} is not before to {to}; the range is half-open, [from, to)")]
    Empty {
        /// The beginning as understood.
        from: Utc,
        /// The end as understood.
        to: Utc,
    },
    /// More windows than one answer may have.
    #[error(
        "the range has {windows} windows of {interval}, the limit is {windows_max}; ask for less \
         at a time or for longer windows"
    )]
    TooLong {
        /// Windows that it covers.
        windows: i64,
        /// Their length.
        interval: &'static str,
        /// The limit.
        windows_max: u32,
    },
}

impl TimeRange {
    /// A range of at least an instant and at most `windows_max` windows.
    ///
    /// # Errors
    /// When it is empty or too long.
    pub fn new(
        from: Utc,
        to: Utc,
        interval: Interval,
        windows_max: u32,
    ) -> Result<Self, RangeError> {
        if from >= to {
            return Err(RangeError::Empty { from, to });
        }
        let range = Self { from, to, interval };
        let windows = range.window_count();
        if windows > i64::from(windows_max) {
            return Err(RangeError::TooLong {
                windows,
                interval: interval.word(),
                windows_max,
            });
        }
        Ok(range)
    }

    /// The first instant.
    #[must_use]
    pub const fn from(&self) -> Utc {
        self.from
    }

    /// The first instant after it.
    #[must_use]
    pub const fn to(&self) -> Utc {
        self.to
    }

    /// The length of its windows.
    #[must_use]
    pub const fn interval(&self) -> Interval {
        self.interval
    }

    /// Milliseconds from the first covered window's start to the last one's end.
    #[must_use]
    pub fn covered_ms(&self) -> Range<i64> {
        self.interval.ceil(self.from.as_millis())..self.interval.ceil(self.to.as_millis())
    }

    /// Windows covered.
    #[must_use]
    pub fn window_count(&self) -> i64 {
        let covered = self.covered_ms();
        (covered.end - covered.start) / self.interval.length_ms()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = Interval::Hour.length_ms();

    fn range(from: &str, to: &str, interval: Interval) -> TimeRange {
        let instant = |text| Utc::parse(text).unwrap();
        TimeRange::new(instant(from), instant(to), interval, 10_000).unwrap()
    }

    fn covered(range: TimeRange) -> String {
        let covered = range.covered_ms();
        format!(
            "{} {}",
            Utc::from_millis(covered.start),
            Utc::from_millis(covered.end)
        )
    }

    #[test]
    fn a_window_belongs_to_the_range_in_which_it_starts() {
        let five = Interval::FiveMinutes;
        let aligned = range("2025-04-05T10:00:00Z", "2025-04-05T10:15:00Z", five);
        assert_eq!(
            covered(aligned),
            "2025-04-05T10:00:00Z 2025-04-05T10:15:00Z"
        );
        let inside = range("2025-04-05T10:00:00.001Z", "2025-04-05T10:10:00.001Z", five);
        assert_eq!(covered(inside), "2025-04-05T10:05:00Z 2025-04-05T10:15:00Z");
        let between = range("2025-04-05T10:01:00Z", "2025-04-05T10:04:00Z", five);
        assert_eq!(between.window_count(), 0);
    }

    #[test]
    fn days_are_utc() {
        let local = range(
            "2025-04-05T00:00:00+03:00",
            "2025-04-06T00:00:00+03:00",
            Interval::Day,
        );
        assert_eq!(covered(local), "2025-04-05T00:00:00Z 2025-04-06T00:00:00Z");
    }

    #[test]
    fn a_range_without_extent_is_refused() {
        let at = Utc::parse("2025-04-05T10:00:00Z").unwrap();
        let error = TimeRange::new(at, at, Interval::Hour, 10).unwrap_err();
        assert_eq!(error, RangeError::Empty { from: at, to: at });
    }

    #[test]
    fn the_limit_on_windows_is_inclusive() {
        let from = Utc::from_millis(0);
        let to = |windows| Utc::from_millis(windows * HOUR_MS);
        assert!(TimeRange::new(from, to(10), Interval::Hour, 10).is_ok());
        let error = TimeRange::new(from, to(11), Interval::Hour, 10).unwrap_err();
        assert_eq!(
            error,
            RangeError::TooLong {
                windows: 11,
                interval: "1h",
                windows_max: 10
            }
        );
    }
}
