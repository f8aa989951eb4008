//! `broker`: Verst's MQTT gate, and the certificates for it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use broker::pki::{self, Authority, Order, Purpose};
use broker::{Broker, StartError, config};
use clap::{Args, Parser, Subcommand};
use proto::DeviceId;
use service::clock::wall_millis;
use service::exit;
use tokio::signal::unix::{SignalKind, signal};

/// Verst's broker: MQTT 3.1.1 over TLS with client certificates, in front of rumqttd's router.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 78 faulty configuration, 134 (abort) a panic or a
/// dead router: restart it.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT. SIGHUP loads certificates and revocation lists anew and checks the
    /// configuration; new settings need a restart.
    Run(ConfigFile),
    /// Look at the configuration without running.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Make, issue and revoke certificates.
    Pki {
        #[command(subcommand)]
        command: PkiCommand,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Name every fault with its line; exit status 78 if there is one.
    Check(ConfigFile),
}

#[derive(Args)]
struct ConfigFile {
    /// The TOML file; VERST_BROKER__SECTION__KEY in the environment overrides a key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args)]
struct Folder {
    /// The authority's folder.
    #[arg(long = "dir", value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Subcommand)]
enum PkiCommand {
    /// Make an authority: ca.pem, ca.key, index.jsonl, and an empty crl.pem.
    Init {
        #[command(flatten)]
        at: Folder,
        /// The authority's name.
        #[arg(long, default_value = "Verst CA")]
        name: String,
        /// Days of validity.
        #[arg(long, default_value_t = 7_300, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Issue certificates: NAME.pem and NAME.key.
    Issue(Issue),
    /// Revoke all certificates of a name, or one by its serial number, and write crl.pem.
    Revoke {
        #[command(flatten)]
        at: Folder,
        /// Whose, or which.
        #[arg(value_name = "NAME|SERIAL")]
        what: String,
    },
    /// Write crl.pem anew.
    Crl {
        #[command(flatten)]
        at: Folder,
    },
}

#[derive(Args)]
struct Issue {
    #[command(flatten)]
    at: Folder,
    /// What for: centre is an aggregator, server the broker itself.
    #[arg(long, value_enum)]
    role: Purpose,
    /// Whom: letters, digits, `_` and `-`, at most 64.
    #[arg(required_unless_present = "names_file")]
    names: Vec<DeviceId>,
    /// Further names, one a line; empty lines and lines with # are skipped.
    #[arg(long, value_name = "FILE")]
    names_file: Option<PathBuf>,
    /// Host name or IP address of a server; may be repeated.
    #[arg(long, value_name = "DNS|IP")]
    san: Vec<String>,
    /// Days of validity.
    #[arg(long, default_value_t = 1_825, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Where to; default: the folder `issued` of the authority.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Issue another certificate to names that have one; the old one stays in force until revoked.
    #[arg(long)]
    renew: bool,
}

fn main() -> ExitCode {
    service::panics::install();
    service::tls::install_crypto_provider();
    let outcome = match Cli::parse().command {
        Command::Run(file) => run(&file),
        Command::Config {
            command: ConfigCommand::Check(file),
        } => Ok(check(&file)),
        Command::Pki { command } => certificates(command).map(|()| exit::OK),
    };
    ExitCode::from(outcome.unwrap_or_else(|error| complain(&format!("{error:#}"), exit::FAILURE)))
}

#[expect(clippy::print_stderr, reason = "the command line's answer")]
fn complain(text: &str, code: u8) -> u8 {
    eprintln!("broker: {text}");
    code
}

#[expect(clippy::print_stdout, reason = "the command line's answer")]
fn say(text: &str) {
    println!("{text}");
}

fn check(file: &ConfigFile) -> u8 {
    match config::load(&file.config) {
        Ok(_) => {
            say("the configuration is sound");
            exit::OK
        }
        Err(faults) => complain(&format!("configuration:\n{faults}"), exit::CONFIG),
    }
}

fn run(file: &ConfigFile) -> anyhow::Result<u8> {
    let config = match config::load(&file.config) {
        Ok(config) => config,
        Err(faults) => return Ok(complain(&format!("configuration:\n{faults}"), exit::CONFIG)),
    };
    service::logging::init(config.log.format, &config.log.directives())?;
    let runtime = service::runtime::half_the_cores("broker").context("cannot start the runtime")?;
    runtime.block_on(serve(config, &file.config))
}

async fn serve(config: config::Config, file: &Path) -> anyhow::Result<u8> {
    let stop = service::shutdown::signals();
    let mut hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
    let broker = match Broker::start(config, stop.clone()).await {
        Ok(broker) => broker,
        Err(error @ StartError::Tls(_)) => return Ok(complain(&error.to_string(), exit::CONFIG)),
        Err(error) => return Err(error.into()),
    };
    service::hangup::check_config(file, |path| config::load(path).map(drop));
    service::systemd::ready(&format!("listening on {}", broker.address));
    let reload = broker.reload.clone();
    while tokio::select! { () = stop.cancelled() => false, heard = hangup.recv() => heard.is_some() }
    {
        reload.notify_one();
    }
    service::systemd::stopping("closing connections");
    let cause = broker.cause();
    broker.join().await?;
    match cause {
        Some(failure) => Ok(complain(&failure.to_string(), exit::FAILURE)),
        None => Ok(exit::OK),
    }
}

fn certificates(command: PkiCommand) -> anyhow::Result<()> {
    let now_ms = wall_millis();
    match command {
        PkiCommand::Init { at, name, days } => {
            pki::init(&at.folder, &name, days, now_ms)?;
            say(&format!("made an authority in {}", at.folder.display()));
        }
        PkiCommand::Issue(issue) => {
            let mut names = issue.names;
            if let Some(file) = &issue.names_file {
                names.extend(names_in(file)?);
            }
            let out = issue
                .out
                .unwrap_or_else(|| issue.at.folder.join(pki::ISSUED));
            let (purpose, san) = (issue.role, issue.san);
            let order = Order {
                purpose,
                san,
                days: issue.days,
                renew: issue.renew,
            };
            Authority::open(&issue.at.folder)?.issue(&names, &order, &out, now_ms)?;
            say(&format!("issued {} in {}", names.len(), out.display()));
        }
        PkiCommand::Revoke { at, what } => {
            let count = Authority::open(&at.folder)?.revoke(&what, now_ms)?;
            let list = at.folder.join(pki::CRL);
            say(&format!(
                "revoked {count}; give {} to the broker",
                list.display()
            ));
        }
        PkiCommand::Crl { at } => {
            Authority::open(&at.folder)?.write_crl(now_ms)?;
            say(&format!("wrote {}", at.folder.join(pki::CRL).display()));
        }
    }
    Ok(())
}

fn names_in(file: &PathBuf) -> anyhow::Result<Vec<DeviceId>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let lines = text.lines().map(str::trim).enumerate();
    let names = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    names
        .map(|(number, line)| {
            DeviceId::new(line).with_context(|| format!("{}:{}", file.display(), number + 1))
        })
        .collect()
}
