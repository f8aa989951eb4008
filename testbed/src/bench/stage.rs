//! The system under measurement: real programs in their release build, one machine, with what the
//! benchmarks change and read.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use proto::DeviceId;
use tokio::task::block_in_place;
use toml::{Table, Value};

use super::procfs;
use crate::fleet::{Uplink, names};
use crate::link::{Link, Plan};
use crate::pki::BROKER_HOST;
use crate::postgres::Options as ClusterOptions;
use crate::process::Launch;
use crate::system::{CENTRE, Options, READY_WITHIN, STOPPED_WITHIN, System, Tuning};

/// Passages in all 5-minute windows.
const IN_WINDOWS: &str = "SELECT coalesce(sum(n), 0)::int8 FROM speed_stats_5m";

/// A running system with simulated units that may connect to it.
#[derive(Debug)]
pub struct Stage {
    /// The programs.
    pub system: System,
    /// Names of the simulated units; their certificates are issued.
    pub units: Vec<DeviceId>,
}

impl Stage {
    /// Starts everything with the programs' defaults.
    ///
    /// # Errors
    /// What did not come up.
    pub async fn start(units: usize, agents: &[&str]) -> Result<Self> {
        Self::start_behind(units, agents, None).await
    }

    /// The same, with a link between the agents and the broker.
    ///
    /// # Errors
    /// What did not come up.
    pub async fn start_behind(units: usize, agents: &[&str], link: Option<Plan>) -> Result<Self> {
        let units = names("sim", units)?;
        let options = Options {
            link,
            agents: agents.iter().map(|&name| name.to_owned()).collect(),
            units: units.iter().map(ToString::to_string).collect(),
            tuning: Tuning {
                log_level: "warn",
                ..Tuning::default()
            },
            cluster: ClusterOptions {
                // PostgreSQL's default of 128 MB is for the smallest of machines.
                settings: vec![("shared_buffers".to_owned(), "1GB".to_owned())],
                ..ClusterOptions::default()
            },
            ..Options::default()
        };
        let system = System::start(options)
            .await
            .context("cannot start the system")?;
        Ok(Self { system, units })
    }

    /// Where simulated units connect.
    #[must_use]
    pub fn uplink(&self) -> Uplink {
        Uplink {
            broker: self.system.broker_address(),
            server_name: BROKER_HOST.to_owned(),
            pki_dir: self.system.pki.directory().to_owned(),
        }
    }

    /// Restarts the aggregator with other settings.
    ///
    /// # Errors
    /// It does not stop or come up.
    pub async fn set_aggregator(&mut self, section: &str, key: &str, value: Value) -> Result<()> {
        let path = self.system.directory().join(format!("{CENTRE}.toml"));
        edit(&path, section, key, value)?;
        self.restart_aggregator().await
    }

    /// Restarts the aggregator: it knows nothing any more but what the database holds.
    ///
    /// # Errors
    /// It does not stop or come up.
    pub async fn restart_aggregator(&mut self) -> Result<()> {
        let aggregator = &mut self.system.aggregator;
        block_in_place(|| aggregator.stop(STOPPED_WITHIN));
        aggregator.start()?;
        aggregator.ready(READY_WITHIN).await?;
        Ok(())
    }

    /// Restarts an agent with other settings.
    ///
    /// # Errors
    /// There is no such agent, or it does not stop or come up.
    pub async fn set_agent(
        &mut self,
        name: &str,
        section: &str,
        key: &str,
        value: Value,
    ) -> Result<()> {
        let agent = self.system.agents.get_mut(name).context("no such agent")?;
        edit(agent.config(), section, key, value)?;
        block_in_place(|| agent.server.stop(STOPPED_WITHIN));
        agent.server.start()?;
        agent.server.ready(READY_WITHIN).await?;
        Ok(())
    }

    /// Lets everything else on this machine come before the agents.
    ///
    /// # Errors
    /// Their priority cannot be changed.
    pub fn agents_give_way(&self) -> Result<()> {
        for name in self.system.agents.keys() {
            let process = self.agent_process(name)?.to_string();
            Launch::new("chrt", "chrt", "/dev/null")
                .args(["--idle", "--all-tasks", "--pid", "0", &process])
                .run()
                .with_context(|| format!("agent {name}"))?;
        }
        Ok(())
    }

    /// Where an agent takes passages.
    ///
    /// # Errors
    /// There is no such agent.
    pub fn door(&self, agent: &str) -> Result<SocketAddr> {
        let agent = self.system.agents.get(agent).context("no such agent")?;
        address_of(agent.camera().url())
    }

    /// What lies between the agents and the broker.
    ///
    /// # Errors
    /// Nothing does.
    pub fn link(&self) -> Result<&Link> {
        self.system.link.as_ref().context("no link was asked for")
    }

