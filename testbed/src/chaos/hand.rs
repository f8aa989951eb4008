//! ○ The hand that breaks things, and mends them.

use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::timeout;

use super::ChaosError;
use super::camera::Gate;
use super::fault::{Fault, Program, Unit, Way};
use super::plan::Side;
use super::stage::Stage;
use crate::link::{Direction, Link, Plan, Shape};
use crate::system::{Server, Wire};
use crate::unit_clock::back_to_1970_s;

/// An orderly stop that takes longer is cut short: what it waits for may be broken as well.
const STOPPED_WITHIN: Duration = Duration::from_secs(12);
/// How long a post may take to end before a clock is set.
const POSTED_WITHIN: Duration = Duration::from_secs(90);
/// The certificate of an expired unit ended so long ago.
const EXPIRED_AGO_MS: i64 = 3_600_000;
const GARBAGE: &str = "this is [no settings and -----no certificate-----\n";

/// 64 kbit/s, 500 ms each way, a fifth of the segments lost. On TCP a loss is a stall of at least the
/// time of a resend; the link makes it so.
fn bad() -> Plan {
    let slow = Shape::slow(64, Duration::from_secs(1));
    Plan::both(Shape { loss: 0.2, ..slow })
}

impl Stage {
    /// Does one side of a fault. Returns what became of it where that is worth a word.
    pub(super) async fn play(
        &mut self,
        side: Side,
        fault: Fault,
    ) -> Result<Option<String>, ChaosError> {
        match fault {
            Fault::WrongClock(unit, seconds) => {
                let wrong_by_s = if side == Side::Begin { seconds } else { 0 };
                self.set_clock(unit, wrong_by_s).await?;
            }
            Fault::NoClock(unit, camera_knows) => match side {
                Side::Begin => self.boot_in_1970(unit, camera_knows).await?,
                Side::End => self.set_clock(unit, 0).await?,
            },
            Fault::Cut(way) | Fault::HalfOpen(way) | Fault::Close(way) => {
                spoil(self.link(way), fault, side);
            }
            Fault::BadLink(unit) => {
                let free = Plan::both(Shape::FREE);
                let plan = if side == Side::Begin { bad() } else { free };
                self.link(Way::OfUnit(unit)).set_plan(plan);
            }
            _ => return block_in_place(|| self.play_blocking(side, fault)),
        }
        Ok(None)
    }

    fn play_blocking(&mut self, side: Side, fault: Fault) -> Result<Option<String>, ChaosError> {
        match (fault, side) {
            (Fault::Kill(Program::Database), Side::Begin) => self.system.cluster.stop_immediate(),
            (Fault::Kill(Program::Database), Side::End)
            | (Fault::Restart(Program::Database), Side::Begin) => self.system.cluster.restart()?,
            (Fault::Freeze(Program::Database), Side::Begin) => self.system.cluster.pause(),
            (Fault::Freeze(Program::Database), Side::End) => self.system.cluster.resume(),
            (Fault::Kill(program), Side::Begin) => self.server(program).kill(),
            (Fault::Kill(program), Side::End) => self.server(program).start()?,
            (Fault::Freeze(program), Side::Begin) => self.server(program).pause(),
            (Fault::Freeze(program), Side::End) => self.server(program).resume(),
            (Fault::Restart(program), Side::Begin) => {
                let server = self.server(program);
                let ended = server.stop(STOPPED_WITHIN);
                server.start()?;
                return Ok(match ended {
                    Some(status) if status.success() => None,
                    Some(status) => Some(format!("{program} ended with {status}")),
                    None => Some(format!("{program} had to be killed")),
                });
            }
            (Fault::Failover, Side::Begin) => self.fail_over()?,
            (Fault::FullDisk(program), side) => self.disk(program, side)?,
            (Fault::Expired(unit), Side::Begin) => self.expire(unit)?,
            (Fault::Revoked(unit), Side::Begin) => {
                self.system.pki.revoke(&self.name(Program::Agent(unit)))?;
            }
            (Fault::Expired(unit) | Fault::Revoked(unit), Side::End) => {
                self.system
                    .pki
                    .renew_unit(&self.name(Program::Agent(unit)))?;
            }
            (Fault::Garbage(program), side) => return self.reload(program, side),
            _ => {}
        }
        Ok(None)
    }

    /// The primary dies, the standby takes its place and gets a standby of its own.
    fn fail_over(&mut self) -> Result<(), ChaosError> {
        let cluster = &mut self.system.cluster;
        cluster.stop_immediate();
        self.standby.take_over()?;
        std::mem::swap(cluster, &mut self.standby);
        self.system.database_moved();
        self.standby = self.system.cluster.synchronous_standby()?;
        Ok(())
    }

    fn disk(&mut self, program: Program, side: Side) -> Result<(), ChaosError> {
        let disk = match program {
            Program::Agent(unit) => self.agent(unit).disk.as_ref(),
            _ => self.system.cluster.disk.as_ref(),
        };
        if let Some(disk) = disk {
            match side {
                Side::Begin => disk.fill()?,
                Side::End => disk.clear()?,
            }
        }
        if program == Program::Database && side == Side::End {
            // It ends itself when there is no room for its log.
            self.system.cluster.revive()?;
        }
        Ok(())
    }

