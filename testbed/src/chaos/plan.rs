//! ● Which fault when: all of it follows from the seed and the seconds.
//!
//! Invariants: the same seed and seconds give the same plan; no two faults hold the same thing at
//! the same time; every fault has ended when the time is over. Kinds are dealt from a shuffled deck,
//! so that each comes up before any comes up again, and a minute shows most of them.

use std::fmt;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::fault::{CENTRES, Fault, Hold, Program, UNITS, Way};

/// Nothing happens before the first traffic is through.
const FIRST_AT_MS: u64 = 1_500;
/// From the beginning of one fault to the next.
const PAUSE_MS: std::ops::Range<u64> = 400..4_200;
/// A drawn fault whose things are taken is drawn again so often, then put off.
const DRAWS: usize = 8;

const HOUR_S: i64 = 3_600;
const YEAR_S: i64 = 365 * 24 * HOUR_S;
/// Ahead of the truth, or behind.
const WRONG_CLOCKS_S: [i64; 5] = [HOUR_S, -HOUR_S, 3 * YEAR_S, 12 * YEAR_S, -3 * YEAR_S];

/// A fault with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) at_ms: u64,
    pub(super) for_ms: u64,
    pub(super) fault: Fault,
}

/// A side of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    // Ends come before beginnings of the same millisecond: what they held is free.
    End,
    Begin,
}

/// All faults of a run, in the order of their beginnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    faults: Vec<Planned>,
}

/// What is dealt: a kind of fault, its target still open.
#[derive(Debug, Clone, Copy)]
enum Card {
    KillAgent,
    KillBroker,
    KillAggregator,
    KillDatabase,
    FreezeAgent,
    FreezeBroker,
    FreezeAggregator,
    FreezeDatabase,
    RestartAgent,
    RestartBroker,
    RestartAggregator,
    RestartDatabase,
    Failover,
    CutUnit,
    CutCentre,
    HalfOpenUnit,
    HalfOpenCentre,
    Close,
    BadLink,
    FullDiskAgent,
    FullDiskDatabase,
    WrongClock,
    NoClock,
    Expired,
    Revoked,
    Garbage,
}

const DECK: [Card; 26] = [
    Card::KillAgent,
    Card::KillBroker,
    Card::KillAggregator,
    Card::KillDatabase,
    Card::FreezeAgent,
    Card::FreezeBroker,
    Card::FreezeAggregator,
    Card::FreezeDatabase,
    Card::RestartAgent,
    Card::RestartBroker,
    Card::RestartAggregator,
    Card::RestartDatabase,
    Card::Failover,
    Card::CutUnit,
    Card::CutCentre,
    Card::HalfOpenUnit,
    Card::HalfOpenCentre,
    Card::Close,
    Card::BadLink,
    Card::FullDiskAgent,
    Card::FullDiskDatabase,
    Card::WrongClock,
    Card::NoClock,
    Card::Expired,
    Card::Revoked,
    Card::Garbage,
];

impl Plan {
    /// Of so many seconds.
    #[must_use]
    pub fn new(seed: u64, seconds: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let end_ms = seconds * 1_000;
        let mut faults: Vec<Planned> = Vec::new();
        let mut deck = Vec::new();
        let mut at_ms = FIRST_AT_MS;
        while at_ms < end_ms {
            if deck.is_empty() {
                deck = DECK.to_vec();
                deck.shuffle(&mut random);
            }
            // A card that does not fit now goes under the deck.
            for _ in 0..DRAWS.min(deck.len()) {
                let Some(card) = deck.pop() else { break };
                let (fault, for_ms) = card.draw(&mut random);
                let ends_in_time = at_ms + for_ms <= end_ms;
                if ends_in_time && is_free(&faults, fault, at_ms) {
                    faults.push(Planned {
                        at_ms,
                        for_ms,
                        fault,
                    });
                    break;
                }
                deck.insert(0, card);
            }
            at_ms += random.random_range(PAUSE_MS);
        }
        Self { faults }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.faults.len()
    }

    /// Too short a time for a single one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Beginnings and ends in the order of their times.
    pub(super) fn sides(&self) -> Vec<(u64, Side, Fault)> {
        let mut sides: Vec<(u64, Side, usize)> = Vec::with_capacity(2 * self.faults.len());
        for (place, planned) in self.faults.iter().enumerate() {
            sides.push((planned.at_ms, Side::Begin, place));
            if !planned.fault.is_momentary() {
                // After its beginning, however short it is.
                let end_ms = planned.at_ms + planned.for_ms.max(1);
                sides.push((end_ms, Side::End, place));
            }
        }
        sides.sort_unstable();
        sides
            .into_iter()
            .map(|(at_ms, side, place)| (at_ms, side, self.faults[place].fault))
            .collect()
    }
}

/// Whether nobody holds what the fault needs.
fn is_free(faults: &[Planned], fault: Fault, at_ms: u64) -> bool {
    let wanted = fault.holds();
    let held = faults
        .iter()
        .filter(|planned| planned.at_ms + planned.for_ms >= at_ms)
        .flat_map(|planned| planned.fault.holds());
    !held.into_iter().any(|hold: Hold| wanted.contains(&hold))
}

