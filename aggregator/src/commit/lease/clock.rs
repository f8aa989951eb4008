//! Whether the clock of this machine can be believed. Pure.
//!
//! The horizon, and with it what becomes of every passage, follows from this machine's clock; leases,
//! the floor and retention follow the database's. One that is far from the other would settle the
//! passages of a whole fleet as too old or too new, so whoever has it takes no part.

use std::fmt;

use jiff::Timestamp;

/// How far the two may be apart.
pub(super) const CLOCKS_APART_MS_MAX: i64 = 60_000;

/// Two clocks that are too far apart, ms since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClocksApart {
    /// Of this machine.
    pub own_ms: i64,
    /// Of the database.
    pub database_ms: i64,
}

impl ClocksApart {
    /// Compares what the database said with this machine's times before it was asked and after it
    /// answered. None when they agree.
    #[must_use]
    pub(super) fn found(asked_ms: i64, database_ms: i64, answered_ms: i64) -> Option<Self> {
        // However long the answer took, it was given in between.
        let (earliest, latest) = (asked_ms.min(answered_ms), asked_ms.max(answered_ms));
        let own_ms = database_ms.clamp(earliest, latest);
        (own_ms.abs_diff(database_ms) > CLOCKS_APART_MS_MAX.unsigned_abs()).then_some(Self {
            own_ms,
            database_ms,
        })
    }
}

impl fmt::Display for ClocksApart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |ms| {
            Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |at| at.to_string())
        };
        let (own, database) = (shown(self.own_ms), shown(self.database_ms));
        let limit_s = CLOCKS_APART_MS_MAX / 1_000;
        write!(
            f,
            "the clock of this machine says {own}, that of the database {database}, the limit is \
             {limit_s} s apart: set whichever is wrong"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_743_848_130_000;

    #[test]
    fn clocks_are_compared_however_long_the_answer_took() {
        for (asked, database, answered, apart) in [
            (0, 0, 1, false),
            (0, 60_000, 0, false),
            (0, 60_001, 0, true),
            (60_001, 0, 60_002, true),
            (0, 50_000, 100_000, false),
            // The own clock was set while the database answered.
            (600_000, 0, 10, false),
            (i64::MIN, 0, i64::MIN, true),
        ] {
            let found = ClocksApart::found(
                NOW.saturating_add(asked),
                NOW + database,
                NOW.saturating_add(answered),
            );
            assert_eq!(found.is_some(), apart, "{asked} {database} {answered}");
        }
    }

    #[test]
    fn both_times_are_named() {
        let apart = ClocksApart {
            own_ms: NOW - 600_000,
            database_ms: NOW,
        };
        let text = apart.to_string();
        assert!(
            text.contains("2025-04-05T10:05:30Z") && text.contains("2025-04-05T10:15:30Z"),
            "{text}"
        );
    }
}
