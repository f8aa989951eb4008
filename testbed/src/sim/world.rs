//! ● One run: all actors, one event after the other, until everything has drained or something is
//! wrong.

use std::collections::BTreeSet;

use broker::identity::{Identity, Role};
use proto::topic::Shard;

use super::Report;
use super::broker::{Broker, identity};
use super::centre::{Aggregator, centre_name};
use super::database::Database;
use super::dice::Dice;
use super::intruder;
use super::net::{Client, Net};
use super::oracle::Oracle;
use super::queue::{Millis, Queue, wall_ms};
use super::scenario::{Bug, Course, DRAIN_MS_MAX, Scenario};
use super::stage::{AggregatorEvent, Event, Stage, UnitEvent};
use super::trace::Trace;
use super::unit::{Unit, name};
use super::weather::{Fault, Weather};

/// How often it is looked whether everything has drained.
const LOOK_EVERY_MS: Millis = 5_000;

/// How often the standby takes its copy.
const COPY_EVERY_MS: Millis = 20_000;

/// Shards without a device.
const EMPTY_SHARDS: usize = 3;

/// Events of one run; more mean that something turns in circles.
const EVENTS_MAX: u64 = 2_000_000;

/// See the module.
pub(super) struct World {
    seed: u64,
    stage: Stage,
    units: Vec<Unit>,
    broker: Broker,
    aggregators: Vec<Aggregator>,
    database: Database,
    healed_at: Option<Millis>,
    drained: bool,
}

impl World {
    pub(super) fn new(seed: u64, course: Course, bug: Option<Bug>, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let scenario = Scenario::draw(&mut dice, course, bug);
        let count = scenario.units.len();
        let names = (0..count).map(|place| name(scenario.identity(place)));
        let names: Vec<_> = names.collect();
        let with_ids = scenario.units.iter().map(|unit| unit.ids).collect();
        let devices = names.iter().cloned().chain([intruder::own_name()]);
        // And a few in which there is nothing, so that there is something to share.
        let empty = Shard::all().take(EMPTY_SHARDS);
        let of_devices = devices.map(|device| Shard::of(&device));
        let shards: BTreeSet<Shard> = of_devices.chain(empty).collect();
        let mut stage = Stage {
            queue: Queue::new(),
            dice,
            net: Net::default(),
            weather: Weather::fine(count),
            trace: Trace::new(traced),
            oracle: Oracle::new(names, with_ids),
            scenario,
        };
        stage.weather.calm = false;
        let units: Vec<Unit> = (0..count).map(|place| Unit::new(&stage, place)).collect();
        for place in 0..count {
            if stage.scenario.units[place].copy_of.is_some() {
                let at = stage.dice.between(20_000, 120_000);
                stage.queue.at(at, Event::Clone(place));
                continue;
            }
            let at = stage.dice.between(0, 5_000);
            stage.queue.at(at, Event::Unit(place, 0, UnitEvent::Start));
        }
        let mut aggregators = Vec::new();
        for place in 0..stage.scenario.aggregators {
            aggregators.push(Aggregator::new(place, bug));
            let at = stage.dice.between(0, 3_000);
            let start = Event::Aggregator(place, 0, AggregatorEvent::Start);
            stage.queue.at(at, start);
        }
        if stage.scenario.intruder {
            stage.queue.at(4_000, Event::Intrusion);
        }
        if stage.scenario.promotions {
            stage.queue.at(COPY_EVERY_MS, Event::Copy);
        }
        stage.queue.at(8_000, Event::Fault);
        stage.queue.at(stage.scenario.times.trouble_ms, Event::Heal);
        Self {
            seed,
            stage,
            units,
            broker: Broker::default(),
            aggregators,
            database: Database::new(bug, &shards),
            healed_at: None,
            drained: false,
        }
    }

