//! TLS without a clock: the time at which certificates are judged never falls below a floor.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

use crate::clock;

/// When this program was built, in milliseconds since 1970 (`SOURCE_DATE_EPOCH` if that was set).
/// No honest certificate check happens before it.
#[must_use]
pub fn build_time_ms() -> i64 {
    const SECONDS: &str = env!("VERST_BUILD_TIME_S");
    SECONDS
        .parse::<i64>()
        .map_or(0, |seconds| seconds.saturating_mul(1_000))
}

/// max(clock, build time, whatever it was raised to). Clones share the floor.
///
/// The floor lives in memory; a unit that wants it to outlast a restart writes [`Self::floor_ms`]
/// down and raises to it at the next start.
#[derive(Clone)]
pub struct TimeFloor {
    clock_ms: fn() -> i64,
    floor_ms: Arc<AtomicI64>,
}

impl TimeFloor {
    /// Over the system's clock, with the build time as the floor.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(clock::wall_millis)
    }

    /// Over another clock.
    #[must_use]
    pub fn with_clock(clock_ms: fn() -> i64) -> Self {
        Self {
            clock_ms,
            floor_ms: Arc::new(AtomicI64::new(build_time_ms())),
        }
    }

    /// Raises the floor to a time that an authenticated centre stated; an earlier one changes
    /// nothing. Handshakes from now on use it.
    pub fn raise(&self, centre_time_ms: i64) {
        self.floor_ms.fetch_max(centre_time_ms, Ordering::Relaxed);
    }

    /// The floor itself.
    #[must_use]
    pub fn floor_ms(&self) -> i64 {
        self.floor_ms.load(Ordering::Relaxed)
    }

    /// The time at which a certificate would be judged now.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        (self.clock_ms)().max(self.floor_ms())
    }
}

impl Default for TimeFloor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TimeFloor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeFloor")
            .field("floor_ms", &self.floor_ms())
            .finish_non_exhaustive()
    }
}

impl TimeProvider for TimeFloor {
    fn current_time(&self) -> Option<UnixTime> {
        let since = u64::try_from(self.now_ms()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_millis(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_in_1970_is_lifted_to_the_build() {
        let floor = TimeFloor::with_clock(|| 0);
        assert!(build_time_ms() > 1_700_000_000_000);
        assert_eq!(floor.now_ms(), build_time_ms());
        let given = floor.current_time().unwrap().as_secs();
        assert_eq!(i64::try_from(given).unwrap(), build_time_ms() / 1_000);
    }

    #[test]
    fn the_floor_only_rises_and_clones_share_it() {
        let floor = TimeFloor::with_clock(|| 0);
        let clone = floor.clone();
        let later = build_time_ms() + 5_000;
        floor.raise(later);
        floor.raise(later - 1);
        assert_eq!(clone.now_ms(), later);
    }

    #[test]
    fn a_clock_ahead_of_the_floor_is_believed() {
        let floor = TimeFloor::with_clock(|| build_time_ms() + 86_400_000);
        assert_eq!(floor.now_ms(), build_time_ms() + 86_400_000);
    }
}
