//! The backlog's guaranteed share of the link. Pure.
//!
//! Live goes first, and the backlog has what is left. When that is less than its share, it is owed
//! the difference: what live sends while the backlog waits builds up a debt, what the backlog sends
//! pays it off, and a debt of a whole message is paid before live goes on. So over any stretch in
//! which both wait all the time, bytes of the backlog : bytes of live = share : the rest.

use proto::limits::IN_FLIGHT_BYTES_MAX;

use super::lanes::Lane;

/// A debt does not grow beyond this: what was not there to be sent is not made up for.
const OWED_BYTES_MAX: u64 = IN_FLIGHT_BYTES_MAX as u64;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// What is guaranteed to the backlog, 1 to 90.
    percent: u64,
    /// In hundredths of a byte.
    owed: u64,
}

impl Share {
    /// Nothing is owed yet.
    #[must_use]
    pub const fn new(percent: u64) -> Self {
        Self { percent, owed: 0 }
    }

    /// A message of so many bytes left by a lane; whether messages of the other kind wait.
    pub fn sent(&mut self, lane: Lane, bytes: usize, others_wait: bool) {
        let bytes = 100 * bytes as u64;
        match lane {
            Lane::Live if others_wait => {
                let more = bytes * self.percent / (100 - self.percent);
                self.owed = (self.owed + more).min(100 * OWED_BYTES_MAX);
            }
            Lane::Live => self.owed = 0,
            Lane::Backlog | Lane::Suspect => self.owed = self.owed.saturating_sub(bytes),
        }
    }

    /// Whether a message of the backlog of so many bytes goes before live ones.
    #[must_use]
    pub const fn owes(&self, bytes: usize) -> bool {
        self.owed >= 100 * bytes as u64
    }

    /// Of the bytes that may lack a receipt, what a lane may take while the other has something to
    /// send.
    #[must_use]
    pub const fn of_flight(&self, lane: Lane) -> usize {
        // Room for live, which must not wait for a receipt of the backlog.
        const LIVE_PERCENT: usize = 10;
        #[expect(clippy::cast_possible_truncation, reason = "at most 90")]
        let percent = match lane {
            Lane::Live => 100 - self.percent as usize,
            Lane::Backlog | Lane::Suspect => 100 - LIVE_PERCENT,
        };
        IN_FLIGHT_BYTES_MAX / 100 * percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_both_waiting_the_backlog_gets_its_share_to_the_byte() {
        for (percent, message) in [(30, 2_000), (30, 4_096), (5, 700), (90, 10_240)] {
            let mut share = Share::new(percent);
            let (mut live, mut backlog) = (0_u64, 0_u64);
            for _ in 0..10_000 {
                if share.owes(message) {
                    share.sent(Lane::Backlog, message, true);
                    backlog += message as u64;
                } else {
                    share.sent(Lane::Live, 300, true);
                    live += 300;
                }
            }
            let least = (live + backlog) * percent / 100 - message as u64 - 300;
            assert!(
                (least..=least + 2 * (message as u64 + 300)).contains(&backlog),
                "{percent} %: {backlog} of {}",
                live + backlog
            );
        }
    }

    #[test]
    fn a_debt_to_the_backlog_does_not_grow_without_end() {
        let mut share = Share::new(30);
        (0..1_000).for_each(|_| share.sent(Lane::Live, 100_000, true));
        assert!(share.owes(IN_FLIGHT_BYTES_MAX) && !share.owes(IN_FLIGHT_BYTES_MAX + 1));
    }

    #[test]
    fn nothing_is_owed_for_a_time_in_which_no_backlog_waited() {
        let mut share = Share::new(30);
        share.sent(Lane::Live, 100_000, true);
        assert!(share.owes(40_000));
        share.sent(Lane::Live, 100_000, false);
        assert!(!share.owes(1));
    }
}
