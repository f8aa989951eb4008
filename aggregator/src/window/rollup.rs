//! From 5 minutes to 1 hour and 24 hours.
//!
//! The same deltas update all three lengths in the same transaction, so that the sums over the
//! shorter windows equal the longer window at every instant. 24-hour windows are UTC days.

use proto::window::{BUCKET_MS, Bucket};

/// Length of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Length {
    /// 5 minutes, the base.
    Minutes5,
    /// 1 hour.
    Hour1,
    /// 24 hours, from midnight UTC.
    Hours24,
}

impl Length {
    /// All lengths, ascending.
    pub const ALL: [Self; 3] = [Self::Minutes5, Self::Hour1, Self::Hours24];

    /// In ms.
    #[must_use]
    pub const fn ms(self) -> i64 {
        match self {
            Self::Minutes5 => BUCKET_MS,
            Self::Hour1 => 12 * BUCKET_MS,
            Self::Hours24 => 288 * BUCKET_MS,
        }
    }

    /// Its table.
    #[must_use]
    pub const fn table(self) -> &'static str {
        match self {
            Self::Minutes5 => "speed_stats_5m",
            Self::Hour1 => "speed_stats_1h",
            Self::Hours24 => "speed_stats_24h",
        }
    }

    /// The word for it in metrics and API.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Minutes5 => "5m",
            Self::Hour1 => "1h",
            Self::Hours24 => "24h",
        }
    }
}

/// One window of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WindowId {
    /// How long.
    pub length: Length,
    /// Its first instant, in ms since 1970.
    pub start_ms: i64,
}

impl WindowId {
    /// The window of this length that a 5-minute window is part of.
    #[must_use]
    pub const fn over(length: Length, bucket: Bucket) -> Self {
        let ms = bucket.start().as_millis();
        Self {
            length,
            start_ms: ms - ms.rem_euclid(length.ms()),
        }
    }

    /// The first instant after it, in ms since 1970.
    #[must_use]
    pub const fn end_ms(self) -> i64 {
        self.start_ms + self.length.ms()
    }
}

#[cfg(test)]
mod tests {
    use proto::passage::EventTime;

    use super::*;

    #[test]
    fn longer_windows_are_aligned_to_the_hour_and_the_utc_day() {
        // 2025-04-05T10:15:30Z
        let bucket = Bucket::of(EventTime::from_millis(1_743_848_130_000));
        let starts = Length::ALL.map(|length| WindowId::over(length, bucket).start_ms);
        assert_eq!(
            starts,
            [1_743_848_100_000, 1_743_847_200_000, 1_743_811_200_000]
        );
        let last = WindowId::over(Length::Hours24, bucket);
        assert_eq!(last.end_ms() - last.start_ms, 86_400_000);
    }
}
