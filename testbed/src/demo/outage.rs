//! ● What breaks when, in a checked demo; ○ and the hand that breaks it.
//!
//! All in the middle third, one after another, so that every program dies once under load and the
//! last third shows the recovery.

use std::collections::VecDeque;
use std::time::Duration;

use super::Order;
use crate::system::{System, SystemError};

/// Seconds of a checked demo where none are given.
const CHECK_SECONDS: u64 = 60;

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Broker,
    Aggregator,
    Database,
    Agent,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Act {
    victim: Victim,
    begins: bool,
}

/// What is still to happen, in order.
#[derive(Debug)]
pub(super) struct Acts(VecDeque<(Duration, Act)>);

/// Beginnings and ends in thirtieths of the time.
const SCRIPT: [(Victim, u32, u32); 4] = [
    (Victim::Broker, 10, 13),
    (Victim::Aggregator, 14, 16),
    (Victim::Database, 17, 18),
    (Victim::Agent, 19, 20),
];

/// The acts of a demo; none unless it is checked.
pub(super) fn acts(order: &Order) -> Acts {
    if !order.check {
        return Acts(VecDeque::new());
    }
    let part = Duration::from_secs(order.seconds.unwrap_or(CHECK_SECONDS)) / 30;
    let both = SCRIPT.iter().flat_map(|(victim, from, to)| {
        let act = |begins| Act {
            victim: *victim,
            begins,
        };
        [(part * *from, act(true)), (part * *to, act(false))]
    });
    Acts(both.collect())
}

impl Acts {
    /// The next one whose time has come.
    pub(super) fn due(&mut self, elapsed: Duration) -> Option<Act> {
        let (at, _) = self.0.front()?;
        if *at > elapsed {
            return None;
        }
        self.0.pop_front().map(|(_, act)| act)
    }
}

/// Starts whatever is down: the time may have been over between two acts.
pub(super) fn mend(system: &mut System) -> Result<(), SystemError> {
    if system.cluster.id().is_none() {
        system.cluster.restart()?;
    }
    system.broker.start()?;
    system.aggregator.start()?;
    system
        .agents
        .values_mut()
        .try_for_each(|agent| agent.server.start())
}

impl Act {
    /// What happens, in words.
    pub(super) const fn text(self) -> &'static str {
        match (self.victim, self.begins) {
            (Victim::Broker, true) => "outage: the broker is killed (SIGKILL)",
            (Victim::Broker, false) => "the broker is started again",
            (Victim::Aggregator, true) => "outage: the aggregator is killed (SIGKILL)",
            (Victim::Aggregator, false) => "the aggregator is started again",
            (Victim::Database, true) => "outage: PostgreSQL is killed (SIGKILL, all processes)",
            (Victim::Database, false) => "PostgreSQL is started again and recovers",
            (Victim::Agent, true) => "outage: the first agent is killed (SIGKILL)",
            (Victim::Agent, false) => "the agent is started again",
        }
    }

    /// Does it. Blocks while the database recovers.
    pub(super) fn play(self, system: &mut System) -> Result<(), SystemError> {
        match (self.victim, self.begins) {
            (Victim::Broker, true) => system.broker.kill(),
            (Victim::Broker, false) => system.broker.start()?,
            (Victim::Aggregator, true) => system.aggregator.kill(),
            (Victim::Aggregator, false) => system.aggregator.start()?,
            (Victim::Database, true) => system.cluster.stop_immediate(),
            (Victim::Database, false) => system.cluster.restart()?,
            (Victim::Agent, begins) => {
                if let Some(agent) = system.agents.values_mut().next() {
                    if begins {
                        agent.server.kill();
                    } else {
                        agent.server.start()?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(check: bool) -> Order {
        let seconds = Some(60);
        Order {
            agents: 1,
            units: 1,
            passages_per_s: 1.0,
            seconds,
            check,
            json: true,
        }
    }

    #[test]
    fn in_a_checked_minute_everybody_dies_once_and_comes_back_before_the_last_third() {
        let mut acts = acts(&order(true));
        assert_eq!(acts.due(Duration::from_secs(19)), None);
        let mut down = Vec::new();
        let mut deaths = 0;
        while let Some(act) = acts.due(Duration::from_secs(40)) {
            if act.begins {
                deaths += 1;
                down.push(act.victim);
            } else {
                assert_eq!(down.pop(), Some(act.victim));
            }
        }
        assert_eq!((deaths, down.len(), acts.0.len()), (4, 0, 0));
    }

    #[test]
    fn a_demo_to_watch_stays_whole() {
        assert_eq!(acts(&order(false)).due(Duration::MAX), None);
    }
}
