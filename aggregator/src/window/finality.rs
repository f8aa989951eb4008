//! How far a unit is complete: windows that end by `final_to` are final.
//!
//! The unit states its frontier in every header; the centre believes the highest (run, counter),
//! clamps it to its own clock and cuts it to whole 5 minutes, since nothing ends in between.
//! Two streams of one device that advance by turns are a cloned identity: neither knows what the
//! other holds, so nothing turns final for a day after the last turn.
//!
//! Invariants: `final_to_ms` never falls and is never ahead of the centre's clock.

use proto::device::StreamId;
use proto::header::Frontier;
use proto::window::BUCKET_MS;

/// Nothing turns final for so long after a cloned identity was seen.
const CLONE_ALARM_MS: i64 = 86_400_000;

/// A restarted agent leaves its old stream once and may still be heard from it once, out of order.
/// More returns than that are another unit.
const RETURNS_ALLOWED: u8 = 2;

/// What is known of a device's completeness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Finality {
    /// Windows that end by then are final; none before the first statement.
    pub final_to_ms: Option<i64>,
    /// The statement behind it.
    pub frontier: Option<Frontier>,
    /// When two streams last advanced by turns.
    pub cloned_at_ms: Option<i64>,
    turns: Turns,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Turns {
    /// The stream that accepted passages last, and the one before.
    current: Option<StreamId>,
    before: Option<StreamId>,
    returns: u8,
}

impl Finality {
    /// As the database has it.
    #[must_use]
    pub fn restored(
        final_to_ms: Option<i64>,
        frontier: Option<Frontier>,
        cloned_at_ms: Option<i64>,
    ) -> Self {
        Self {
            final_to_ms,
            frontier,
            cloned_at_ms,
            turns: Turns::default(),
        }
    }

    /// Takes note of a statement.
    pub fn state(&mut self, frontier: Frontier, now_ms: i64) {
        if self
            .frontier
            .is_some_and(|known| known.order() >= frontier.order())
        {
            return;
        }
        self.frontier = Some(frontier);
        if self.is_cloned(now_ms) {
            return;
        }
        let to = frontier.before.as_millis().clamp(0, now_ms);
        let to = to - to.rem_euclid(BUCKET_MS);
        self.final_to_ms = self.final_to_ms.max(Some(to));
        assert!(
            self.final_to_ms <= Some(now_ms.max(to)),
            "final beyond the clock: {self:?}"
        );
    }

    /// Takes note that a stream has accepted further passages. Says whether that raised the alarm of
    /// a cloned identity.
    pub fn advanced(&mut self, stream: StreamId, now_ms: i64) -> bool {
        let turns = &mut self.turns;
        if turns.current == Some(stream) {
            return false;
        }
        turns.returns = match turns.before == Some(stream) {
            true => turns.returns.saturating_add(1),
            false => 0,
        };
        turns.before = turns.current.replace(stream);
        if turns.returns <= RETURNS_ALLOWED {
            return false;
        }
        let news = !self.is_cloned(now_ms);
        self.cloned_at_ms = Some(now_ms);
        news
    }

    /// Whether a cloned identity was seen within the last day.
    #[must_use]
    pub fn is_cloned(&self, now_ms: i64) -> bool {
        self.cloned_at_ms
            .is_some_and(|at| now_ms - at < CLONE_ALARM_MS)
    }

    /// Whether a window that ends then is final.
    #[must_use]
    pub fn is_final(&self, end_ms: i64) -> bool {
        self.final_to_ms.is_some_and(|to| end_ms <= to)
    }

    /// Whether the database should be told: all but the frontier itself, which moves all the time.
    #[must_use]
    pub fn differs_durably(&self, other: &Self) -> bool {
        self.final_to_ms != other.final_to_ms || self.cloned_at_ms != other.cloned_at_ms
    }
}

#[cfg(test)]
mod tests {
    use proto::passage::EventTime;

    use super::*;

    const NOW: i64 = 1_743_848_130_000;

    fn frontier(run: u32, counter: u64, before_ms: i64) -> Frontier {
        Frontier {
            before: EventTime::from_millis(before_ms),
            run,
            counter,
        }
    }

    fn stream(n: u8) -> StreamId {
        StreamId::from_bytes([n; 16])
    }

    #[test]
    fn final_to_follows_the_highest_statement_and_never_falls() {
        let mut finality = Finality::default();
        finality.state(frontier(1, 1, NOW - 600_000), NOW);
        let first = finality.final_to_ms;
        assert_eq!(first, Some(1_743_847_500_000));
        finality.state(frontier(2, 0, NOW - 900_000), NOW);
        assert_eq!(finality.final_to_ms, first);
        finality.state(frontier(1, 9, NOW), NOW);
        assert_eq!(finality.final_to_ms, first, "an older run is not believed");
        finality.state(frontier(2, 1, NOW), NOW);
        assert!(finality.final_to_ms > first);
    }

    #[test]
    fn a_unit_whose_clock_is_ahead_cannot_finish_the_future() {
        let mut finality = Finality::default();
        finality.state(frontier(1, 1, NOW + 86_400_000), NOW);
        assert_eq!(finality.final_to_ms, Some(NOW - NOW.rem_euclid(BUCKET_MS)));
        assert!(finality.is_final(NOW - NOW.rem_euclid(BUCKET_MS)));
        assert!(!finality.is_final(NOW + 1));
    }

    #[test]
    fn streams_that_advance_by_turns_raise_the_alarm_and_stop_finality() {
        let mut finality = Finality::default();
        let alarms: Vec<bool> = (0..8)
            .map(|turn| finality.advanced(stream(turn % 2), NOW))
            .collect();
        assert_eq!(alarms.iter().filter(|alarm| **alarm).count(), 1);
        finality.state(frontier(1, 1, NOW), NOW);
        assert_eq!(finality.final_to_ms, None);
        finality.state(frontier(1, 2, NOW), NOW + CLONE_ALARM_MS);
        assert!(finality.final_to_ms.is_some());
    }

    #[test]
    fn restarts_and_a_late_echo_of_the_old_stream_are_no_clone() {
        let mut finality = Finality::default();
        for n in [1, 2, 1, 2, 3, 4, 5, 4, 5] {
            assert!(!finality.advanced(stream(n), NOW), "{n}");
        }
    }
}