    /// The process of an agent.
    ///
    /// # Errors
    /// There is none.
    pub fn agent_process(&self, agent: &str) -> Result<u32> {
        let agent = self
            .system
            .agents
            .get(agent)
            .and_then(|agent| agent.server.id());
        agent.context("agent does not run")
    }

    /// Where the REST API listens.
    ///
    /// # Errors
    /// Its URL is malformed.
    pub fn api(&self) -> Result<SocketAddr> {
        address_of(&self.system.api("/"))
    }

    /// CPU time used so far by each part.
    ///
    /// # Errors
    /// One of them does not run.
    pub fn cpu(&self) -> Result<Cpu> {
        let id = |id: Option<u32>, what: &str| id.with_context(|| format!("{what} does not run"));
        Ok(Cpu {
            broker: procfs::cpu_time(id(self.system.broker.id(), "broker")?)?,
            aggregator: procfs::cpu_time(id(self.system.aggregator.id(), "aggregator")?)?,
            postgres: procfs::tree_cpu_time(id(self.system.cluster.id(), "database")?)?,
            agents: self.agents_cpu()?,
            load: procfs::cpu_time(std::process::id())?,
        })
    }

    fn agents_cpu(&self) -> Result<Duration> {
        let agents = self.system.agents.keys();
        let times = agents.map(|name| Ok(procfs::cpu_time(self.agent_process(name)?)?));
        times.sum()
    }

    /// Passages in all 5-minute windows, which must be what the cursors say.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn in_windows(&self) -> Result<u64> {
        let database = self.system.database().await?;
        let sum: i64 = database.client().query_one(IN_WINDOWS, &[]).await?.get(0);
        Ok(u64::try_from(sum)?)
    }

    /// Stops everything in order.
    ///
    /// # Errors
    /// Something had to be killed.
    pub fn stop(self) -> Result<()> {
        Ok(self.system.stop()?)
    }
}

/// `http://address/…`
///
/// # Errors
/// It is no such URL.
pub fn address_of(url: &str) -> Result<SocketAddr> {
    let rest = url.strip_prefix("http://").context("not an http URL")?;
    let address = rest.split('/').next().unwrap_or(rest);
    address
        .parse()
        .with_context(|| format!("{url} names no address"))
}

fn edit(path: &Path, section: &str, key: &str, value: Value) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut table: Table = text.parse()?;
    let section = table
        .entry(section)
        .or_insert_with(|| Value::Table(Table::new()));
    section
        .as_table_mut()
        .context("not a section")?
        .insert(key.to_owned(), value);
    std::fs::write(path, table.to_string())?;
    Ok(())
}

/// CPU time of each part.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    /// The broker.
    pub broker: Duration,
    /// The aggregator.
    pub aggregator: Duration,
    /// PostgreSQL, all its processes.
    pub postgres: Duration,
    /// All real agents.
    pub agents: Duration,
    /// This process: the load, and what measures.
    pub load: Duration,
}

impl Cpu {
    /// Cores used since `earlier`, `span` ago.
    #[must_use]
    pub fn cores_since(&self, earlier: &Self, span: Duration) -> Cores {
        let cores = |now: Duration, then: Duration| {
            now.saturating_sub(then).as_secs_f64() / span.as_secs_f64()
        };
        Cores {
            broker: cores(self.broker, earlier.broker),
            aggregator: cores(self.aggregator, earlier.aggregator),
            postgres: cores(self.postgres, earlier.postgres),
            agents: cores(self.agents, earlier.agents),
            load: cores(self.load, earlier.load),
        }
    }
}

/// Cores used by each part over some time; 1 is a whole core.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    /// The broker.
    pub broker: f64,
    /// The aggregator.
    pub aggregator: f64,
    /// PostgreSQL, all its processes.
    pub postgres: f64,
    /// All real agents.
    pub agents: f64,
    /// This process.
    pub load: f64,
}

impl Cores {
    /// Broker, aggregator and database together.
    #[must_use]
    pub fn centre(&self) -> f64 {
        self.broker + self.aggregator + self.postgres
    }
}

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            broker,
            aggregator,
            postgres,
            agents,
            load,
        } = self;
        write!(
            f,
            "cores: broker {broker:.2}, aggregator {aggregator:.2}, postgres {postgres:.2}, \
             agents {agents:.2}, load generator {load:.2}"
        )
    }
}

/// A count as a number to calculate with.
#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
#[must_use]
pub const fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_stands_in_the_url() {
        assert_eq!(address_of("http://127.0.0.1:80/v1/x").unwrap().port(), 80);
        assert!(address_of("https://127.0.0.1:80/").is_err());
        assert!(address_of("http://host/").is_err());
    }
}
