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

/// A unit whose store was put back may call its run by the number of the one before, of which messages
/// still come in between. So a few returns are not yet another unit.
const RETURNS_ALLOWED: u8 = 2;

/// A stream that comes back with a newer run than the one that took its place was corrected meanwhile:
/// it is alive. An echo is that only once, where a run began below its own number.
const ALIVE: u8 = 2;

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
    /// The run of the current one when it became so.
    run: u32,
    /// In a row, those of a newer run worth [`ALIVE`].
    returns: u8,
}

/// What it means that a stream has accepted further passages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// Nothing.
    Plain,
    /// It is of an earlier run than the newest.
    Behind,
    /// It raised the alarm of a cloned identity.
    Alarm,
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

    /// Takes note that a stream has accepted further passages, as a message of this run says.
    ///
    /// What an earlier run still had on its way is no turn, however often it comes between messages of
    /// the next. A copy whose run is behind does not stay so: its receipts correct it.
    pub fn advanced(&mut self, stream: StreamId, run: u32, now_ms: i64) -> Advance {
        if self.frontier.is_some_and(|known| known.run > run) {
            return Advance::Behind;
        }
        let turns = &mut self.turns;
        if turns.current == Some(stream) {
            return Advance::Plain;
        }
        let worth = if run > turns.run { ALIVE } else { 1 };
        turns.returns = match turns.before == Some(stream) {
            true => turns.returns.saturating_add(worth),
            false => 0,
        };
        turns.before = turns.current.replace(stream);
        turns.run = run;
        if turns.returns <= RETURNS_ALLOWED {
            return Advance::Plain;
        }
        let is_known = self.is_cloned(now_ms);
        self.cloned_at_ms = Some(now_ms);
        if is_known {
            Advance::Plain
        } else {
            Advance::Alarm
        }
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
        let alarms: Vec<Advance> = (0..8)
            .map(|turn| finality.advanced(stream(turn % 2), 1, NOW))
            .collect();
        let alarms = alarms.iter().filter(|advance| **advance == Advance::Alarm);
        assert_eq!(alarms.count(), 1);
        finality.state(frontier(1, 1, NOW), NOW);
        assert_eq!(finality.final_to_ms, None);
        finality.state(frontier(1, 2, NOW), NOW + CLONE_ALARM_MS);
        assert!(finality.final_to_ms.is_some());
    }

    #[test]
    fn restarts_and_a_late_echo_of_the_old_stream_are_no_clone() {
        let mut finality = Finality::default();
        for n in [1, 2, 1, 2, 3, 4, 5, 4, 5] {
            assert_eq!(finality.advanced(stream(n), 1, NOW), Advance::Plain, "{n}");
        }
    }

    #[test]
    fn copies_that_are_corrected_by_turns_are_seen_at_the_second_return() {
        let mut finality = Finality::default();
        let alarms: Vec<Advance> = (1..=4)
            .map(|run| {
                finality.state(frontier(run, 1, NOW), NOW);
                finality.advanced(stream(u8::from(run % 2 == 0)), run, NOW)
            })
            .collect();
        let plain = Advance::Plain;
        assert_eq!(alarms, [plain, plain, plain, Advance::Alarm]);
    }

    #[test]
    fn many_echoes_of_the_run_before_between_the_messages_of_the_next_are_no_clone() {
        let mut finality = Finality::default();
        finality.state(frontier(2, 1, NOW), NOW);
        for _ in 0..8 {
            assert_eq!(finality.advanced(stream(2), 2, NOW), Advance::Plain);
            assert_eq!(finality.advanced(stream(1), 1, NOW), Advance::Behind);
        }
    }
}
