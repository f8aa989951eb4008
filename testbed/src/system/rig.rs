//! What can stand between the parts of a system, so that more of it can be broken.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;

use super::place::config_path;
use super::{CENTRE, DATABASE, Options, SECOND_BROKER, SECOND_CENTRE, System, SystemError};
use crate::link::{Link, Plan, Shape};
use crate::postgres::Cluster;
use crate::process::Launch;
use crate::unit_clock::Clockmaker;

/// Nothing, unless asked for.
#[derive(Debug, Clone, Default)]
pub struct Rig {
    /// A link of its own for each [`Wire`]; their seed.
    pub wires: Option<u64>,
    /// A wall clock of its own for each agent.
    pub clocks: Option<Clockmaker>,
    /// A second broker, which agents and aggregators reach without a wire.
    pub second_broker: bool,
    /// A small disk of its own for each agent's buffer, of so many bytes.
    pub agent_disk_bytes: Option<u64>,
}

/// Who connects to whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wire {
    /// From an agent or aggregator to the broker.
    ToBroker(String),
    /// From an aggregator to the database.
    ToDatabase(String),
}

/// The links of a new system.
pub(super) fn wires(
    options: &Options,
    broker: SocketAddr,
    database: SocketAddr,
) -> io::Result<BTreeMap<Wire, Link>> {
    let Some(seed) = options.rig.wires else {
        return Ok(BTreeMap::new());
    };
    let centres = [CENTRE, SECOND_CENTRE].map(str::to_owned);
    let to_broker = options.agents.iter().chain(&centres).cloned();
    let ways = to_broker.map(|name| (Wire::ToBroker(name), broker));
    let to_database = centres.iter().cloned();
    let ways = ways.chain(to_database.map(|name| (Wire::ToDatabase(name), database)));
    // Each link draws for two directions.
    (seed..)
        .step_by(2)
        .zip(ways)
        .map(|(seed, (wire, to))| Ok((wire, Link::start(to, Plan::both(Shape::FREE), seed)?)))
        .collect()
}

/// The port of the broker and the URL of the database as somebody reaches them.
pub(super) fn ways(
    wires: &BTreeMap<Wire, Link>,
    name: &str,
    broker: SocketAddr,
    cluster: &Cluster,
) -> (u16, String) {
    let port = |wire, direct| {
        wires
            .get(&wire)
            .map_or(direct, |link| link.address().port())
    };
    let own = name.to_owned();
    let database = port(Wire::ToDatabase(own.clone()), cluster.port());
    let url = cluster.connection_string_through(database, DATABASE);
    (port(Wire::ToBroker(own), broker.port()), url)
}

impl System {
    /// What `config check` says of the configuration of a program that runs here.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn config_check(&self, name: &str) -> Result<ExitStatus, SystemError> {
        let program = match name {
            "broker" | SECOND_BROKER => self.programs.broker(),
            CENTRE | SECOND_CENTRE => self.programs.aggregator(),
            _ => self.programs.agent(),
        };
        let launch = Launch::new("config check", program, "/dev/null")
            .args(["config", "check", "--config"])
            .arg(self.config_file(name));
        Ok(launch.output()?.status)
    }

    /// The configuration of a program that runs here.
    #[must_use]
    pub fn config_file(&self, name: &str) -> std::path::PathBuf {
        config_path(self.directory.path(), name)
    }

    /// The database has moved: every way to it leads to the cluster as it is now, and connections to
    /// where it was are reset.
    pub fn database_moved(&self) {
        let ways = self.wires.iter();
        for (_, link) in ways.filter(|(wire, _)| matches!(wire, Wire::ToDatabase(_))) {
            link.lead_to(self.cluster.address());
            link.cut();
        }
    }
}