impl Card {
    /// The fault and for how many milliseconds.
    fn draw(self, random: &mut ChaCha8Rng) -> (Fault, u64) {
        let unit = random.random_range(0..UNITS);
        let centre = random.random_range(0..CENTRES);
        let (agent, aggregator) = (Program::Agent(unit), Program::Aggregator(centre));
        let of_centre = [Way::OfCentre(centre), Way::ToDatabase(centre)];
        let of_centre = of_centre[random.random_range(0..of_centre.len())];
        let any = [Way::OfUnit(unit), of_centre][random.random_range(0..2)];
        let reloaded = [agent, Program::Broker, aggregator][random.random_range(0..3)];
        let wrong_s = WRONG_CLOCKS_S[random.random_range(0..WRONG_CLOCKS_S.len())];
        let camera_knows = random.random();
        let mut lasting = |least, most| random.random_range(least..=most);
        match self {
            Self::KillAgent => (Fault::Kill(agent), lasting(0, 3_000)),
            Self::KillBroker => (Fault::Kill(Program::Broker), lasting(0, 3_000)),
            Self::KillAggregator => (Fault::Kill(aggregator), lasting(0, 4_000)),
            Self::KillDatabase => (Fault::Kill(Program::Database), lasting(0, 2_000)),
            Self::FreezeAgent => (Fault::Freeze(agent), lasting(500, 6_000)),
            Self::FreezeBroker => (Fault::Freeze(Program::Broker), lasting(500, 6_000)),
            // Longer than its lease: it wakes up dispossessed.
            Self::FreezeAggregator => (Fault::Freeze(aggregator), lasting(2_500, 7_000)),
            Self::FreezeDatabase => (Fault::Freeze(Program::Database), lasting(500, 5_000)),
            Self::RestartAgent => (Fault::Restart(agent), 0),
            Self::RestartBroker => (Fault::Restart(Program::Broker), 0),
            Self::RestartAggregator => (Fault::Restart(aggregator), 0),
            Self::RestartDatabase => (Fault::Restart(Program::Database), 0),
            Self::Failover => (Fault::Failover, 0),
            Self::CutUnit => (Fault::Cut(Way::OfUnit(unit)), 0),
            Self::CutCentre => (Fault::Cut(of_centre), 0),
            Self::HalfOpenUnit => (Fault::HalfOpen(Way::OfUnit(unit)), lasting(0, 15_000)),
            Self::HalfOpenCentre => (Fault::HalfOpen(of_centre), lasting(0, 8_000)),
            Self::Close => (Fault::Close(any), lasting(500, 8_000)),
            Self::BadLink => (Fault::BadLink(unit), lasting(8_000, 20_000)),
            Self::FullDiskAgent => (Fault::FullDisk(agent), lasting(2_000, 8_000)),
            Self::FullDiskDatabase => (Fault::FullDisk(Program::Database), lasting(2_000, 8_000)),
            Self::WrongClock => (Fault::WrongClock(unit, wrong_s), lasting(3_000, 10_000)),
            Self::NoClock => (Fault::NoClock(unit, camera_knows), lasting(3_000, 10_000)),
            Self::Expired => (Fault::Expired(unit), lasting(2_000, 6_000)),
            Self::Revoked => (Fault::Revoked(unit), lasting(2_000, 6_000)),
            Self::Garbage => (Fault::Garbage(reloaded), lasting(500, 3_000)),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for planned in &self.faults {
            let (at, lasts) = (planned.at_ms as f64, planned.for_ms as f64);
            write!(f, "{:>9.3} s  {}", at / 1_000.0, planned.fault)?;
            match planned.fault.is_momentary() {
                true => writeln!(f)?,
                false => writeln!(f, ", for {:.3} s", lasts / 1_000.0)?,
            }
        }
        write!(f, "{} faults", self.faults.len())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_seed_and_the_seconds_decide_all() {
        for seed in 0..20 {
            let plan = Plan::new(seed, 600);
            assert_eq!(plan, Plan::new(seed, 600));
            assert_eq!(plan.to_string(), Plan::new(seed, 600).to_string());
            assert_ne!(plan, Plan::new(seed + 1, 600));
        }
    }

    #[test]
    fn ten_minutes_hold_two_hundred_faults_and_every_kind() {
        for seed in 0..50 {
            let plan = Plan::new(seed, 600);
            assert!(plan.len() >= 200, "seed {seed}: {}", plan.len());
            let kinds: BTreeSet<_> = plan.faults.iter().map(|one| one.fault.kind()).collect();
            assert_eq!(kinds.len(), 24, "seed {seed}: {kinds:?}");
        }
    }

    #[test]
    fn no_two_faults_hold_the_same_thing_and_all_end_in_time() {
        for seed in 0..50 {
            let mut held: Vec<Hold> = Vec::new();
            for (at_ms, side, fault) in Plan::new(seed, 120).sides() {
                assert!(at_ms <= 120_001, "{fault} at {at_ms}");
                for hold in fault.holds() {
                    match side {
                        Side::Begin => {
                            assert!(!held.contains(&hold), "seed {seed}, {at_ms} ms: {fault}");
                            if !fault.is_momentary() {
                                held.push(hold);
                            }
                        }
                        Side::End => held.retain(|other| *other != hold),
                    }
                }
            }
            assert_eq!(held, []);
        }
    }
}