    /// Runs to the end.
    pub(super) fn run(mut self) -> Report {
        let setup = format!("{:?}", self.stage.scenario);
        self.stage.say(format_args!("seed {}: {setup}", self.seed));
        let mut events = 0;
        while self.stage.oracle.failure().is_none() && !self.drained {
            let Some(event) = self.stage.queue.next() else {
                break;
            };
            self.dispatch(event);
            events += 1;
            if events > EVENTS_MAX {
                let now = self.stage.now();
                let problem = format!("more than {EVENTS_MAX} events by {now} ms");
                self.stage.oracle.fail(problem);
            }
        }
        let at_ms = self.stage.now();
        let problem = self.stage.oracle.failure().cloned();
        if let Some(problem) = &problem {
            self.stage.say(format_args!("WRONG: {problem}"));
        }
        Report {
            seed: self.seed,
            problem,
            at_ms,
            events,
            tally: self.stage.oracle.tally,
            trace: self.stage.trace.into_text(),
        }
    }

    fn dispatch(&mut self, event: Event) {
        let Self {
            stage,
            units,
            broker,
            aggregators,
            database,
            ..
        } = self;
        match event {
            Event::ToBroker(id, packet) => {
                if let Some(client) = stage.net.client(id) {
                    broker.hear(stage, id, certificate(stage, client), packet);
                }
            }
            Event::ToClient(client, id, packet) => {
                let is_gone = matches!(packet, super::net::ToClient::Gone);
                if is_gone {
                    broker.forget(id);
                } else if stage.net.client(id).is_none() {
                    return;
                }
                match client {
                    Client::Unit(place, life) if units[place].life == life => {
                        units[place].receive(stage, id, packet);
                        database_learns(&mut units[place], database);
                    }
                    Client::Aggregator(place, life) if aggregators[place].life == life => {
                        aggregators[place].receive(stage, id, packet);
                    }
                    _ => {}
                }
            }
            Event::Routed(id, topic, payload, retain) => {
                broker.routed(stage, id, topic, payload, retain);
            }
            Event::Unit(place, life, event) => {
                if units[place].life == life {
                    units[place].hear(stage, event);
                    database_learns(&mut units[place], database);
                }
            }
            Event::Aggregator(place, life, event) => {
                if aggregators[place].life == life {
                    aggregators[place].hear(stage, database, event);
                }
            }
            Event::Clone(place) => {
                let Some(copy_of) = stage.scenario.units[place].copy_of else {
                    return;
                };
                let backup = units[copy_of.unit].backup();
                units[place].start_as_copy(stage, backup);
                if copy_of.by_turns {
                    stage.queue.after(0, Event::TakesTurn(place, true));
                }
            }
            Event::TakesTurn(place, copy) => {
                if stage.weather.calm {
                    return;
                }
                let original = stage.scenario.identity(place);
                units[original].switch(stage, !copy);
                units[place].switch(stage, copy);
                let lasts = stage.dice.between(5_000, 60_000);
                stage.queue.after(lasts, Event::TakesTurn(place, !copy));
            }
            Event::Intrusion => intruder::intrude(stage, database),
            Event::InDoubt(id) => database.end(stage, id),
            Event::Copy => {
                database.copy(stage);
                stage.queue.after(COPY_EVERY_MS, Event::Copy);
            }
            Event::Fault => self.fault(),
            Event::Ends(fault) => {
                stage.say(format_args!("weather: over: {fault:?}"));
                stage.weather.end(fault);
                match fault {
                    Fault::ClockStep(unit, _) => units[unit].set_clock(stage),
                    Fault::FullDisk(unit) => units[unit].fill_disk(stage, false),
                    _ => {}
                }
            }
            Event::Heal => self.heal(),
        }
    }

