//! `testbed kills`: kill -9 of a real agent under load.

use clap::Args;
use service::exit;
use testbed::kills::run;

/// Kill a real agent again and again under load: what it answered with success must be in its store.
#[derive(Debug, Args)]
pub(super) struct Kills {
    /// Kills.
    #[arg(long, default_value_t = 200)]
    times: u64,
    /// Draws when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One line of JSON instead of text.
    #[arg(long)]
    json: bool,
}

impl Kills {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let report = run(self.seed, self.times).await?;
        if self.json {
            super::say(&serde_json::to_string(&report)?);
        } else {
            super::say(&format!(
                "{} kills: {} passages accepted, {} in posts without an answer, {} found; {} missing, {} twice; slowest start {} ms",
                report.kills,
                report.accepted,
                report.unanswered,
                report.found,
                report.missing,
                report.twice,
                report.slowest_start_ms,
            ));
        }
        let is_well = report.missing == 0 && report.twice == 0;
        Ok(if is_well { exit::OK } else { exit::FAILURE })
    }
}
