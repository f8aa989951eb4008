//! `testbed bench`: how fast, how fresh, how cheap.

use clap::{Args, Subcommand};
use service::exit;
use testbed::bench::{Name, Scale, pipeline};

/// Measure the whole system on this machine. Wants a release build and nothing else running.
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    group: Group,
}

#[derive(Debug, Subcommand)]
enum Group {
    /// From POST to readable: rates, freshness, CPU, memory, bytes. Progress goes to standard error;
    /// exit code 0 only when every figure reaches its target.
    Pipeline(Pipeline),
}

#[derive(Debug, Args)]
struct Pipeline {
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these, in this order; may be repeated.
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Name>,
    /// A tenth or so of everything: shows that it works, not how fast it is.
    #[arg(long)]
    small: bool,
}

impl Bench {
    pub(super) async fn run(self) -> anyhow::Result<u8> {
        let Group::Pipeline(options) = self.group;
        let scale = if options.small {
            Scale::small()
        } else {
            Scale::default()
        };
        let names = if options.only.is_empty() {
            Name::ALL.to_vec()
        } else {
            options.only
        };
        let report = pipeline(&names, &scale).await?;
        if options.json {
            super::say(&serde_json::to_string(&report)?);
        } else {
            super::say(report.table().trim_end());
        }
        Ok(if report.met { exit::OK } else { exit::FAILURE })
    }
}
