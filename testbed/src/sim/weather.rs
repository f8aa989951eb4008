//! ● Faults: what is drawn, how long it lasts, what is left of it when all is well again.

use super::dice::Dice;
use super::queue::Millis;
use super::scenario::Scenario;

const HOUR_MS: i64 = 3_600_000;
const YEAR_MS: i64 = 365 * 24 * HOUR_MS;

/// By how much a unit's clock is wrong.
const CLOCK_STEPS_MS: [i64; 5] = [-HOUR_MS, HOUR_MS, -20 * YEAR_MS, -YEAR_MS, 5 * YEAR_MS];

/// What is bad at the moment.
#[derive(Debug)]
pub(super) struct Weather {
    pub(super) calm: bool,
    pub(super) broker_up: bool,
    pub(super) database_up: bool,
    /// Which units have no network.
    pub(super) cut_off: Vec<bool>,
    pub(super) latency_ms_max: Millis,
    /// In the router, of a hundred messages.
    pub(super) drops: u64,
    pub(super) duplicates: u64,
    pub(super) router_delay_ms_max: Millis,
    /// Of a hundred transactions.
    pub(super) database_trouble: u64,
    pub(super) commit_ms_max: Millis,
    /// How long the turn of a buffer's thread may be in coming.
    pub(super) disk_ms_max: Millis,
}

/// Something bad that lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Power of a unit, at any moment or during a commit.
    UnitCrash(usize),
    UnitCrashInCommit(usize, bool),
    CutUnit(usize),
    /// An image is taken of a unit's store, or that image is put back.
    PutBack(usize),
    /// The clock of a unit is wrong by so many ms.
    ClockStep(usize, i64),
    CutOffUnit(usize),
    SlowDisks,
    /// Nothing can be written at a unit.
    FullDisk(usize),
    BrokerRestart,
    RouterStorm,
    SlowNetwork,
    KillAggregator(usize),
    PauseAggregator(usize),
    /// It is told to stop, and comes back.
    StopAggregator(usize),
    CutAggregator(usize),
    DatabaseRestart,
    DatabaseTrouble,
    SlowDatabase,
    Promotion,
}

impl Weather {
    pub(super) fn fine(units: usize) -> Self {
        Self {
            calm: true,
            broker_up: true,
            database_up: true,
            cut_off: vec![false; units],
            latency_ms_max: 40,
            drops: 0,
            duplicates: 0,
            router_delay_ms_max: 5,
            database_trouble: 0,
            commit_ms_max: 30,
            disk_ms_max: 20,
        }
    }

    /// Begins one of the faults that last; the others are acts.
    pub(super) fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::CutOffUnit(unit) => self.cut_off[unit] = true,
            Fault::SlowDisks => self.disk_ms_max = 2_000,
            Fault::BrokerRestart => self.broker_up = false,
            Fault::RouterStorm => {
                (self.drops, self.duplicates) = (25, 25);
                self.router_delay_ms_max = 8_000;
            }
            Fault::SlowNetwork => self.latency_ms_max = 3_000,
            Fault::DatabaseRestart | Fault::Promotion => self.database_up = false,
            Fault::DatabaseTrouble => self.database_trouble = 60,
            Fault::SlowDatabase => self.commit_ms_max = 5_000,
            _ => {}
        }
    }

    pub(super) fn end(&mut self, fault: Fault) {
        let fine = Self::fine(self.cut_off.len());
        match fault {
            Fault::CutOffUnit(unit) => self.cut_off[unit] = false,
            Fault::SlowDisks => self.disk_ms_max = fine.disk_ms_max,
            Fault::BrokerRestart => self.broker_up = true,
            Fault::RouterStorm => {
                (self.drops, self.duplicates) = (0, 0);
                self.router_delay_ms_max = fine.router_delay_ms_max;
            }
            Fault::SlowNetwork => self.latency_ms_max = fine.latency_ms_max,
            Fault::DatabaseRestart | Fault::Promotion => self.database_up = true,
            Fault::DatabaseTrouble => self.database_trouble = 0,
            Fault::SlowDatabase => self.commit_ms_max = fine.commit_ms_max,
            _ => {}
        }
    }
}

impl Fault {
    /// The next one, and how long it lasts.
    pub(super) fn draw(dice: &mut Dice, scenario: &Scenario) -> (Self, Millis) {
        let unit = dice.index(scenario.units.len());
        let aggregator = dice.index(scenario.aggregators);
        let lasts = dice.pick(&[500, 5_000, 20_000, 90_000]) * scenario.times.lasting;
        let fault = match dice.between(1, 100) {
            1..=8 => Self::UnitCrash(unit),
            9..=17 => Self::UnitCrashInCommit(unit, dice.percent(50)),
            18..=22 => Self::CutUnit(unit),
            23..=25 => Self::ClockStep(unit, dice.pick(&CLOCK_STEPS_MS)),
            26..=33 => Self::CutOffUnit(unit),
            34..=35 => Self::SlowDisks,
            36..=37 => Self::FullDisk(unit),
            38..=45 => Self::BrokerRestart,
            46..=55 => Self::RouterStorm,
            56..=60 if scenario.restores => Self::PutBack(unit),
            56..=60 => Self::SlowNetwork,
            61..=65 => Self::KillAggregator(aggregator),
            66..=68 => Self::StopAggregator(aggregator),
            69..=76 => Self::PauseAggregator(aggregator),
            77..=80 => Self::CutAggregator(aggregator),
            81..=84 => Self::DatabaseRestart,
            85..=93 => Self::DatabaseTrouble,
            94..=97 => Self::SlowDatabase,
            _ if scenario.promotions => Self::Promotion,
            _ => Self::DatabaseTrouble,
        };
        (fault, lasts)
    }
}
