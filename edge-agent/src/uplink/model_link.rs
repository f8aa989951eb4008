//! A link for tests: one bottleneck that serves frames in order, a way there and back, and jitter
//! that delays but never reorders. No clock: whoever asks brings the time.

use super::backoff::{Jitter, Millis};
use super::rate::FRAMING_BYTES;

/// A link to one gate.
#[derive(Debug, Clone)]
pub(crate) struct ModelLink {
    pub(crate) bytes_per_s: u64,
    pub(crate) one_way_ms: Millis,
    pub(crate) jitter_ms: Millis,
    dice: Jitter,
    free_at_us: u64,
    last_up_us: u64,
    last_down_us: u64,
    /// Time that the bottleneck was busy.
    pub(crate) busy_us: u64,
}

impl ModelLink {
    pub(crate) fn new(bytes_per_s: u64, round_trip_ms: Millis, jitter_ms: Millis) -> Self {
        Self {
            bytes_per_s,
            one_way_ms: round_trip_ms / 2,
            jitter_ms,
            dice: Jitter::new(bytes_per_s ^ round_trip_ms),
            free_at_us: 0,
            last_up_us: 0,
            last_down_us: 0,
            busy_us: 0,
        }
    }

    /// When the gate has a frame that is handed over now.
    pub(crate) fn up(&mut self, now: Millis, frame_bytes: usize) -> Millis {
        let bytes = (frame_bytes + FRAMING_BYTES) as u64;
        let takes_us = bytes * 1_000_000 / self.bytes_per_s;
        self.busy_us += takes_us;
        self.free_at_us = self.free_at_us.max(now * 1_000) + takes_us;
        let arrives_us = self.free_at_us + self.way_us();
        self.last_up_us = self.last_up_us.max(arrives_us);
        self.last_up_us.div_ceil(1_000)
    }

    /// When the unit has what the gate or the centre says now. The way back is never full.
    pub(crate) fn down(&mut self, now: Millis) -> Millis {
        let arrives_us = now * 1_000 + self.way_us();
        self.last_down_us = self.last_down_us.max(arrives_us);
        self.last_down_us.div_ceil(1_000)
    }

    fn way_us(&mut self) -> u64 {
        (self.one_way_ms + self.dice.up_to(self.jitter_ms)) * 1_000
    }
}
