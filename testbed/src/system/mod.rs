//! The whole of Verst on one machine: the real programs as processes, on private ports, under a
//! certificate authority and a database of their own.
//!
//! ```text
//! Camera ──POST──► edge-agent (one process per unit) ──TLS──► broker ──► aggregator ──► Cluster
//! ```
//!
//! Each program gets a generated TOML file and logs into the working directory; every wait has a
//! limit, and every error quotes the log's last lines. Each program may be killed, paused, stopped
//! and started again at any time; its port stays its own.
//!
//! Invariants: nothing started here outlives this process, not even after SIGKILL
//! ([`crate::process`]); nothing is left on the disk ([`crate::workdir`]).

mod agent;
mod alone;
mod config;
mod database;
mod error;
mod fencing;
mod place;
mod rig;
mod server;
mod verdict;
mod waiting;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use agent::{Agent, Answer, Camera, PostError};
pub use alone::{Alone, DEVICE};
pub use config::Tuning;
pub use database::Database;
pub use error::SystemError;
pub use fencing::Fencing;
pub use rig::{Rig, Wire};
pub use server::Server;
pub use verdict::Verdict;

use self::place::{config_path, copy_tree, launch, log_path, loopback, server};
use crate::link::{Link, Plan};
use crate::pki::Pki;
use crate::postgres::{Cluster, Options as ClusterOptions};
use crate::programs::Programs;
use crate::small_disk::SmallDisk;
use crate::workdir::WorkDir;

/// A cold start on a busy machine of two cores stays far below.
pub const READY_WITHIN: Duration = Duration::from_secs(60);
/// An orderly stop: last flush, last receipts, goodbye.
pub const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// The name of the first aggregator.
pub const CENTRE: &str = "centre-1";
/// The name of the second certificate of a centre, for whoever starts a second aggregator.
pub const SECOND_CENTRE: &str = "centre-2";
/// The name of the second broker.
const SECOND_BROKER: &str = "broker-2";
/// The database.
const DATABASE: &str = "verst";
/// Jitter and losses of the link.
const LINK_SEED: u64 = 1;

/// What to start.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Units that get a real agent each.
    pub agents: Vec<String>,
    /// Further units that get a certificate only.
    pub units: Vec<String>,
    /// What differs from the programs' defaults.
    pub tuning: Tuning,
    /// How the database runs.
    pub cluster: ClusterOptions,
    /// A link between the agents and the broker; without, they connect directly.
    pub link: Option<Plan>,
    /// What else stands between the parts, so that it can be broken.
    pub rig: Rig,
}

/// A broker beside the first. Agents and aggregators know both.
#[derive(Debug)]
pub struct SecondBroker {
    /// The process.
    pub server: Server,
    /// Where its clients connect.
    pub address: SocketAddr,
}

/// The running system; dropped = everything ended and removed.
///
/// The order of the fields is the order of the end: programs, database, files.
#[derive(Debug)]
pub struct System {
    /// The agents by the name of their unit.
    pub agents: BTreeMap<String, Agent>,
    /// The aggregator.
    pub aggregator: Server,
    /// The broker.
    pub broker: Server,
    /// The second broker, where the rig has one.
    pub second_broker: Option<SecondBroker>,
    /// The database server.
    pub cluster: Cluster,
    /// The certificates.
    pub pki: Pki,
    /// What lies between the agents and the broker, where it was asked for.
    pub link: Option<Link>,
    /// A link for each way that the rig has.
    pub wires: BTreeMap<Wire, Link>,
    rig: Rig,
    programs: Programs,
    tuning: Tuning,
    broker_address: SocketAddr,
    api: SocketAddr,
    http: reqwest::Client,
    directory: WorkDir,
}

