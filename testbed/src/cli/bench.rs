//! `testbed bench`: how fast, how fresh, how cheap.

use clap::{Args, Subcommand};
use service::exit;
use testbed::bench::{Name, Report, Scale, centre, late, pipeline};

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
    /// After hours offline: how soon every window is exact, and what it costs the others. Likewise.
    Late(Late),
    /// Two aggregators, one of which goes: how soon the other serves its shards. Likewise.
    Centre(Centre),
}

#[derive(Debug, Args)]
struct Centre {
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Few units, one round: shows that it works, not how fast it is.
    #[arg(long)]
    small: bool,
}

#[derive(Debug, Args)]
struct Late {
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these, in this order; may be repeated.
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<late::Name>,
    /// A tenth or less of everything: shows that it works, not how fast it is.
    #[arg(long)]
    small: bool,
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
        match self.group {
            Group::Pipeline(options) => options.run().await,
            Group::Late(options) => options.run().await,
            Group::Centre(options) => options.run().await,
        }
    }
}

impl Centre {
    async fn run(self) -> anyhow::Result<u8> {
        let scale = if self.small {
            centre::Scale::small()
        } else {
            centre::Scale::default()
        };
        // A large future: on the heap.
        answer(&Box::pin(centre::run(&scale)).await?, self.json)
    }
}

impl Late {
    async fn run(self) -> anyhow::Result<u8> {
        let scale = if self.small {
            late::Scale::small()
        } else {
            late::Scale::default()
        };
        let names = if self.only.is_empty() {
            late::Name::ALL.to_vec()
        } else {
            self.only
        };
        answer(&late::run(&names, &scale).await?, self.json)
    }
}

impl Pipeline {
    async fn run(self) -> anyhow::Result<u8> {
        let scale = if self.small {
            Scale::small()
        } else {
            Scale::default()
        };
        let names = if self.only.is_empty() {
            Name::ALL.to_vec()
        } else {
            self.only
        };
        answer(&pipeline(&names, &scale).await?, self.json)
    }
}

fn answer(report: &Report, json: bool) -> anyhow::Result<u8> {
    if json {
        super::say(&serde_json::to_string(report)?);
    } else {
        super::say(report.table().trim_end());
    }
    Ok(if report.met { exit::OK } else { exit::FAILURE })
}