    /// The unit gets a certificate of the past and has to show it.
    fn expire(&mut self, unit: Unit) -> Result<(), ChaosError> {
        let name = self.name(Program::Agent(unit));
        self.system.pki.expired_unit(&name, EXPIRED_AGO_MS)?;
        self.link(Way::OfUnit(unit)).cut();
        Ok(())
    }

    /// Settings and certificates turn into garbage, and the program is told to reload. It must go on
    /// with what it has; `config check` must name the fault.
    fn reload(&mut self, program: Program, side: Side) -> Result<Option<String>, ChaosError> {
        let name = self.name(program);
        let mut files = vec![self.system.config_file(&name)];
        if program == Program::Broker {
            files.push(self.system.pki.crl());
            files.push(self.system.pki.certificate("broker"));
        }
        for file in files {
            let sound = file.with_extension("sound");
            match side {
                Side::Begin => {
                    std::fs::rename(&file, sound)?;
                    std::fs::write(&file, GARBAGE)?;
                }
                Side::End => std::fs::rename(sound, file)?,
            }
        }
        self.server(program).hang_up();
        let checked = self.system.config_check(&name)?;
        let is_right = checked.success() == (side == Side::End);
        if is_right {
            Ok(None)
        } else {
            Err(ChaosError::Check(name, checked))
        }
    }

    async fn set_clock(&mut self, unit: Unit, wrong_by_s: i64) -> Result<(), ChaosError> {
        let gate = self.gates[usize::from(unit)].clone();
        let mut gate = closed(&gate).await?;
        if let Some(clock) = &self.agent(unit).clock {
            clock.set_wrong_by(wrong_by_s)?;
            *gate = wrong_by_s;
        }
        Ok(())
    }

    /// Power returns to a unit without a battery.
    async fn boot_in_1970(&mut self, unit: Unit, camera_knows: bool) -> Result<(), ChaosError> {
        let gate = self.gates[usize::from(unit)].clone();
        let mut gate = closed(&gate).await?;
        let agent = self.agent(unit);
        block_in_place(|| agent.server.kill());
        if let Some(clock) = &agent.clock {
            let wrong_by_s = back_to_1970_s();
            clock.set_wrong_by(wrong_by_s)?;
            *gate = if camera_knows { 0 } else { wrong_by_s };
        }
        agent.server.start()?;
        Ok(())
    }

    /// Whatever the plan left, and all that mends itself only after long: everything runs, every way
    /// is open and fresh.
    pub(super) fn mend(&mut self) -> Result<(), ChaosError> {
        for link in self.system.wires.values() {
            link.set_plan(Plan::both(Shape::FREE));
            link.silence(Direction::Up, false);
            link.silence(Direction::Down, false);
            link.open();
            link.cut();
        }
        self.system.cluster.revive()?;
        self.standby.revive()?;
        for program in self.programs() {
            self.server(program).resume();
            self.server(program).start()?;
        }
        Ok(())
    }

    fn link(&self, way: Way) -> &Link {
        let wire = match way {
            Way::OfUnit(unit) => Wire::ToBroker(self.name(Program::Agent(unit))),
            Way::OfCentre(centre) => Wire::ToBroker(self.name(Program::Aggregator(centre))),
            Way::ToDatabase(centre) => Wire::ToDatabase(self.name(Program::Aggregator(centre))),
        };
        &self.system.wires[&wire]
    }

    /// A program that is not the database.
    fn server(&mut self, program: Program) -> &mut Server {
        match program {
            Program::Agent(unit) => &mut self.agent(unit).server,
            Program::Aggregator(0) => &mut self.system.aggregator,
            Program::Aggregator(_) => &mut self.second,
            Program::Broker | Program::Database => &mut self.system.broker,
        }
    }

    /// What ended without being told to.
    pub(super) fn ended(&mut self) -> Option<String> {
        self.programs().into_iter().find_map(|program| {
            let status = self.server(program).exit_status()?;
            let log = self.server(program).log_tail();
            Some(format!("{program} ended by itself with {status}; {log}"))
        })
    }
}

/// No post is on its way while this is held.
async fn closed(gate: &Gate) -> Result<tokio::sync::MutexGuard<'_, i64>, ChaosError> {
    timeout(POSTED_WITHIN, gate.lock())
        .await
        .map_err(|_| ChaosError::Stuck(POSTED_WITHIN))
}

fn spoil(link: &Link, fault: Fault, side: Side) {
    match (fault, side) {
        (Fault::Cut(_), Side::Begin) => link.cut(),
        (Fault::HalfOpen(_), side) => {
            if side == Side::Begin {
                link.forget();
            }
            link.silence(Direction::Up, side == Side::Begin);
            link.silence(Direction::Down, side == Side::Begin);
        }
        (Fault::Close(_), Side::Begin) => link.close(),
        (Fault::Close(_), Side::End) => link.open(),
        _ => {}
    }
}
