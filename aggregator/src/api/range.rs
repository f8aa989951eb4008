//! ● The stretch of time that a question is about, and the windows that stand for it.
//!
//! A range is half-open, `[from, to)`. It covers the windows whose *start* lies in it, whole: a
//! question that is not aligned to windows loses the window it begins inside of and gains the rest
//! of the window it ends inside of, so that adjoining ranges share no window and miss none.
//!
//! Invariant: [`Cover`] is a partition of the covered windows into the longest ones that the
//! database keeps. Sums over it equal sums over the windows themselves, from fewer rows.

use std::ops::Range;

use proto::window::BUCKET_MS;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::utc::Utc;

const HOUR_MS: i64 = 12 * BUCKET_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How long a window is. Windows are aligned to UTC.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
    ToSchema,
)]
pub enum Interval {
    /// 5 minutes.
    #[default]
    #[serde(rename = "5m")]
    FiveMinutes,
    /// 1 hour.
    #[serde(rename = "1h")]
    Hour,
    /// 24 hours, from midnight UTC.
    #[serde(rename = "24h")]
    Day,
}

impl Interval {
    /// All of them, the shortest first.
    pub const ALL: [Self; 3] = [Self::FiveMinutes, Self::Hour, Self::Day];

    /// Length in milliseconds.
    #[must_use]
    pub const fn length_ms(self) -> i64 {
        match self {
            Self::FiveMinutes => BUCKET_MS,
            Self::Hour => HOUR_MS,
            Self::Day => DAY_MS,
        }
    }

    /// As it is written in a question.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
            Self::Day => "24h",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|interval| interval.word() == word)
    }
}

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
    pub fn new(from: Utc, to: Utc, interval: Interval, windows_max: u32) -> Result<Self, RangeError> {
        if from >= to {
            return Err(RangeError::Empty { from, to });
        }
        let range = Self { from, to, interval };
        let windows = range.window_count();
        if windows > i64::from(windows_max) {
            return Err(RangeError::TooLong { windows, interval: interval.word(), windows_max });
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
        let length = self.interval.length_ms();
        ceil(self.from.as_millis(), length)..ceil(self.to.as_millis(), length)
    }

    /// Windows covered.
    #[must_use]
    pub fn window_count(&self) -> i64 {
        let covered = self.covered_ms();
        (covered.end - covered.start) / self.interval.length_ms()
    }

    /// The covered windows, joined into the longest that the database keeps.
    #[must_use]
    pub fn cover(&self) -> Cover {
        let (head, days, tail) = split(self.covered_ms(), DAY_MS);
        let (five_head, hour_head, after_head) = split(head, HOUR_MS);
        let (before_tail, hour_tail, five_tail) = split(tail, HOUR_MS);
        // A midnight is a whole hour: beside the first, at most one rest is left.
        let rests = [after_head, before_tail, five_tail];
        debug_assert!(rests.iter().filter(|rest| !rest.is_empty()).count() <= 1);
        let five_rest = rests.into_iter().find(|rest| !rest.is_empty()).unwrap_or(0..0);
        Cover { days, hours: [hour_head, hour_tail], fives: [five_head, five_rest] }
    }
}

/// Ranges of windows of each length that together are exactly the covered time. In milliseconds,
/// half-open; those that are not needed are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover {
    /// Windows of 24 hours.
    pub days: Range<i64>,
    /// Windows of 1 hour, before and after the days.
    pub hours: [Range<i64>; 2],
    /// Windows of 5 minutes, before and after the hours.
    pub fives: [Range<i64>; 2],
}

/// The part of `range` before the first multiple of `length`, the multiples, and the rest. Without
/// a whole multiple inside, all of it is "before".
fn split(range: Range<i64>, length: i64) -> (Range<i64>, Range<i64>, Range<i64>) {
    let (first, last) = (ceil(range.start, length), floor(range.end, length));
    if first < last {
        (range.start..first, first..last, last..range.end)
    } else {
        let end = range.end;
        (range, end..end, end..end)
    }
}

const fn floor(ms: i64, length: i64) -> i64 {
    ms - ms.rem_euclid(length)
}

const fn ceil(ms: i64, length: i64) -> i64 {
    floor(ms + length - 1, length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(from: &str, to: &str, interval: Interval) -> TimeRange {
        let instant = |text| Utc::parse(text).unwrap();
        TimeRange::new(instant(from), instant(to), interval, 10_000).unwrap()
    }

    fn covered(range: TimeRange) -> String {
        let covered = range.covered_ms();
        format!("{} {}", Utc::from_millis(covered.start), Utc::from_millis(covered.end))
    }

    #[test]
    fn a_window_belongs_to_the_range_in_which_it_starts() {
        let five = Interval::FiveMinutes;
        let aligned = range("2025-04-05T10:00:00Z", "2025-04-05T10:15:00Z", five);
        assert_eq!(covered(aligned), "2025-04-05T10:00:00Z 2025-04-05T10:15:00Z");
        let inside = range("2025-04-05T10:00:00.001Z", "2025-04-05T10:10:00.001Z", five);
        assert_eq!(covered(inside), "2025-04-05T10:05:00Z 2025-04-05T10:15:00Z");
        let between = range("2025-04-05T10:01:00Z", "2025-04-05T10:04:00Z", five);
        assert_eq!(between.window_count(), 0);
    }

    #[test]
    fn days_are_utc() {
        let local = range("2025-04-05T00:00:00+03:00", "2025-04-06T00:00:00+03:00", Interval::Day);
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
        assert_eq!(error, RangeError::TooLong { windows: 11, interval: "1h", windows_max: 10 });
    }

    #[test]
    fn a_day_until_now_is_covered_by_a_few_rows() {
        let day = range("2025-04-05T10:07:00Z", "2025-04-06T10:07:00Z", Interval::FiveMinutes);
        let rows = |ranges: &[Range<i64>], length: i64| -> i64 {
            ranges.iter().map(|range| (range.end - range.start) / length).sum()
        };
        let cover = day.cover();
        assert_eq!(rows(&[cover.days], DAY_MS), 0);
        assert_eq!(rows(&cover.hours, HOUR_MS), 23);
        assert_eq!(rows(&cover.fives, BUCKET_MS), 12);
    }

    proptest! {
        #[test]
        fn a_cover_is_a_partition_of_the_covered_time(
            from in -5 * DAY_MS..5 * DAY_MS,
            length in 1..4 * DAY_MS,
            interval in prop::sample::select(&Interval::ALL[..]),
        ) {
            let (from, to) = (Utc::from_millis(from), Utc::from_millis(from + length));
            let range = TimeRange::new(from, to, interval, 10_000).unwrap();
            let cover = range.cover();
    X
            let mut pieces = Vec::new();
            for (part, length) in parts {
                if !part.is_empty() {
                    prop_assert!(length >= range.interval().length_ms());
                    prop_assert_eq!(part.start.rem_euclid(length), 0);
                    prop_assert_eq!(part.end.rem_euclid(length), 0);
                    pieces.push(part.clone());
                }
            }
            pieces.sort_by_key(|piece| piece.start);
            prop_assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start));
            let joined = pieces.first().zip(pieces.last()).map(|(a, b)| a.start..b.end);
            let covered = range.covered_ms();
            prop_assert_eq!(joined, (!covered.is_empty()).then_some(covered));
        }
    }
}
