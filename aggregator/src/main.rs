//! `aggregator`: turns passages into exact windows in PostgreSQL, and answers questions about them.

use std::path::PathBuf;
use std::process::ExitCode;

use aggregator::api::utc::Utc;
use aggregator::config::{Config, ENV_PREFIX};
use aggregator::reprocess::{Request, reprocess};
use aggregator::run::{RunError, migrate, run};
use aggregator::store::connect::Target;
use aggregator::window::lateness::Rejection;
use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use proto::DeviceId;
use service::config::ConfigFaults;
use service::exit;

/// Verst's aggregator: from the broker to exact event-time windows in PostgreSQL, and a REST API.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 78 faulty configuration, 134 (abort) a panic:
/// restart it.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT. SIGHUP checks the configuration; new settings need a restart.
    Run(ConfigFile),
    /// Bring the database's schema up to date.
    Migrate(ConfigFile),
    /// Fold passages of rejected_passage into their windows, also while the aggregator runs.
    Reprocess(Reprocess),
    /// Look at the configuration without running.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Name every fault with its line; exit status 78 if there is one.
    Check(ConfigFile),
}

#[derive(Args)]
struct ConfigFile {
    /// The TOML file; VERST_AGGREGATOR__SECTION__KEY in the environment overrides a key.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args)]
struct Reprocess {
    #[command(flatten)]
    file: ConfigFile,
    /// Name of the unit.
    #[arg(long, value_name = "ID", value_parser = |name: &str| DeviceId::new(name))]
    device: DeviceId,
    /// Event times from here on: RFC 3339 with offset.
    #[arg(long, value_name = "TIME", value_parser = Utc::parse)]
    from: Option<Utc>,
    /// Event times before this.
    #[arg(long, value_name = "TIME", value_parser = Utc::parse)]
    to: Option<Utc>,
    /// Only what was rejected for this reason.
    #[arg(long, value_parser = PossibleValuesParser::new(Rejection::ALL.map(Rejection::word)))]
    reason: Option<String>,
    /// Say what would change, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON.
    #[arg(long)]
    json: bool,
}

impl ConfigFile {
    fn load(&self) -> Result<Config, ConfigFaults> {
        service::config::load(&self.config, ENV_PREFIX)
    }
}

fn main() -> ExitCode {
    service::panics::install();
    service::tls::install_crypto_provider();
    let outcome = match Cli::parse().command {
        Command::Run(file) => with_config(&file, |config| serve(config, &file)),
        Command::Migrate(file) => with_config(&file, bring_up_to_date),
        Command::Reprocess(args) => {
            with_config(&args.file, |config| fold_in_rejected(&config, &args))
        }
        Command::Config {
            command: ConfigCommand::Check(file),
        } => with_config(&file, |_| {
            say("the configuration is sound");
            Ok(exit::OK)
        }),
    };
    ExitCode::from(outcome.unwrap_or_else(|error| complain(&format!("{error:#}"), exit::FAILURE)))
}

#[expect(clippy::print_stderr, reason = "the command line's answer")]
fn complain(text: &str, code: u8) -> u8 {
    eprintln!("aggregator: {text}");
    code
}

#[expect(clippy::print_stdout, reason = "the command line's answer")]
fn say(text: &str) {
    println!("{text}");
}

fn with_config(
    file: &ConfigFile,
    then: impl FnOnce(Config) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    match file.load() {
        Ok(config) => then(config),
        Err(faults) => Ok(complain(&format!("configuration:\n{faults}"), exit::CONFIG)),
    }
}

fn bring_up_to_date(config: Config) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let migrated = runtime.block_on(migrate(&config.database))?;
    let storage = migrated.storage.word();
    match migrated.applied.as_slice() {
        [] => say(&format!("the schema ({storage}) was up to date")),
        applied => say(&format!(
            "the schema ({storage}) is up to date; applied {}",
            applied.join(", ")
        )),
    }
    Ok(exit::OK)
}

fn fold_in_rejected(config: &Config, args: &Reprocess) -> anyhow::Result<u8> {
    let request = Request {
        device: args.device.clone(),
        from_ms: args.from.map(Utc::as_millis),
        to_ms: args.to.map(Utc::as_millis),
        reason: args.reason.as_deref().and_then(Rejection::from_word),
        dry_run: args.dry_run,
    };
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let target = Target::new(&config.database)?;
    let done = reprocess(&target, &config.windows, &config.raw, &request);
    let report = runtime.block_on(done)?;
    if args.json {
        say(&serde_json::to_string_pretty(&report)?);
    } else {
        say(&report.to_string());
    }
    Ok(exit::OK)
}

fn serve(config: Config, file: &ConfigFile) -> anyhow::Result<u8> {
    service::logging::init(config.log.format, &config.log.directives())?;
    let runtime =
        service::runtime::half_the_cores("aggregator").context("cannot start the runtime")?;
    runtime.block_on(async {
        let stop = service::shutdown::signals();
        service::hangup::check_config(&file.config, |path| {
            service::config::load::<Config>(path, ENV_PREFIX).map(drop)
        });
        let stopping = stop.clone();
        let watched = run(config, stop, |api, ops| {
            let place = |address: Option<std::net::SocketAddr>| {
                address.map_or_else(String::new, |address| address.to_string())
            };
            service::systemd::ready(&format!("api {}, pages {}", place(api), place(ops)));
        });
        let ended = watched.await;
        if stopping.is_cancelled() {
            service::systemd::stopping("stopped in order");
        }
        match ended {
            Ok(()) => Ok(exit::OK),
            Err(error @ (RunError::Mqtt(_) | RunError::Target(_))) => {
                Ok(complain(&error.to_string(), exit::CONFIG))
            }
            Err(error) => Err(error.into()),
        }
    })
}
