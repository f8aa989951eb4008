//! ● Lengths of windows, and how a long stretch of time is put together from few of them.
//!
//! Invariant: a [`Cover`] is a partition of the covered time into the longest windows that the
//! database keeps. Sums over it equal sums over the shortest windows, from fewer rows, because every
//! flush brings all three lengths up to date in one transaction.

use std::ops::Range;

use proto::window::BUCKET_MS;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const HOUR_MS: i64 = 12 * BUCKET_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// How long a window is. Windows are aligned to UTC.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
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
        Self::ALL
            .into_iter()
            .find(|interval| interval.word() == word)
    }
}

impl Interval {
    /// The first start of a window that is not before `ms`.
    #[must_use]
    pub const fn ceil(self, ms: i64) -> i64 {
        ceil(ms, self.length_ms())
    }

    /// The start of the window that contains `ms`.
    #[must_use]
    pub const fn floor(self, ms: i64) -> i64 {
        floor(ms, self.length_ms())
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

impl Cover {
    /// The cover of `[start, end)`, which begins and ends with windows of 5 minutes.
    #[must_use]
    pub fn of(covered: Range<i64>) -> Self {
        let (head, days, tail) = split(covered, DAY_MS);
        let (five_head, hour_head, after_head) = split(head, HOUR_MS);
        let (before_tail, hour_tail, five_tail) = split(tail, HOUR_MS);
        // A midnight is a whole hour: beside the first, at most one rest is left.
        let rests = [after_head, before_tail, five_tail];
        debug_assert!(rests.iter().filter(|rest| !rest.is_empty()).count() <= 1);
        let five_rest = rests
            .into_iter()
            .find(|rest| !rest.is_empty())
            .unwrap_or(0..0);
        Self {
            days,
            hours: [hour_head, hour_tail],
            fives: [five_head, five_rest],
        }
    }
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

    #[test]
    fn a_day_until_now_is_covered_by_a_few_rows() {
        let seven_past_ten = 10 * HOUR_MS + 5 * BUCKET_MS;
        let cover = Cover::of(seven_past_ten..seven_past_ten + DAY_MS);
        let rows = |ranges: &[Range<i64>], length: i64| -> i64 {
            ranges
                .iter()
                .map(|range| (range.end - range.start) / length)
                .sum()
        };
        assert_eq!(rows(&[cover.days], DAY_MS), 0);
        assert_eq!(rows(&cover.hours, HOUR_MS), 23);
        assert_eq!(rows(&cover.fives, BUCKET_MS), 12);
    }

    proptest! {
        #[test]
        fn a_cover_is_a_partition_of_the_covered_time(
            start in -5 * DAY_MS..5 * DAY_MS,
            length in 0..4 * DAY_MS,
            interval in prop::sample::select(&Interval::ALL[..]),
        ) {
            let covered = interval.ceil(start)..interval.ceil(start + length);
            let cover = Cover::of(covered.clone());
            let [hour_head, hour_tail] = &cover.hours;
            let [five_head, five_rest] = &cover.fives;
            let parts = [
                (&cover.days, DAY_MS),
                (hour_head, HOUR_MS),
                (hour_tail, HOUR_MS),
                (five_head, BUCKET_MS),
                (five_rest, BUCKET_MS),
            ];
            let mut pieces = Vec::new();
            for (part, length) in parts {
                if !part.is_empty() {
                    prop_assert!(length >= interval.length_ms());
                    prop_assert_eq!(part.start.rem_euclid(length), 0);
                    prop_assert_eq!(part.end.rem_euclid(length), 0);
                    pieces.push(part.clone());
                }
            }
            pieces.sort_by_key(|piece| piece.start);
            prop_assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start));
            let joined = pieces.first().zip(pieces.last()).map(|(a, b)| a.start..b.end);
            prop_assert_eq!(joined, (!covered.is_empty()).then_some(covered));
        }
    }
}
