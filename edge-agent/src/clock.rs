//! The clock shell: where the agent reads the time. Everything pure is told.

use std::time::Instant;

use proto::EventTime;
use service::clock::{monotonic, wall_millis};

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
