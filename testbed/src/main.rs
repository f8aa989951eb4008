//! `testbed`: the whole of Verst on one machine, to watch, to feed, to break and to measure.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use service::exit;

fn main() -> ExitCode {
    service::panics::install();
    service::tls::install_crypto_provider();
    let arguments = cli::Arguments::parse();
    ExitCode::from(cli::run(arguments).unwrap_or_else(|error| {
        cli::complain(&format!("{error:#}"));
        exit::FAILURE
    }))
}
