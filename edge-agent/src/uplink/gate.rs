//! Whether, and how many, messages may be on their way: the centre's beacon and slow start. Pure.
//!
//! Shut until a beacon of this connection says that intake is open: a message to a topic that
//! nobody reads is acknowledged by the broker and gone. While shut, one message per backoff probes.
//! Opening begins with a window of 1 that doubles per receipt, so that a thousand units that were
//! held back together do not come back together (architecture rule 13).

use proto::frame::WIRE_VERSION;
use proto::receipt::{Beacon, Intake};

use super::backoff::{Backoff, Jitter, Millis};

/// How long a retained beacon may take to arrive after the subscription before the first probe.
pub const BEACON_WAIT_MS: Millis = 2_000;

/// Why nothing but probes may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shut {
    /// No beacon came on this connection: nobody may be listening.
    NoBeacon,
    /// The beacon says that intake is closed.
    Closed,
    /// The centre refused a message for the time being.
    Refused,
    /// The centre does not read the wire version that this agent writes.
    Version,
}

impl Shut {
    /// The words for it in status and logs.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoBeacon => "no beacon from the centre",
            Self::Closed => "the centre's intake is closed",
            Self::Refused => "the centre asked to wait",
            Self::Version => "the centre does not read this agent's wire version",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open {
        from: Millis,
    },
    Shut {
        why: Shut,
        failures: u32,
        probe_at: Millis,
    },
}

/// The gate between the buffer and the link.
#[derive(Debug, Clone)]
pub struct Gate {
    state: State,
    window: usize,
    window_max: usize,
    probes: Backoff,
    open_jitter_ms: Millis,
    /// The life of the centre and the token in it of the owner who spoke last. A database that was
    /// put back in time gives out tokens once more that its life before had passed.
    owner: Option<(u32, u64)>,
}

/// What a beacon changes for messages without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Whoever had them is gone or never was there: they are to be sent again.
    Resend,
}

impl Gate {
    /// Shut, as before any connection.
    #[must_use]
    pub const fn new(window_max: usize, probes: Backoff, open_jitter_ms: Millis) -> Self {
        let state = State::Shut {
            why: Shut::NoBeacon,
            failures: 0,
            probe_at: Millis::MAX,
        };
        Self {
            state,
            window: 1,
            window_max,
            probes,
            open_jitter_ms,
            owner: None,
        }
    }

    /// A fresh connection has its subscriptions; the retained beacon is about to come.
    pub fn subscribed(&mut self, now: Millis) {
        self.owner = None;
        self.window = 1;
        let probe_at = now + BEACON_WAIT_MS;
        self.state = State::Shut {
            why: Shut::NoBeacon,
            failures: 0,
            probe_at,
        };
    }

    /// Whether the owner who says so is one no longer.
    #[must_use]
    pub fn is_outdated(&self, beacon: &Beacon) -> bool {
        self.owner.is_some_and(|owner| owner_of(beacon) < owner)
    }

    /// A beacon of the unit's own centre, in its present life.
    pub fn beacon(&mut self, now: Millis, beacon: &Beacon, jitter: &mut Jitter) -> Change {
        if self.is_outdated(beacon) {
            return Change::None;
        }
        let new_owner = self.owner != Some(owner_of(beacon));
        self.owner = Some(owner_of(beacon));
        let spoken = (beacon.wire_min..=beacon.wire_max).contains(&WIRE_VERSION);
        let wanted = match beacon.intake {
            _ if !spoken => Err(Shut::Version),
            Intake::Closed => Err(Shut::Closed),
            Intake::Open => Ok(()),
        };
        match (self.state, wanted) {
            (State::Shut { why, .. }, Err(still)) if why == still => {}
            (_, Err(why)) => self.shut(now, why, jitter),
            (State::Open { .. }, Ok(())) if !new_owner => {}
            (
                State::Shut {
                    why: Shut::Refused, ..
                },
                Ok(()),
            ) if !new_owner => {}
            (
                State::Shut {
                    why: Shut::Closed | Shut::Version,
                    ..
                },
                Ok(()),
            ) => {
                self.open(now + jitter.up_to(self.open_jitter_ms));
                return Change::Resend;
            }
            (_, Ok(())) => self.open(now),
        }
        if new_owner {
            Change::Resend
        } else {
            Change::None
        }
    }

