//! When a PUBACK leaves.
//!
//! Most of what a message costs the gate is the kernel's work for a write. A unit without a backlog
//! sends some three small messages a second and is sent one receipt: its PUBACKs wait for that
//! receipt and leave in the same TLS record, a third as many writes.
//!
//! A unit with a backlog measures the link by its PUBACKs. It sends large messages, so after one of
//! these, and after the connection began, every PUBACK leaves at once for a while.
//!
//! Invariants: no PUBACK waits longer than `WAIT`; at most `OWED_MAX` wait; whatever else is
//! written takes them along; their order stays.
//!
//! Pure: the time is handed in.

use std::time::{Duration, Instant};

use proto::limits::{PROMPT_BYTES, PROMPT_MS};

/// How long after a large message, or after the beginning, nothing waits.
const PROMPT: Duration = Duration::from_millis(PROMPT_MS);
/// How long a PUBACK waits for something else to be written: receipts come once a second.
const WAIT: Duration = Duration::from_millis(1_200);
/// So many wait; the next one takes all along. A unit that is held up by the number of its
/// unacknowledged messages may have four times as many.
const OWED_MAX: usize = 8;
/// The PUBACKs of one connection that wait in its output.
#[derive(Debug)]
pub struct Owed {
    prompt_until: Instant,
    count: usize,
    /// When the oldest has waited long enough.
    due: Option<Instant>,
}

impl Owed {
    /// For a connection that begins.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            prompt_until: now + PROMPT,
            count: 0,
            due: None,
        }
    }

    /// The PUBACK of a message of so many bytes was put into the output.
    pub fn put(&mut self, message_bytes: usize, now: Instant) {
        if message_bytes >= PROMPT_BYTES {
            self.prompt_until = now + PROMPT;
        }
        self.count += 1;
        let at_once = now < self.prompt_until || self.count > OWED_MAX;
        let due = if at_once { now } else { now + WAIT };
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// How many wait.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// When they leave, if nothing else is written before; none while none waits.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Output was written: they are on their way, or next.
    pub const fn gone(&mut self) {
        self.count = 0;
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: usize = 200;

    fn calm() -> (Owed, Instant) {
        let start = service::clock::monotonic();
        (Owed::new(start), start + PROMPT)
    }

    #[test]
    fn small_messages_of_a_calm_unit_are_acknowledged_together() {
        let (mut owed, now) = calm();
        owed.put(SMALL, now);
        assert_eq!(owed.due(), Some(now + WAIT));
        owed.put(SMALL, now + WAIT / 2);
        assert_eq!(owed.due(), Some(now + WAIT), "the oldest decides");
        assert_eq!(owed.count(), 2);
        owed.gone();
        assert_eq!((owed.count(), owed.due()), (0, None));
    }

    #[test]
    fn a_new_connection_is_acknowledged_at_once() {
        let start = service::clock::monotonic();
        let mut owed = Owed::new(start);
        let soon = start + PROMPT - Duration::from_millis(1);
        owed.put(SMALL, soon);
        assert_eq!(owed.due(), Some(soon));
    }

    #[test]
    fn a_large_message_and_what_follows_are_acknowledged_at_once() {
        let (mut owed, now) = calm();
        owed.put(SMALL, now);
        let then = now + WAIT / 4;
        owed.put(PROMPT_BYTES, then);
        assert_eq!(owed.due(), Some(then), "those that waited go with it");
        owed.gone();
        let later = then + PROMPT - Duration::from_millis(1);
        owed.put(SMALL, later);
        assert_eq!(owed.due(), Some(later));
        owed.gone();
        owed.put(SMALL, then + PROMPT);
        assert_eq!(owed.due(), Some(then + PROMPT + WAIT));
    }

    proptest! {
        #[test]
        fn none_waits_too_long_and_few_wait(
            steps in proptest::collection::vec((0_u64..700, 1_usize..700, any::<bool>()), 1..200),
        ) {
            let (mut owed, mut now) = calm();
            let mut oldest = None;
            for (pause_ms, bytes, written) in steps {
                now += Duration::from_millis(pause_ms);
                if written || owed.due().is_some_and(|due| due <= now) {
                    owed.gone();
                    oldest = None;
                }
                owed.put(bytes, now);
                let since = *oldest.get_or_insert(now);
                let due = owed.due().expect("one waits");
                prop_assert!(due <= since + WAIT);
                prop_assert!(owed.count() <= OWED_MAX || due <= now);
            }
        }
    }
}
