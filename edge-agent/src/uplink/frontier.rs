//! The unit's statement of completeness. Pure.
//!
//! Every frame says: "everything of mine before this event time has been counted". That holds for
//! all event times below both the oldest passage that waits for the centre and the largest delay
//! with which the camera hands passages over. Declared losses and quarantined passages do not hold
//! it back: the centre knows of them and marks the windows incomplete instead.

use proto::EventTime;
use proto::header::Frontier;

/// The statements of one run.
#[derive(Debug, Clone)]
pub struct Statements {
    run: u32,
    counter: u64,
    camera_delay_max_ms: i64,
}

impl Statements {
    /// The statements of the `run`-th run of a unit whose camera is late by at most this much.
    #[must_use]
    pub const fn new(run: u32, camera_delay_max_ms: i64) -> Self {
        Self {
            run,
            counter: 0,
            camera_delay_max_ms,
        }
    }

    /// The centre knows this statement as the highest of the unit. Where none of ours was as high,
    /// another run made it, whose number is lost or was drawn by a wrong clock: ours is higher from now
    /// on, and is returned.
    pub fn exceed(&mut self, run: u32, counter: u64) -> Option<u32> {
        if (run, counter) <= (self.run, self.counter) {
            return None;
        }
        self.run = run.saturating_add(1);
        self.counter = self.counter.max(counter);
        Some(self.run)
    }

    /// The next statement, each with a higher counter than all before.
    pub fn next(&mut self, oldest_unsettled: Option<EventTime>, now: EventTime) -> Frontier {
        self.counter = self.counter.saturating_add(1);
        let by_camera = now.as_millis().saturating_sub(self.camera_delay_max_ms);
        let before = oldest_unsettled.map_or(by_camera, |oldest| oldest.as_millis().min(by_camera));
        Frontier {
            before: EventTime::from_millis(before),
            run: self.run,
            counter: self.counter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn the_older_of_backlog_and_camera_delay_bounds_the_statement() {
        let mut statements = Statements::new(3, DAY_MS);
        let wall = EventTime::from_millis(10 * DAY_MS);
        let day = |days: i64| EventTime::from_millis(days * DAY_MS);
        for (oldest, before) in [
            (None, 9),
            (Some(day(10)), 9),
            (Some(day(9)), 9),
            (Some(day(2)), 2),
        ] {
            assert_eq!(
                statements.next(oldest, wall).before,
                day(before),
                "{oldest:?}"
            );
        }
    }

    #[test]
    fn a_run_that_begins_below_what_the_centre_knows_goes_above_it() {
        let order = |statements: &mut Statements| {
            let made = statements.next(None, EventTime::from_millis(0));
            (made.run, made.counter)
        };
        let mut statements = Statements::new(3, DAY_MS);
        order(&mut statements);
        for of_ours in [(2, 99), (3, 0), (3, 1)] {
            assert_eq!(statements.exceed(of_ours.0, of_ours.1), None, "{of_ours:?}");
        }
        for (run, counter) in [(3, 9), (7, 2), (u32::MAX - 1, 5), (u32::MAX, 60)] {
            assert!(statements.exceed(run, counter).is_some());
            assert!(order(&mut statements) > (run, counter));
            assert_eq!(statements.exceed(run, counter), None, "told again");
        }
    }

    #[test]
    fn the_counter_rises_with_every_statement() {
        let mut statements = Statements::new(3, DAY_MS);
        let made = [(); 3].map(|()| statements.next(None, EventTime::from_millis(0)));
        assert_eq!(
            made.map(|frontier| (frontier.run, frontier.counter)),
            [(3, 1), (3, 2), (3, 3)]
        );
    }
}