impl System {
    /// Starts everything and waits until all of it is ready. The crypto provider must be installed
    /// (`service::tls::install_crypto_provider`); must run on a multi-threaded runtime.
    ///
    /// # Errors
    /// [`SystemError`], which says what did not come up and why.
    pub async fn start(options: Options) -> Result<Self, SystemError> {
        let programs = Programs::find()?;
        let directory = WorkDir::new("system")?;
        let home = directory.path();
        let (pki, cluster) = tokio::task::block_in_place(|| {
            let pki = Pki::create(&programs, &home.join("pki"))?;
            pki.centre(CENTRE)?;
            pki.centre(SECOND_CENTRE)?;
            let units = options.agents.iter().chain(&options.units);
            pki.units(&units.map(String::as_str).collect::<Vec<_>>())?;
            let cluster = Cluster::start(options.cluster.clone())?;
            cluster.database(DATABASE)?;
            Ok::<_, SystemError>((pki, cluster))
        })?;
        let http = reqwest::Client::builder().no_proxy().build()?;

        let (broker_address, ops) = (loopback()?, loopback()?);
        let text = config::broker(&options.tuning, &pki, broker_address, ops);
        let mut broker = server(home, "broker", &programs.broker(), &text, ops, &http)?;
        broker.start()?;
        broker.ready(READY_WITHIN).await?;
        let second_broker = if options.rig.second_broker {
            let (address, ops) = (loopback()?, loopback()?);
            let text = config::broker(&options.tuning, &pki, address, ops);
            let program = programs.broker();
            let mut server = server(home, SECOND_BROKER, &program, &text, ops, &http)?;
            server.start()?;
            server.ready(READY_WITHIN).await?;
            Some(SecondBroker { server, address })
        } else {
            None
        };

        let link = options
            .link
            .map(|plan| Link::start(broker_address, plan, LINK_SEED))
            .transpose()?;

        let wires = rig::wires(&options, broker_address, cluster.address())?;
        let second = second_broker.as_ref().map(|second| second.address.port());
        let (port, url) = rig::ways(&wires, CENTRE, broker_address, &cluster);
        let (api, ops) = (loopback()?, loopback()?);
        let brokers = (port, second);
        let text = config::aggregator(&options.tuning, &pki, CENTRE, brokers, &url, (api, ops));
        let mut aggregator = server(home, CENTRE, &programs.aggregator(), &text, ops, &http)?;
        aggregator.start()?;
        aggregator.ready(READY_WITHIN).await?;

        let mut system = Self {
            agents: BTreeMap::new(),
            aggregator,
            broker,
            second_broker,
            cluster,
            pki,
            link,
            wires,
            rig: options.rig,
            programs,
            tuning: options.tuning,
            broker_address,
            api,
            http,
            directory,
        };
        for device in &options.agents {
            let agent = system.make_agent(device, device)?;
            system.agents.insert(device.clone(), agent);
        }
        for agent in system.agents.values_mut() {
            agent.server.start()?;
        }
        for agent in system.agents.values_mut() {
            agent.server.ready(READY_WITHIN).await?;
        }
        Ok(system)
    }

    /// Another agent with the identity of `device`, not started yet: its store is a copy of that one's
    /// as it lies on the disk now.
    ///
    /// # Errors
    /// No port or no file.
    pub fn clone_of(&self, device: &str) -> Result<Agent, SystemError> {
        let name = format!("{device}-clone");
        let agent = self.make_agent(device, &name)?;
        self.copy_image(device, &self.buffer(&name))?;
        Ok(agent)
    }

