//! ● Virtual time: what happens when, one event after the other.
//!
//! Invariant: events of one instant happen in the order in which they were put in.

use std::collections::BTreeMap;

/// Virtual milliseconds since the run began.
pub(super) type Millis = u64;

/// The centre's clock when the run begins: 2025-04-05T10:15:30Z.
const EPOCH_MS: i64 = 1_743_848_130_000;

/// By the centre's clock, milliseconds since 1970.
pub(super) fn wall_ms(now: Millis) -> i64 {
    EPOCH_MS.saturating_add_unsigned(now)
}

/// What is going to happen.
#[derive(Debug)]
pub(super) struct Queue<E> {
    now: Millis,
    order: u64,
    waiting: BTreeMap<(Millis, u64), E>,
}

impl<E> Queue<E> {
    pub(super) const fn new() -> Self {
        Self {
            now: 0,
            order: 0,
            waiting: BTreeMap::new(),
        }
    }

    pub(super) const fn now(&self) -> Millis {
        self.now
    }

    /// Puts an event in; what should have happened already happens next.
    pub(super) fn at(&mut self, when: Millis, event: E) {
        self.order += 1;
        self.waiting.insert((when.max(self.now), self.order), event);
    }

    pub(super) fn after(&mut self, delay: Millis, event: E) {
        self.at(self.now + delay, event);
    }

    /// The next event; the time is then its time.
    pub(super) fn next(&mut self) -> Option<E> {
        let ((when, _), event) = self.waiting.pop_first()?;
        self.now = when;
        Some(event)
    }
}