    /// The centre refused something for now.
    pub fn refused(&mut self, now: Millis, jitter: &mut Jitter) {
        match &mut self.state {
            State::Open { .. } => self.shut(now, Shut::Refused, jitter),
            State::Shut {
                failures, probe_at, ..
            } => {
                *failures = failures.saturating_add(1);
                *probe_at = now + self.probes.wait_ms(*failures, jitter);
            }
        }
    }

    /// A receipt answered something that was on its way.
    pub fn answered(&mut self, now: Millis) {
        match &mut self.state {
            State::Open { .. } => self.window = (self.window * 2).min(self.window_max),
            State::Shut {
                why: Shut::NoBeacon | Shut::Refused,
                ..
            } => self.open(now),
            State::Shut { failures, .. } => *failures = 0,
        }
    }

    /// Messages that may be on their way now; 0 while shut.
    #[must_use]
    pub fn window(&self, now: Millis) -> usize {
        match self.state {
            State::Open { from } if from <= now => self.window,
            State::Open { .. } | State::Shut { .. } => 0,
        }
    }

    /// Whether a single message may leave although the gate is shut.
    #[must_use]
    pub fn may_probe(&self, now: Millis) -> bool {
        matches!(self.state, State::Shut { probe_at, .. } if probe_at <= now)
    }

    /// That message leaves.
    pub fn probed(&mut self, now: Millis, jitter: &mut Jitter) {
        if let State::Shut {
            failures, probe_at, ..
        } = &mut self.state
        {
            *failures = failures.saturating_add(1);
            // At least the half of the bound: a probe needs time for its answer.
            let bound = self.probes.bound_ms(*failures);
            *probe_at = now + bound / 2 + jitter.up_to(bound - bound / 2);
        }
    }

    /// When the gate changes by itself.
    #[must_use]
    pub fn timeout(&self, now: Millis) -> Option<Millis> {
        match self.state {
            State::Open { from } => (from > now).then_some(from),
            State::Shut { probe_at, .. } => (probe_at > now).then_some(probe_at),
        }
    }

    /// Why it is shut, if it is.
    #[must_use]
    pub const fn why_shut(&self) -> Option<Shut> {
        match self.state {
            State::Open { .. } => None,
            State::Shut { why, .. } => Some(why),
        }
    }

    fn open(&mut self, from: Millis) {
        self.window = 1;
        self.state = State::Open { from };
    }

    fn shut(&mut self, now: Millis, why: Shut, jitter: &mut Jitter) {
        self.window = 1;
        let probe_at = now + self.probes.wait_ms(1, jitter);
        self.state = State::Shut {
            why,
            failures: 1,
            probe_at,
        };
    }
}

const fn owner_of(beacon: &Beacon) -> (u32, u64) {
    (beacon.centre.timeline, beacon.token)
}

#[cfg(test)]
mod tests {
    use proto::receipt::Centre;
    use proto::{CentreId, EventTime};

    use super::*;

    const PROBES: Backoff = Backoff {
        base_ms: 1_000,
        cap_ms: 60_000,
    };

    fn beacon(token: u64, intake: Intake) -> Beacon {
        Beacon {
            centre: Centre {
                id: CentreId::from_bytes([1; 16]),
                timeline: 1,
            },
            token,
            build: "1".into(),
            wire_min: WIRE_VERSION,
            wire_max: WIRE_VERSION,
            intake,
            sent_at: EventTime::from_millis(0),
            summaries_age_max_ms: u64::MAX,
        }
    }

    #[test]
    fn an_owner_of_a_later_life_is_heard_although_its_token_is_lower() {
        let (mut gate, mut jitter) = subscribed();
        gate.beacon(0, &beacon(36, Intake::Closed), &mut jitter);
        let mut promoted = beacon(35, Intake::Open);
        assert!(gate.is_outdated(&promoted));
        promoted.centre.timeline = 2;
        assert!(!gate.is_outdated(&promoted));
        gate.beacon(1, &promoted, &mut jitter);
        assert!(gate.is_outdated(&beacon(99, Intake::Open)));
        assert_ne!(gate.why_shut(), Some(Shut::Closed));
    }

