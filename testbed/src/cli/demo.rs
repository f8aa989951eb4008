//! `testbed demo`.

use clap::Args;
use service::exit;
use testbed::demo;

use super::{complain, say};

/// Seconds of a checked demo, unless given.
const CHECK_SECONDS: u64 = 60;

/// A private database, broker, aggregator, real agents, and a fleet of simulated units under live
/// traffic, with a summary and commands to try. Ctrl-C ends it.
///
/// Exit status: 0 all well, 1 it did not run, or with --check something differs.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Run unattended, kill every program once in the middle, and compare every window and every
    /// raw row at the end.
    #[arg(long)]
    check: bool,
    /// For how long, in seconds; default: until Ctrl-C, with --check 60.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(10..=86_400))]
    seconds: Option<u64>,
    /// Print one JSON line at the end, and the summary to standard error. --check implies it.
    #[arg(long)]
    json: bool,
    /// Real edge-agent processes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32))]
    agents: u16,
    /// Simulated units.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=1_500))]
    units: u16,
    /// Passages per second of each unit.
    #[arg(long, default_value_t = 10.0, value_name = "RATE", value_parser = rate)]
    passages_per_s: f64,
}

/// Passages per second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=1_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("not within 0.01 to 1000".into())
    }
}

impl Demo {
    pub(crate) async fn run(self) -> anyhow::Result<u8> {
        let json = self.json || self.check;
        let order = demo::Order {
            agents: usize::from(self.agents),
            units: usize::from(self.units),
            passages_per_s: self.passages_per_s,
            seconds: self.seconds.or(self.check.then_some(CHECK_SECONDS)),
            check: self.check,
            json,
        };
        let outcome = demo::run(&order, service::shutdown::signals()).await?;
        if json {
            say(&serde_json::to_string(&outcome)?);
        } else {
            say(&format!(
                "{} passages accepted, {} counted, {} stored, {} lost; {} windows compared, {} wrong",
                outcome.accepted,
                outcome.counted,
                outcome.stored,
                outcome.lost,
                outcome.windows_compared,
                outcome.windows_wrong
            ));
        }
        if outcome.exact() {
            return Ok(exit::OK);
        }
        complain("what the database holds is not what cameras and units posted");
        // Whoever watches may have posted vehicles by hand, which no camera knows of.
        Ok(if self.check { exit::FAILURE } else { exit::OK })
    }
}
