//! ● What can be done to a running system, and what each of it takes hold of.

use std::fmt;

/// A unit's place among the units.
pub(super) type Unit = u8;
/// An aggregator's place: the first or the second.
pub(super) type Centre = u8;

/// Units of a run; each has a real agent.
pub(super) const UNITS: Unit = 4;
/// Aggregators of a run.
pub(super) const CENTRES: Centre = 2;

/// A program that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Agent(Unit),
    Broker,
    Aggregator(Centre),
    Database,
}

/// A way between two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// From an agent to the broker.
    OfUnit(Unit),
    /// From an aggregator to the broker.
    OfCentre(Centre),
    /// From an aggregator to the database.
    ToDatabase(Centre),
}

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL; started again at the end. Of PostgreSQL, all processes at once.
    Kill(Program),
    /// SIGSTOP, SIGCONT at the end.
    Freeze(Program),
    /// An orderly stop and a start.
    Restart(Program),
    /// PostgreSQL is killed and its standby promoted.
    Failover,
    /// All connections are reset.
    Cut(Way),
    /// All connections are forgotten and nothing gets through until the end; nobody is told.
    HalfOpen(Way),
    /// Connections are reset and new ones refused until the end.
    Close(Way),
    /// 64 kbit/s, 500 ms each way, a fifth of the segments lost.
    BadLink(Unit),
    /// No byte is free where an agent keeps its buffer, or PostgreSQL its data.
    FullDisk(Program),
    /// The wall clock is so many seconds ahead of the truth until the end.
    WrongClock(Unit, i64),
    /// The unit starts without a clock, in 1970, until the end; its camera may know the time.
    NoClock(Unit, bool),
    /// The certificate is one of yesterday, until it is renewed.
    Expired(Unit),
    /// The certificate is revoked, until there is a new one.
    Revoked(Unit),
    /// Configuration (and the broker's certificates) are garbage when the program is told to
    /// reload; mended at the end.
    Garbage(Program),
}

/// What a fault takes hold of: no two faults hold the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Of(Program),
    On(Way),
}

impl Fault {
    /// Its name in the report.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Kill(Program::Agent(_)) => "kill_agent",
            Self::Kill(Program::Broker) => "kill_broker",
            Self::Kill(Program::Aggregator(_)) => "kill_aggregator",
            Self::Kill(Program::Database) => "kill_database",
            Self::Freeze(Program::Agent(_)) => "freeze_agent",
            Self::Freeze(Program::Broker) => "freeze_broker",
            Self::Freeze(Program::Aggregator(_)) => "freeze_aggregator",
            Self::Freeze(Program::Database) => "freeze_database",
            Self::Restart(Program::Agent(_)) => "restart_agent",
            Self::Restart(Program::Broker) => "restart_broker",
            Self::Restart(Program::Aggregator(_)) => "restart_aggregator",
            Self::Restart(Program::Database) => "restart_database",
            Self::Failover => "failover",
            Self::Cut(_) => "cut",
            Self::HalfOpen(_) => "half_open",
            Self::Close(_) => "close",
            Self::BadLink(_) => "bad_link",
            Self::FullDisk(Program::Database) => "full_disk_database",
            Self::FullDisk(_) => "full_disk_agent",
            Self::WrongClock(..) => "wrong_clock",
            Self::NoClock(..) => "no_clock",
            Self::Expired(_) => "expired_certificate",
            Self::Revoked(_) => "revoked_certificate",
            Self::Garbage(_) => "garbage_reload",
        }
    }

    /// Over as soon as it is done: it has no end of its own.
    pub(super) const fn is_momentary(self) -> bool {
        matches!(self, Self::Restart(_) | Self::Failover | Self::Cut(_))
    }

    /// What it holds until its end.
    pub(super) fn holds(self) -> Vec<Hold> {
        match self {
            Self::Kill(program)
            | Self::Freeze(program)
            | Self::Restart(program)
            | Self::FullDisk(program)
            | Self::Garbage(program) => vec![Hold::Of(program)],
            Self::Failover => vec![Hold::Of(Program::Database)],
            Self::Cut(way) | Self::HalfOpen(way) | Self::Close(way) => vec![Hold::On(way)],
            Self::BadLink(unit) => vec![Hold::On(Way::OfUnit(unit))],
            Self::WrongClock(unit, _) | Self::NoClock(unit, _) => {
                vec![Hold::Of(Program::Agent(unit))]
            }
            Self::Expired(unit) | Self::Revoked(unit) => {
                vec![Hold::Of(Program::Agent(unit)), Hold::On(Way::OfUnit(unit))]
            }
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(unit) => write!(f, "agent {}", unit + 1),
            Self::Broker => write!(f, "broker"),
            Self::Aggregator(centre) => write!(f, "aggregator {}", centre + 1),
            Self::Database => write!(f, "PostgreSQL"),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfUnit(unit) => write!(f, "{} to broker", Program::Agent(*unit)),
            Self::OfCentre(centre) => write!(f, "{} to broker", Program::Aggregator(*centre)),
            Self::ToDatabase(centre) => {
                write!(f, "{} to PostgreSQL", Program::Aggregator(*centre))
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(program) => write!(f, "SIGKILL: {program}"),
            Self::Freeze(program) => write!(f, "SIGSTOP: {program}"),
            Self::Restart(program) => write!(f, "restart: {program}"),
            Self::Failover => write!(f, "failover: PostgreSQL dies, its standby is promoted"),
            Self::Cut(way) => write!(f, "cut: {way}"),
            Self::HalfOpen(way) => write!(f, "half-open: {way}"),
            Self::Close(way) => write!(f, "closed: {way}"),
            Self::BadLink(unit) => {
                write!(f, "64 kbit/s, 500 ms, 20 % loss: {}", Way::OfUnit(*unit))
            }
            Self::FullDisk(program) => write!(f, "full disk: {program}"),
            Self::WrongClock(unit, seconds) => {
                write!(f, "clock {seconds:+} s: {}", Program::Agent(*unit))
            }
            Self::NoClock(unit, true) => {
                let agent = Program::Agent(*unit);
                write!(f, "starts in 1970, its camera knows the time: {agent}")
            }
            Self::NoClock(unit, false) => {
                write!(f, "starts in 1970: {}", Program::Agent(*unit))
            }
            Self::Expired(unit) => write!(f, "expired certificate: {}", Program::Agent(*unit)),
            Self::Revoked(unit) => write!(f, "revoked certificate: {}", Program::Agent(*unit)),
            Self::Garbage(program) => write!(f, "reload of garbage: {program}"),
        }
    }
}
