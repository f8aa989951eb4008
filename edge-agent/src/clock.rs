//! The clock shell: where the agent reads the time. Everything pure is told.
//!
//! A unit without a battery for its clock begins in 1970, or at the time at which it was last switched
//! off. What it can know besides is [`Known`]: that it is no earlier than its build and than what the
//! centre told, and, while the centre corrects it, what time it is. Monotonic time carries that on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use proto::EventTime;
use service::clock::{monotonic, wall_millis};
use service::tls::build_time_ms;

use crate::uplink::backoff::Millis;

/// The unit's clock, by which events and certificates are dated. May jump.
#[must_use]
pub fn wall() -> EventTime {
    EventTime::from_millis(wall_millis())
}

/// Milliseconds since the agent began, by a clock that never jumps: for every wait.
#[derive(Debug, Clone, Copy)]
pub struct Monotonic {
    start: Instant,
}

impl Monotonic {
    /// Begins now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: monotonic() }
    }

    /// Milliseconds since.
    #[must_use]
    pub fn now(self) -> Millis {
        Millis::try_from(self.start.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }
}

/// What is known of the time beside the unit's clock, as of the monotonic clock's beginning. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// It was no earlier, in ms since 1970.
    floor_ms: i64,
    /// The centre's clock showed this, and ours something else.
    told_ms: Option<i64>,
}

impl Known {
    /// That it was no earlier when the monotonic clock began.
    #[must_use]
    pub const fn new(floor: EventTime) -> Self {
        Self {
            floor_ms: floor.as_millis(),
            told_ms: None,
        }
    }

    /// After so long it is no earlier than this.
    pub fn not_before(&mut self, at: EventTime, elapsed: Millis) {
        self.floor_ms = self.floor_ms.max(began_ms(at, elapsed));
    }

    /// After so long the centre says what time it is, or no longer sees our clock differ.
    pub fn corrected(&mut self, at: Option<EventTime>, elapsed: Millis) {
        self.told_ms = at.map(|at| began_ms(at, elapsed));
    }

    /// After so long, while the unit's clock shows this.
    #[must_use]
    pub fn reading(&self, wall: EventTime, elapsed: Millis) -> Reading {
        let floor = after(self.floor_ms, elapsed);
        let told = self.told_ms.map(|told_ms| after(told_ms, elapsed));
        Reading {
            wall,
            now: told.unwrap_or(wall.max(floor)),
            is_told: told.is_some(),
        }
    }
}

fn began_ms(at: EventTime, elapsed: Millis) -> i64 {
    at.as_millis()
        .saturating_sub(i64::try_from(elapsed).unwrap_or(i64::MAX))
}

fn after(began_ms: i64, elapsed: Millis) -> EventTime {
    let elapsed = i64::try_from(elapsed).unwrap_or(i64::MAX);
    EventTime::from_millis(began_ms.saturating_add(elapsed))
}

/// One look at the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What the unit's clock shows.
    pub wall: EventTime,
    /// What time it is as far as the unit knows: by the centre's clock where it told, otherwise by its
    /// own, and no earlier than it can be.
    pub now: EventTime,
    /// Whether that is the centre's clock.
    pub is_told: bool,
}

impl Reading {
    /// A clock that nobody corrects.
    #[must_use]
    pub const fn right(wall: EventTime) -> Self {
        Self {
            wall,
            now: wall,
            is_told: false,
        }
    }

    /// The unit's clock less true time, where it is known.
    #[must_use]
    pub const fn offset_ms(&self) -> Option<i64> {
        if self.is_told {
            Some(self.wall.as_millis().saturating_sub(self.now.as_millis()))
        } else {
            None
        }
    }

    /// From when on an event lies in the future, in ms since 1970: by the unit's clock and by what was
    /// told, for a camera that goes by a clock that is ahead must not lose what it sees. While the clock
    /// is known to be wrong, by more than this, and nobody told what is right, none does: a camera may
    /// know the time when its unit does not. The centre looks again.
    #[must_use]
    pub const fn present_ms(&self, tolerated_ms: i64) -> i64 {
        let (wall_ms, now_ms) = (self.wall.as_millis(), self.now.as_millis());
        if !self.is_told && now_ms.saturating_sub(wall_ms) > tolerated_ms {
            i64::MAX
        } else if wall_ms > now_ms {
            wall_ms
        } else {
            now_ms
        }
    }
}

/// Stands for a time that nobody told.
const UNTOLD: i64 = i64::MIN;

