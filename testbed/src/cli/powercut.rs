//! `testbed powercut`: cuts of the power under a recorded buffer.

use std::path::PathBuf;

use clap::Args;
use service::exit;
use testbed::powercut::{Level, Plan, Report, blocks, run, work};

/// Cut the power under the agent's buffer: everything that reaches the disk is recorded, the disk is
/// laid out as a cut may leave it, and the buffer is opened on it.
#[derive(Debug, Args)]
pub(super) struct PowerCut {
    /// Cuts.
    #[arg(long, default_value_t = 500)]
    cuts: u64,
    /// Seed of the first cut; the next ones follow. `--cuts 1 --seed N` repeats one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What is recorded. By default the block device under a real ext4, where the machine can (root,
    /// loop devices, FUSE), otherwise system calls.
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// How often each disk is opened.
    #[arg(long, default_value_t = 2)]
    opens: u64,
    /// Leave `fdatasync` out, to see that it is noticed: cuts must lose then.
    #[arg(long)]
    without_syncs: bool,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

/// The recorded writer.
#[derive(Debug, Args)]
pub(super) struct Writer {
    directory: PathBuf,
}

impl Writer {
    pub(super) fn run(&self) -> anyhow::Result<u8> {
        work::write_and_tell(&self.directory)?;
        Ok(exit::OK)
    }
}

impl PowerCut {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let level = match (self.level, blocks::missing()) {
            (Some(Level::Blocks), Some(missing)) => {
                anyhow::bail!(
                    "the level of blocks is not to be had here: {missing}; try --level files"
                )
            }
            (Some(level), _) => level,
            (None, None) => Level::Blocks,
            (None, Some(missing)) => {
                super::complain(&format!(
                    "{missing}: system calls are recorded instead of blocks"
                ));
                Level::Files
            }
        };
        if level == Level::Blocks {
            blocks::own_mounts()?;
        }
        let plan = Plan {
            level,
            cuts: self.cuts,
            seed: self.seed,
            syncs: !self.without_syncs,
            opens: self.opens,
        };
        let report = run(&plan, &std::env::current_exe()?)?;
        if self.json {
            super::say(&serde_json::to_string(&report)?);
        } else {
            show(&report);
        }
        Ok(if report.failed == 0 {
            exit::OK
        } else {
            exit::FAILURE
        })
    }
}

fn show(report: &Report) {
    let level = match report.level {
        Level::Blocks => "blocks",
        Level::Files => "files",
    };
    super::say(&format!(
        "{} cuts at the level of {level}, {} failed: {} passages and {} summaries had to be found, in a recording of {} passages and {} events",
        report.cuts,
        report.failed,
        report.passages_checked,
        report.summaries_checked,
        report.acknowledged,
        report.events,
    ));
    report.faults.iter().for_each(|fault| super::say(fault));
}
