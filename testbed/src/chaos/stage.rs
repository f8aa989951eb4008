//! ○ What the faults happen to: two aggregators, a database with a standby, a real agent for each
//! unit, and a way, a clock and a disk for each of them that can be spoiled.

use std::path::Path;
use std::sync::Arc;

use service::tasks::TaskSet;
use tokio_util::sync::CancellationToken;

use super::ChaosError;
use super::camera::{Gate, Posted, Run};
use super::fault::{CENTRES, Fault, Program, UNITS, Unit};
use crate::postgres::{Cluster, Options as ClusterOptions};
use crate::small_disk::SmallDisk;
use crate::system::{Agent, CENTRE, Options, READY_WITHIN, Rig, SECOND_CENTRE, Server, System};
use crate::unit_clock::Clockmaker;

const MIB: u64 = 1 << 20;
/// Of an agent's buffer: some times what a run of an hour leaves in it.
const AGENT_DISK_BYTES: u64 = 192 * MIB;
/// Of PostgreSQL's data.
const DATABASE_DISK_BYTES: u64 = 768 * MIB;
/// So that the log of PostgreSQL leaves most of the disk to the tables.
const WAL_SETTINGS: [(&str, &str); 3] = [
    ("max_wal_size", "128MB"),
    ("min_wal_size", "32MB"),
    ("wal_keep_size", "64MB"),
];

/// All of it. The order of the fields is the order of the end.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) second: Server,
    pub(super) system: System,
    pub(super) standby: Cluster,
    pub(super) gates: Vec<Gate>,
    /// Faults that this machine cannot play, each with the reason.
    pub(super) unplayable: Vec<String>,
    has_disks: bool,
    has_clocks: bool,
}

impl Stage {
    pub(super) async fn set(seed: u64) -> Result<Self, ChaosError> {
        let mut unplayable = Vec::new();
        let clocks = tokio::task::block_in_place(Clockmaker::new)
            .map_err(|error| unplayable.push(format!("wrong_clock, no_clock: {error}")))
            .ok();
        let disks = tokio::task::block_in_place(SmallDisk::probe)
            .map_err(|error| unplayable.push(format!("full_disk: {error}")))
            .ok();
        let settings = WAL_SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (has_clocks, has_disks) = (clocks.is_some(), disks.is_some());
        let system = System::start(Options {
            agents: (0..UNITS).map(unit_name).collect(),
            cluster: ClusterOptions {
                settings: settings.to_vec(),
                disk_bytes: disks.map(|()| DATABASE_DISK_BYTES),
                ..ClusterOptions::default()
            },
            rig: Rig {
                wires: Some(seed),
                clocks,
                agent_disk_bytes: disks.map(|()| AGENT_DISK_BYTES),
                second_broker: false,
            },
            ..Options::default()
        })
        .await?;
        let (mut second, _) = system.second_aggregator()?;
        second.start()?;
        second.answers("healthz", READY_WITHIN).await?;
        let standby = tokio::task::block_in_place(|| system.cluster.synchronous_standby())?;
        Ok(Self {
            second,
            system,
            standby,
            gates: (0..UNITS).map(|_| Gate::default()).collect(),
            unplayable,
            has_disks,
            has_clocks,
        })
    }

    /// Starts a camera for each unit.
    pub(super) fn cameras(
        &self,
        seed: u64,
        passages_per_s: f64,
        posted: &Posted,
        stop: &CancellationToken,
    ) -> TaskSet {
        let tasks = TaskSet::new(stop.clone());
        for ((unit, gate), seed) in (0..UNITS).zip(&self.gates).zip(seed..) {
            let device = unit_name(unit);
            let run = Run {
                camera: self.system.agents[&device].camera().clone(),
                device,
                passages_per_s,
                seed,
                gate: Arc::clone(gate),
                posted: posted.clone(),
                stop: stop.clone(),
            };
            tasks.spawn("camera", run.live());
        }
        tasks
    }

    /// Whether this machine can play the fault.
    pub(super) const fn can_play(&self, fault: Fault) -> bool {
        match fault {
            Fault::FullDisk(_) => self.has_disks,
            Fault::WrongClock(..) | Fault::NoClock(..) => self.has_clocks,
            _ => true,
        }
    }

    /// As the system knows it.
    pub(super) fn name(&self, program: Program) -> String {
        match program {
            Program::Agent(unit) => unit_name(unit),
            Program::Aggregator(0) => CENTRE.to_owned(),
            Program::Aggregator(_) => SECOND_CENTRE.to_owned(),
            Program::Broker => self.system.broker.name().to_owned(),
            Program::Database => "postgres".to_owned(),
        }
    }

    pub(super) fn agent(&mut self, unit: Unit) -> &mut Agent {
        let agents = &mut self.system.agents;
        agents
            .get_mut(&unit_name(unit))
            .expect("each unit has an agent")
    }

    /// All but the database.
    pub(super) fn programs(&self) -> Vec<Program> {
        let agents = (0..UNITS).map(Program::Agent);
        let centres = (0..CENTRES).map(Program::Aggregator);
        agents.chain(centres).chain([Program::Broker]).collect()
    }

    /// Copies all logs there.
    pub(super) fn keep_logs(&self, to: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(to)?;
        let homes = [self.system.directory(), self.system.cluster.directory()];
        for entry in homes.into_iter().flat_map(|home| home.read_dir()).flatten() {
            let path = entry?.path();
            let is_log = path.extension().is_some_and(|extension| extension == "log");
            if let Some(name) = path.file_name().filter(|_| is_log) {
                std::fs::copy(&path, to.join(name))?;
            }
        }
        Ok(())
    }
}

fn unit_name(unit: Unit) -> String {
    format!("unit-{}", unit + 1)
}