/// The unit's clock and what is known beside it. Clones share that.
#[derive(Debug, Clone)]
pub struct Clock {
    wall: fn() -> EventTime,
    monotonic: Monotonic,
    floor_ms: Arc<AtomicI64>,
    told_ms: Arc<AtomicI64>,
}

impl Clock {
    /// Over the system's clock.
    #[must_use]
    pub fn new(monotonic: Monotonic) -> Self {
        Self::over(wall, monotonic)
    }

    /// Over another clock.
    #[must_use]
    pub fn over(wall: fn() -> EventTime, monotonic: Monotonic) -> Self {
        Self {
            wall,
            monotonic,
            floor_ms: Arc::new(AtomicI64::new(build_time_ms())),
            told_ms: Arc::new(AtomicI64::new(UNTOLD)),
        }
    }

    /// One look.
    #[must_use]
    pub fn read(&self) -> Reading {
        self.known().reading((self.wall)(), self.monotonic.now())
    }

    /// See [`Known::not_before`].
    pub fn not_before(&self, at: EventTime) {
        let mut known = self.known();
        known.not_before(at, self.monotonic.now());
        self.floor_ms.fetch_max(known.floor_ms, Ordering::Relaxed);
    }

    /// See [`Known::corrected`].
    pub fn corrected(&self, at: Option<EventTime>) {
        let mut known = self.known();
        known.corrected(at, self.monotonic.now());
        let told_ms = known.told_ms.unwrap_or(UNTOLD);
        self.told_ms.store(told_ms, Ordering::Relaxed);
    }

    fn known(&self) -> Known {
        let told_ms = self.told_ms.load(Ordering::Relaxed);
        Known {
            floor_ms: self.floor_ms.load(Ordering::Relaxed),
            told_ms: (told_ms != UNTOLD).then_some(told_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERATED_MS: i64 = 300_000;
    const HOUR_MS: i64 = 3_600_000;

    fn at(since_build_ms: i64) -> EventTime {
        EventTime::from_millis(build_time_ms() + since_build_ms)
    }

    #[test]
    fn a_unit_in_1970_knows_that_it_is_no_earlier_than_what_it_heard_and_time_goes_on() {
        let mut known = Known::new(at(0));
        let lost = EventTime::from_millis(0);
        assert_eq!(known.reading(lost, 0).now, at(0));
        known.not_before(at(50_000), 10_000);
        known.not_before(at(40_000), 10_000);
        let reading = known.reading(lost, 70_000);
        assert_eq!((reading.now, reading.offset_ms()), (at(110_000), None));
        assert_eq!(reading.present_ms(TOLERATED_MS), i64::MAX);
    }

    #[test]
    fn what_the_centre_told_counts_until_it_sees_no_difference() {
        for wall in [EventTime::from_millis(0), at(1_000_000 * HOUR_MS)] {
            let mut known = Known::new(at(0));
            known.corrected(Some(at(5_000)), 2_000);
            let reading = known.reading(wall, 3_000);
            assert_eq!(reading.now, at(6_000));
            let latest = wall.max(at(6_000));
            assert_eq!(reading.present_ms(TOLERATED_MS), latest.as_millis());
            let offset = wall.as_millis() - at(6_000).as_millis();
            assert_eq!(reading.offset_ms(), Some(offset));
            known.corrected(None, 4_000);
            let untold = known.reading(wall, 5_000);
            assert_eq!((untold.now, untold.is_told), (wall.max(at(5_000)), false));
        }
    }

    #[test]
    fn a_clock_that_is_a_little_behind_still_judges() {
        let mut known = Known::new(at(0));
        known.not_before(at(TOLERATED_MS), 0);
        let reading = known.reading(at(0), 0);
        assert_eq!(
            reading.present_ms(TOLERATED_MS),
            at(TOLERATED_MS).as_millis()
        );
        assert_eq!(known.reading(at(-1), 0).present_ms(TOLERATED_MS), i64::MAX);
    }

    #[test]
    fn clones_share_what_is_known() {
        let clock = Clock::over(|| EventTime::from_millis(0), Monotonic::start());
        let clone = clock.clone();
        clock.not_before(at(HOUR_MS));
        assert!(clone.read().now >= at(HOUR_MS));
        clone.corrected(Some(at(0)));
        assert!(clock.read().is_told && clock.read().now < at(HOUR_MS));
        clone.corrected(None);
        assert!(!clock.read().is_told);
    }
}
