//! The command line: arguments in, one report out, an exit code.

mod attack;
mod bench;
mod chaos;
mod damage;
mod demo;
mod kills;
mod link;
mod powercut;
mod replay;
mod sim;

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
    /// Log of the testbed itself, to standard error: error to trace, or directives. By default warn;
    /// for the simulator, whose faults would fill it, off.
    #[arg(long, global = true, env = "VERST_TESTBED_LOG")]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attack the real programs, beside honest units that must not notice.
    Attack(attack::Attack),
    /// Measure the whole system on this machine.
    Bench(bench::Bench),
    /// Break the real system in every way that a seed draws, and compare everything afterwards.
    Chaos(chaos::Chaos),
    /// Damage the agent's store in every way that a disk has, and open it.
    Damage(damage::Damage),
    /// Show the whole system live, or check it with outages in the middle.
    Demo(demo::Demo),
    /// Kill a real agent again and again under load.
    Kills(kills::Kills),
    /// A slow, far and lossy link, to try a unit on.
    Link(link::BadLink),
    /// Cut the power under the agent's buffer, many times.
    Powercut(powercut::PowerCut),
    /// What `powercut` records.
    #[command(name = testbed::powercut::WRITER, hide = true)]
    PowercutWriter(powercut::Writer),
    /// Send a recorded file through the real system and compare every window.
    Replay(replay::Replay),
    /// Run the product's decisions under every fault, in virtual time, from seeds.
    Sim(sim::Sim),
}

/// Does what the arguments say.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let usual = match arguments.command {
        Command::Sim(_)
        | Command::Damage(_)
        | Command::Powercut(_)
        | Command::PowercutWriter(_) => "off",
        _ => "warn",
    };
    init(LogFormat::Text, arguments.log.as_deref().unwrap_or(usual))?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        match arguments.command {
            Command::Attack(attack) => attack.run().await,
            Command::Bench(bench) => bench.run().await,
            Command::Chaos(chaos) => chaos.run().await,
            Command::Damage(damage) => tokio::task::block_in_place(|| damage.run()),
            Command::Demo(demo) => demo.run().await,
            Command::Kills(kills) => kills.run().await,
            Command::Link(link) => link.run().await,
            Command::Powercut(powercut) => tokio::task::block_in_place(|| powercut.run()),
            Command::PowercutWriter(writer) => tokio::task::block_in_place(|| writer.run()),
            Command::Replay(replay) => replay.run().await,
            Command::Sim(sim) => sim.run(),
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