    /// Copies the store of a unit, as it lies on the disk now, to a place that does not exist yet.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn copy_image(&self, device: &str, to: &Path) -> Result<(), SystemError> {
        copy_tree(&self.buffer(device), to)
    }

    /// Puts the store of a unit back to an image of it; its agent must not run.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn restore_image(&self, device: &str, from: &Path) -> Result<(), SystemError> {
        let buffer = self.buffer(device);
        std::fs::remove_dir_all(&buffer)?;
        copy_tree(from, &buffer)
    }

    /// Where the agent of this name has its buffer.
    #[must_use]
    pub fn buffer(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("buffer-{name}"))
    }

    /// An agent of `device` under a name of its own here.
    fn make_agent(&self, device: &str, name: &str) -> Result<Agent, SystemError> {
        let home = self.directory.path();
        let (door, ops) = (loopback()?, loopback()?);
        let place = agent::Place {
            buffer: self.buffer(name),
            status: home.join(format!("{name}.sock")),
            door,
            ops,
        };
        let disk = match self.rig.agent_disk_bytes {
            Some(bytes) => Some(SmallDisk::mount(&place.buffer, bytes, None)?),
            None => None,
        };
        let clock = match &self.rig.clocks {
            Some(maker) => Some(maker.clock(device)?),
            None => None,
        };
        let (own, _) = rig::ways(&self.wires, device, self.broker_address, &self.cluster);
        let port = self.link.as_ref().map_or(own, |link| link.address().port());
        let brokers = (port, self.second_broker_port());
        let text = config::agent(&self.tuning, &self.pki, device, brokers, &place);
        let program = self.programs.agent();
        let launch = launch(home, name, &program, &text)?;
        let launch = match &clock {
            Some(clock) => clock.worn_by(launch),
            None => launch,
        };
        let log = log_path(home, name);
        let http = self.http.clone();
        let server = Server::new(name, launch, &log, ops, http.clone());
        let config = config_path(home, name);
        let mut agent = Agent::new(device, server, program, config, door, http);
        (agent.clock, agent.disk) = (clock, disk);
        Ok(agent)
    }

    fn second_broker_port(&self) -> Option<u16> {
        let second = self.second_broker.as_ref();
        second.map(|second| second.address.port())
    }

    /// Another aggregator on the same database and brokers, not started yet: its name is
    /// [`SECOND_CENTRE`]. Also returns where its API will be.
    ///
    /// # Errors
    /// No port or no file.
    pub fn second_aggregator(&self) -> Result<(Server, SocketAddr), SystemError> {
        let (api, ops) = (loopback()?, loopback()?);
        let name = SECOND_CENTRE;
        let (port, url) = rig::ways(&self.wires, name, self.broker_address, &self.cluster);
        let brokers = (port, self.second_broker_port());
        let text = config::aggregator(&self.tuning, &self.pki, name, brokers, &url, (api, ops));
        let home = self.directory.path();
        let program = self.programs.aggregator();
        let server = server(home, SECOND_CENTRE, &program, &text, ops, &self.http)?;
        Ok((server, api))
    }

    /// Where clients of the broker connect.
    #[must_use]
    pub fn broker_address(&self) -> SocketAddr {
        self.broker_address
    }

    /// A path of the REST API as a URL.
    #[must_use]
    pub fn api(&self, path: &str) -> String {
        format!("http://{}/{}", self.api, path.trim_start_matches('/'))
    }

    /// The client for all HTTP to the system.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The superuser's URL of the database.
    #[must_use]
    pub fn database_url(&self) -> String {
        self.cluster.connection_string_of(DATABASE)
    }

    /// The directory with configuration and logs.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A connection to the database, as superuser.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn database(&self) -> Result<Database, SystemError> {
        Ok(Database::connect(&self.database_url()).await?)
    }

    /// The last lines of all logs.
    #[must_use]
    pub fn log_tails(&self) -> String {
        let agents = self.agents.values().map(|agent| &agent.server);
        let second = self.second_broker.as_ref().map(|second| &second.server);
        let centre = [&self.broker].into_iter().chain(second);
        let servers = centre.chain([&self.aggregator]).chain(agents);
        servers.map(Server::log_tail).collect::<Vec<_>>().join("\n")
    }

    /// Stops everything in order: cameras' side first, so that nothing is cut off.
    ///
    /// # Errors
    /// Names what had to be killed or ended badly.
    pub fn stop(mut self) -> Result<(), SystemError> {
        tokio::task::block_in_place(|| {
            let agents = self.agents.values_mut().map(|agent| &mut agent.server);
            let second = self.second_broker.as_mut().map(|second| &mut second.server);
            let centre = [&mut self.aggregator, &mut self.broker];
            for server in agents.chain(centre).chain(second) {
                match server.stop(STOPPED_WITHIN) {
                    Some(status) if status.success() => {}
                    Some(status) => {
                        let (name, log) = (server.name().to_owned(), server.log_tail());
                        return Err(SystemError::Ended { name, status, log });
                    }
                    None => {
                        return Err(SystemError::NotReady {
                            name: server.name().to_owned(),
                            within: STOPPED_WITHIN,
                            answer: "it did not stop".to_owned(),
                            log: server.log_tail(),
                        });
                    }
                }
            }
            Ok(())
        })
    }
}
