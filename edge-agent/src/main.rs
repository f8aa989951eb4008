//! `edge-agent`: the program on a camera unit.

use std::process::ExitCode;

use clap::Parser as _;
use edge_agent::cli::Cli;

fn main() -> ExitCode {
    service::panics::install();
    service::tls::install_crypto_provider();
    ExitCode::from(Cli::parse().execute())
}