    fn fault(&mut self) {
        let Self {
            stage,
            units,
            broker,
            aggregators,
            database,
            ..
        } = self;
        if stage.weather.calm {
            return;
        }
        let every = stage.scenario.times.fault_every_ms;
        let next = stage.dice.between(every / 4, every);
        stage.queue.after(next, Event::Fault);
        let (fault, lasts) = Fault::draw(&mut stage.dice, &stage.scenario);
        stage.oracle.tally.faults += 1;
        stage.say(format_args!("weather: {fault:?} for {lasts} ms"));
        stage.weather.begin(fault);
        stage.queue.after(lasts, Event::Ends(fault));
        let is_of = |client, wanted: usize| matches!(client, Client::Unit(p, _) if p == wanted);
        match fault {
            Fault::UnitCrash(unit) => units[unit].crash(stage),
            Fault::FullDisk(unit) => units[unit].fill_disk(stage, true),
            Fault::PutBack(unit) => units[unit].put_back(stage),
            Fault::ClockStep(unit, by_ms) => units[unit].step_clock(stage, by_ms),
            Fault::UnitCrashInCommit(unit, durable) => units[unit].crash_in_commit(durable),
            Fault::CutUnit(unit) | Fault::CutOffUnit(unit) => {
                // At once, or a half-open link that only the keep-alive finds.
                let unnoticed = stage.dice.pick(&[1, 200, 30_000]);
                for id in stage.net.of(|client| is_of(client, unit)) {
                    stage.cut(id, unnoticed);
                }
            }
            Fault::BrokerRestart => broker.restart(stage),
            Fault::KillAggregator(place) => aggregators[place].kill(stage, database, lasts),
            Fault::StopAggregator(place) => aggregators[place].stop(stage, database, lasts),
            Fault::PauseAggregator(place) => aggregators[place].pause(stage, lasts),
            Fault::CutAggregator(place) => {
                let is_it = |client| matches!(client, Client::Aggregator(p, _) if p == place);
                for id in stage.net.of(is_it) {
                    stage.cut(id, 500);
                }
            }
            Fault::DatabaseRestart => database.stop(stage),
            Fault::Promotion => database.promote(stage),
            _ => {}
        }
    }

    /// From now on nothing bad happens; then it is looked whether everything drains.
    fn heal(&mut self) {
        let now = self.stage.now();
        let healed_at = *self.healed_at.get_or_insert_with(|| {
            self.stage.say(format_args!("weather: all is well"));
            self.stage.weather = Weather::fine(self.units.len());
            for unit in &mut self.units {
                unit.set_clock(&mut self.stage);
                unit.fill_disk(&mut self.stage, false);
                unit.switch(&mut self.stage, true);
            }
            now
        });
        let timeline = self.database.centre().timeline;
        let mut units = self.units.iter();
        let waiting = units
            .find_map(|unit| unit.waits(timeline))
            .or_else(|| self.stage.oracle.unexplained(wall_ms(now)))
            .or_else(|| self.database.is_unbalanced(now));
        match waiting {
            None => {
                let Stage {
                    oracle, scenario, ..
                } = &mut self.stage;
                oracle.tally.drained_s = (now - healed_at) / 1_000;
                oracle.finish(|unit| scenario.may_lose(unit));
                self.drained = true;
            }
            Some(what) if now > healed_at + DRAIN_MS_MAX => {
                let problem = format!("not drained {DRAIN_MS_MAX} ms after the last fault: {what}");
                self.stage.oracle.fail(problem);
            }
            Some(_) => self.stage.queue.after(LOOK_EVERY_MS, Event::Heal),
        }
    }
}

/// Who a client is by its certificate.
fn certificate(stage: &Stage, client: Client) -> Identity {
    match client {
        Client::Unit(place, _) => identity(&name(stage.scenario.identity(place)), Role::Unit),
        Client::Aggregator(place, _) => identity(&centre_name(place), Role::Centre),
        Client::Intruder => identity(&intruder::own_name(), Role::Unit),
    }
}

fn database_learns(unit: &mut Unit, database: &mut Database) {
    for event_ms in unit.camera.poison.drain(..) {
        database.refuses(event_ms);
    }
}
