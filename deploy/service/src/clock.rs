//! The clock shell: the only place that reads the clocks for programs without one of their own.
//!
//! Wall time is for what people and certificates mean by time, monotonic time for every wait and
//! timeout. Pure code gets either as a value.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC by the system's clock, negative before.
///
/// May jump either way. At the ends of its range it stays there.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the clock shell")]
pub fn wall_millis() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// A point on the clock that never goes back.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the clock shell")]
pub fn monotonic() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_wall_clock_is_past_the_writing_of_this_line() {
        assert!(super::wall_millis() > 1_700_000_000_000);
    }

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let first = super::monotonic();
        assert!(super::monotonic() >= first);
    }
}
