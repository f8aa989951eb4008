//! `testbed attack`.

use clap::Args;
use service::exit;
use testbed::attack::{Scale, run};

/// Attack the real programs on this machine, beside honest units that must not notice: fuzzed packets,
/// slow handshakes, takeovers, lies to the centre, the REST API, floods, idle connections.
///
/// Exit code 0 only when every figure reaches its target and every window of the honest units is
/// exact.
#[derive(Debug, Args)]
pub(super) struct Attack {
    /// Of everything that is drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fuzzed packets at the gate.
    #[arg(long, value_name = "COUNT")]
    packets: Option<u64>,
    /// Idle connections with a certificate, until the gate is full.
    #[arg(long, value_name = "COUNT")]
    idle: Option<usize>,
    /// A share of everything that takes half a minute.
    #[arg(long)]
    small: bool,
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
}

impl Attack {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let mut scale = if self.small {
            Scale::small(self.seed)
        } else {
            Scale::full(self.seed)
        };
        scale.packets = self.packets.unwrap_or(scale.packets);
        scale.idle = self.idle.unwrap_or(scale.idle);
        let report = Box::pin(run(&scale)).await?;
        if self.json {
            super::say(&serde_json::to_string(&report)?);
        } else {
            super::say(report.table().trim_end());
        }
        Ok(if report.met { exit::OK } else { exit::FAILURE })
    }
}
