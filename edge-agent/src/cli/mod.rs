//! What a person types: `edge-agent run`, `config check`, `status`, `export`.

mod export;
mod status;

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use service::exit;

use crate::{config, run};

/// Buffers the passages of one camera unit and forwards them until the centre has committed them.
///
/// Exit status: 0 done or healthy, 1 failed or degraded, 2 wrong usage or not running, 78 faulty
/// configuration, 134 (abort) a panic: restart it.
#[derive(Debug, Parser)]
#[command(name = "edge-agent", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT. SIGHUP checks the configuration; new settings need a restart.
    Run(ConfigFile),
    /// Look at the configuration without running.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show how the running agent fares: exit status 0 healthy, 1 degraded, 2 not running.
    Status(status::Status),
    /// Take the passages out of a store that was moved aside, as lines of JSON.
    Export(export::Export),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Name every fault with its line; exit status 78 if there is one.
    Check(ConfigFile),
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The TOML file; `VERST_AGENT__SECTION__KEY` in the environment overrides a key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Cli {
    /// Does it and returns the exit status.
    #[must_use]
    pub fn execute(self) -> u8 {
        match self.command {
            Command::Run(file) => match config::load(&file.config) {
                Ok(config) => match run::run(config, &file.config) {
                    Ok(()) => exit::OK,
                    Err(error) => complain(&format!("{error:#}"), error.exit_code()),
                },
                Err(faults) => complain(&format!("configuration:\n{faults}"), exit::CONFIG),
            },
            Command::Config {
                command: ConfigCommand::Check(file),
            } => match config::load(&file.config) {
                Ok(_) => {
                    say("the configuration is sound\n");
                    exit::OK
                }
                Err(faults) => complain(&format!("configuration:\n{faults}"), exit::CONFIG),
            },
            Command::Status(status) => status.execute(),
            Command::Export(export) => export.execute(),
        }
    }
}

fn complain(text: &str, code: u8) -> u8 {
    note(&format!("edge-agent: {text}\n"));
    code
}

/// What is said beside the answer, if anybody still listens.
fn note(text: &str) {
    io::stderr().write_all(text.as_bytes()).ok();
}

#[expect(clippy::print_stdout, reason = "the command line's answer")]
fn say(text: &str) {
    print!("{text}");
}