    fn subscribed() -> (Gate, Jitter) {
        let mut gate = Gate::new(16, PROBES, 10_000);
        gate.subscribed(0);
        (gate, Jitter::new(1))
    }

    #[test]
    fn without_a_beacon_one_probe_leaves_per_backoff() {
        let (mut gate, mut jitter) = subscribed();
        assert!(!gate.may_probe(BEACON_WAIT_MS - 1) && gate.may_probe(BEACON_WAIT_MS));
        gate.probed(BEACON_WAIT_MS, &mut jitter);
        assert!(!gate.may_probe(BEACON_WAIT_MS) && gate.window(BEACON_WAIT_MS) == 0);
        let next = gate.timeout(BEACON_WAIT_MS).unwrap();
        assert!(next <= BEACON_WAIT_MS + 1_000 && gate.may_probe(next));
    }

    #[test]
    fn an_open_beacon_opens_with_a_window_of_one_that_doubles_per_receipt() {
        let (mut gate, mut jitter) = subscribed();
        assert_eq!(
            gate.beacon(5, &beacon(1, Intake::Open), &mut jitter),
            Change::Resend
        );
        let mut windows = vec![gate.window(5)];
        for _ in 0..6 {
            gate.answered(6);
            windows.push(gate.window(6));
        }
        assert_eq!(windows, [1, 2, 4, 8, 16, 16, 16]);
    }

    #[test]
    fn a_reopened_intake_is_entered_within_the_jitter_and_not_before() {
        let (mut gate, mut jitter) = subscribed();
        gate.beacon(0, &beacon(1, Intake::Closed), &mut jitter);
        assert_eq!(
            gate.beacon(50_000, &beacon(1, Intake::Open), &mut jitter),
            Change::Resend
        );
        assert_eq!(gate.window(50_000), 0);
        let from = gate.timeout(50_000).unwrap();
        assert!(from <= 60_000 && gate.window(from) == 1);
    }

    #[test]
    fn a_new_owner_restarts_the_window_at_once_and_an_old_one_is_not_heard() {
        let (mut gate, mut jitter) = subscribed();
        gate.beacon(0, &beacon(4, Intake::Open), &mut jitter);
        gate.answered(1);
        assert_eq!(
            gate.beacon(2, &beacon(4, Intake::Open), &mut jitter),
            Change::None
        );
        assert_eq!(gate.window(2), 2);
        assert_eq!(
            gate.beacon(2, &beacon(3, Intake::Closed), &mut jitter),
            Change::None
        );
        assert_eq!(gate.window(2), 2);
        assert_eq!(
            gate.beacon(3, &beacon(5, Intake::Open), &mut jitter),
            Change::Resend
        );
        assert_eq!(gate.window(3), 1);
    }

    #[test]
    fn a_receipt_ends_a_wait_that_no_beacon_asked_for() {
        let (mut gate, mut jitter) = subscribed();
        gate.answered(1);
        assert_eq!((gate.why_shut(), gate.window(1)), (None, 1));
        gate.refused(2, &mut jitter);
        assert_eq!((gate.why_shut(), gate.window(2)), (Some(Shut::Refused), 0));
        gate.answered(3);
        assert_eq!((gate.why_shut(), gate.window(3)), (None, 1));
        gate.beacon(4, &beacon(1, Intake::Closed), &mut jitter);
        gate.answered(5);
        assert_eq!((gate.why_shut(), gate.window(5)), (Some(Shut::Closed), 0));
    }

    #[test]
    fn a_centre_that_cannot_read_this_version_gets_probes_only() {
        let (mut gate, mut jitter) = subscribed();
        let mut later = beacon(1, Intake::Open);
        (later.wire_min, later.wire_max) = (WIRE_VERSION + 1, WIRE_VERSION + 2);
        gate.beacon(0, &later, &mut jitter);
        assert_eq!((gate.why_shut(), gate.window(0)), (Some(Shut::Version), 0));
    }
}
