//! `testbed damage`: damaged stores, opened by the real buffer.

use clap::Args;
use service::exit;
use testbed::damage::run;

/// Damage the agent's store in every way that a disk has, and open it: flipped, zeroed and foreign
/// bytes, files cut short and deleted.
#[derive(Debug, Args)]
pub(super) struct Damage {
    /// Cases.
    #[arg(long, default_value_t = 300)]
    cases: u64,
    /// Seed of the first case; the next ones follow. `--cases 1 --seed N` repeats one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

impl Damage {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let report = run(self.seed, self.cases)?;
        if self.json {
            super::say(&serde_json::to_string(&report)?);
        } else {
            super::say(&format!(
                "{} damaged stores, {} failed: of {} passages {} were kept, {} stated as lost, {} left to the centre to find; {} stores moved aside; slowest opening {} ms, {} over the limit",
                report.cases,
                report.failed,
                report.passages,
                report.kept,
                report.lost,
                report.unstated,
                report.moved_aside,
                report.slowest_open_ms,
                report.too_slow,
            ));
            report.harm.iter().for_each(|harm| super::say(harm));
            report.faults.iter().for_each(|fault| super::say(fault));
        }
        let is_well = report.failed == 0 && report.too_slow == 0;
        Ok(if is_well { exit::OK } else { exit::FAILURE })
    }
}
