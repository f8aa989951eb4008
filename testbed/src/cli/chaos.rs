//! `testbed chaos`.

use std::path::PathBuf;

use clap::Args;
use service::exit;
use testbed::chaos::{self, Order, Plan};

use super::{complain, say};

/// Run the real programs under faults that the seed draws (kills, freezes, failover, dead links, full
/// disks, wrong clocks, bad certificates), mend everything, and compare every window, every raw row
/// and the ledger of every stream with what was posted.
///
/// Faults are told to standard error as they happen. Exit status: 0 everything is exact, 1 something
/// differs or did not run.
#[derive(Debug, Args)]
pub(crate) struct Chaos {
    /// Decides which fault happens when.
    #[arg(long)]
    seed: u64,
    /// For how long there are faults; healing and comparing come on top.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=2_400))]
    seconds: u64,
    /// Passages per second of each of the four units.
    #[arg(long, default_value_t = 10.0, value_name = "RATE", value_parser = super::demo::rate)]
    passages_per_s: f64,
    /// Print one JSON line at the end.
    #[arg(long)]
    json: bool,
    /// Print the faults and their times, and play nothing.
    #[arg(long)]
    dry_run: bool,
    /// Copy the logs of all programs there when something is wrong.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Chaos {
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        if self.dry_run {
            say(&Plan::new(self.seed, self.seconds).to_string());
            return Ok(exit::OK);
        }
        let order = Order {
            seed: self.seed,
            seconds: self.seconds,
            passages_per_s: self.passages_per_s,
            keep: self.keep,
        };
        let stop = service::shutdown::signals();
        let outcome = match chaos::run(&order, stop, complain).await {
            Ok(outcome) => outcome,
            Err(error) => {
                complain(&format!("again: {}", chaos::replay_command(&order)));
                return Err(error.into());
            }
        };
        if self.json {
            say(&serde_json::to_string(&outcome)?);
        } else {
            say(&format!(
                "{} faults; {} passages accepted, {} counted, {} stored, {} in the side table; {} windows \
                 compared, {} wrong; all there {:.1} s after the last fault",
                outcome.faults,
                outcome.accepted,
                outcome.counted,
                outcome.stored,
                outcome.rejected,
                outcome.windows_compared,
                outcome.windows_wrong,
                outcome.heal_s,
            ));
        }
        if outcome.exact() {
            return Ok(exit::OK);
        }
        outcome.differences.iter().for_each(|text| complain(text));
        complain(&format!("again: {}", chaos::replay_command(&order)));
        Ok(exit::FAILURE)
    }
}
