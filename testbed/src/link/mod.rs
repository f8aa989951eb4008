//! A bad link between a unit and its broker: slow, far, lossy, silent, cut.
//!
//! Stands where the mobile network stands: a TCP proxy on this machine, so that it needs no rights
//! and no network namespaces. [`mod@line`] decides when each segment arrives (pure, in virtual time);
//! [`Link`] moves the bytes.
//!
//! ```text
//! unit ──TCP──► Link ──TCP──► broker        each direction has a shape of its own
//! ```
//!
//! What is like the real thing: rate with the headers of IP and TCP counted, delay, jitter, a queue
//! of the modem's size before the slow wire with the sender held back when it is full, a lost
//! segment that stalls all behind it, connections reset, connections that fall silent.
//! What is not: the handshake of TCP itself costs no round trip, acknowledgements take no room on
//! the way back, and there is no congestion control, so a loss costs its stall and no more.

pub mod line;
mod proxy;

use std::time::Duration;

pub use proxy::{Link, LinkCounts};

/// The queue of a modem that is not given otherwise: about what LTE sticks and 3G routers hold.
const QUEUE_BYTES: usize = 32 * 1_024;

/// How one direction of a link behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Bytes per second on the wire, headers included; none: as fast as it goes.
    pub rate_bytes_per_s: Option<u32>,
    /// From one end to the other; half of the round trip.
    pub delay: Duration,
    /// Up to so much on top, drawn anew for each segment.
    pub jitter: Duration,
    /// The share of segments that are lost, 0 to 1, and sent again by TCP.
    pub loss: f64,
    /// Bytes that wait before the wire, at most; a full queue holds the sender back.
    pub queue_bytes: usize,
}

impl Shape {
    /// No limit but the machine's.
    pub const FREE: Self = Self {
        rate_bytes_per_s: None,
        delay: Duration::ZERO,
        jitter: Duration::ZERO,
        loss: 0.0,
        queue_bytes: QUEUE_BYTES,
    };

    /// This many kbit/s, half of this round trip.
    #[must_use]
    pub fn slow(kbit_per_s: u32, round_trip: Duration) -> Self {
        Self {
            rate_bytes_per_s: Some(kbit_per_s * 125),
            delay: round_trip / 2,
            ..Self::FREE
        }
    }
}

/// One of the two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected.
    Up,
    /// Towards whoever connected.
    Down,
}

/// Both directions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// From whoever connected.
    pub up: Shape,
    /// Towards whoever connected.
    pub down: Shape,
}

impl Plan {
    /// The same both ways.
    #[must_use]
    pub const fn both(shape: Shape) -> Self {
        Self {
            up: shape,
            down: shape,
        }
    }
}
