//! The command line: arguments in, one report out, an exit code.

mod bench;
mod demo;
mod link;
mod replay;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use service::logging::{LogFormat, init};
use tokio::runtime::Runtime;

/// The whole of Verst on one machine: the real programs, a private database, simulated units.
///
/// Needs the programs `broker`, `aggregator` and `edge-agent` beside it (or in VERST_BIN_DIR) and a
/// PostgreSQL server. Everything runs on private ports and is gone when it ends.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Log of the testbed itself, to standard error: error to trace, or directives.
    #[arg(long, global = true, default_value = "warn", env = "VERST_TESTBED_LOG")]
    log: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure the whole system on this machine.
    Bench(bench::Bench),
    /// Show the whole system live, or check it with outages in the middle.
    Demo(demo::Demo),
    /// A slow, far and lossy link, to try a unit on.
    Link(link::BadLink),
    /// Send a recorded file through the real system and compare every window.
    Replay(replay::Replay),
}

/// Does what the arguments say.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<u8> {
    init(LogFormat::Text, &arguments.log)?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        match arguments.command {
            Command::Bench(bench) => bench.run().await,
            Command::Demo(demo) => demo.run().await,
            Command::Link(link) => link.run().await,
            Command::Replay(replay) => replay.run().await,
        }
    })
}

/// One line of JSON, or of text, for whoever called.
#[expect(clippy::print_stdout, reason = "the command line's answer")]
fn say(text: &str) {
    println!("{text}");
}

/// Why it failed.
#[expect(clippy::print_stderr, reason = "the command line's answer")]
pub(crate) fn complain(text: &str) {
    eprintln!("testbed: {text}");
}
