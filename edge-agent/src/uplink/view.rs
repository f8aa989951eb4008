//! What the uplink shows of itself, for status, metrics and health. Pure.

use proto::EventTime;

use super::allowance::Held;
use super::exchange::Tally;

/// Whether the centre can be reached, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkPhase {
    /// Not connected.
    Down,
    /// An attempt is under way.
    Connecting,
    /// Connected, but only probes may leave.
    Waiting,
    /// Connected and sending.
    Up,
}

impl LinkPhase {
    /// Whether there is a link at all. Attempts do not interrupt an outage.
    #[must_use]
    pub const fn is_connected(self) -> bool {
        matches!(self, Self::Waiting | Self::Up)
    }

    /// Whether passages flow.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up)
    }

    /// The word for it in status and logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Connecting => "connecting",
            Self::Waiting => "waiting",
            Self::Up => "up",
        }
    }
}

/// What the uplink shows of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkView {
    /// Whether the centre can be reached.
    pub phase: LinkPhase,
    /// Over which broker: its place in the list.
    pub broker: usize,
    /// Since when, by the unit's clock.
    pub since: EventTime,
    /// Why it is not up.
    pub reason: Option<String>,
    /// When the last receipt came, by the unit's clock.
    pub last_receipt: Option<EventTime>,
    /// Messages without an answer.
    pub in_flight_messages: usize,
    /// Passages in them.
    pub in_flight_passages: u64,
    /// Bytes of those that were handed to the link.
    pub in_flight_bytes: usize,
    /// Smoothed time from sending to receipt.
    pub receipt_time_ms: Option<u64>,
    /// What the link carries, as far as it was measured.
    pub bytes_per_s: Option<u64>,
    /// From sending to the broker's acknowledgement while nothing queues.
    pub round_trip_ms: Option<u64>,
    /// Why the owner's rules hold something back.
    pub held: Option<Held>,
    /// Until when they do.
    pub held_until: Option<EventTime>,
    /// Bytes that the link carried in this day, both ways, headers estimated.
    pub day_bytes: u64,
    /// How many it may, by the owner's rules.
    pub day_bytes_max: Option<u64>,
    /// When the unit's certificate expires; none while it cannot be read.
    pub certificate_not_after: Option<EventTime>,
    /// What happened since the start.
    pub tally: Tally,
}

impl UplinkView {
    /// Before anything happened.
    #[must_use]
    pub const fn new(since: EventTime, certificate_not_after: Option<EventTime>) -> Self {
        Self {
            phase: LinkPhase::Down,
            broker: 0,
            since,
            reason: None,
            last_receipt: None,
            in_flight_messages: 0,
            in_flight_passages: 0,
            in_flight_bytes: 0,
            receipt_time_ms: None,
            bytes_per_s: None,
            round_trip_ms: None,
            held: None,
            held_until: None,
            day_bytes: 0,
            day_bytes_max: None,
            certificate_not_after,
            tally: Tally {
                links: 0,
                link_losses: 0,
                messages_sent: 0,
                messages_resent: 0,
                passages_sent: 0,
                messages_answered: 0,
                passages_answered: 0,
                receipts: 0,
                refused_later: 0,
                refused_reshape: 0,
                refused_never: 0,
                foreign: 0,
                suspects: 0,
            },
        }
    }
}
