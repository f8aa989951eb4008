//! Settings: one TOML file, overridden by `VERST_AGGREGATOR__…` variables.
//!
//! `deploy/config/aggregator.toml` shows every key with its default. A function takes the section
//! that it needs, never the whole. What values are allowed stands in `check`.

mod check;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use service::logging::LogFormat;

pub use self::check::{database_login, split_address};

/// Prefix of the environment variables that override the file.
pub const ENV_PREFIX: &str = "VERST_AGGREGATOR";

/// Everything that the aggregator can be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The broker.
    pub mqtt: MqttConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// Windows and flushes.
    #[serde(default)]
    pub windows: WindowsConfig,
    /// Raw passages.
    #[serde(default)]
    pub raw: RawConfig,
    /// How long the past is kept.
    #[serde(default)]
    pub store: StoreConfig,
    /// Ownership of shards.
    #[serde(default)]
    pub lease: LeaseConfig,
    /// The REST API.
    #[serde(default)]
    pub api: ApiConfig,
    /// The operator's pages.
    #[serde(default)]
    pub ops: OpsConfig,
    /// Bounds of memory.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
}

/// `[mqtt]`: how to reach the broker. The client id is the certificate's name, its role `centre`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MqttConfig {
    /// `host:port`; the host must be a name in the broker's certificate.
    pub address: String,
    /// Further brokers at which units may be (their `uplink.further_brokers`), up to 7. All are served
    /// at once.
    #[serde(default)]
    pub further_addresses: Vec<String>,
    /// The certificates under which the broker is accepted, PEM.
    pub ca: PathBuf,
    /// The aggregator's own certificate and those that lead to the root, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, mode 600.
    pub key: PathBuf,
}

impl MqttConfig {
    /// All brokers.
    pub fn addresses(&self) -> impl Iterator<Item = &str> {
        let further = self.further_addresses.iter();
        std::iter::once(&self.address)
            .chain(further)
            .map(String::as_str)
    }
}

/// `[database]`: either `url`, or its parts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgresql://user@host:5432/verst`, or `host=/run/postgresql user=verst dbname=verst`.
    /// The password is better kept in `password_file` or the environment.
    pub url: SecretString,
    /// A file with the password alone; it wins over one in `url`.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Certificates under which the server is accepted, PEM. With it the connection is always over
    /// TLS (`verify-full`); without it plain, which is right for a socket or a trusted network only.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Connections of the API, 1 to 100. Writer, lease and gauges have one each besides.
    #[serde(default = "default_pool_size")]
    pub pool_size: usize,
    /// Whether `run` applies migrations that are missing.
    #[serde(default = "yes")]
    pub migrate: bool,
    /// Whether a new database uses TimescaleDB; one that exists stays what it is.
    #[serde(default)]
    pub timescale: Timescale,
    /// Whether the aggregator is ready while the server has an asynchronous standby: promoted, it may
    /// lack what was confirmed to units, of which they hold a copy for as long as it has room only.
    #[serde(default)]
    pub accept_async_standby: bool,
}

/// Whether a new database uses TimescaleDB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Timescale {
    /// If the server offers it.
    #[default]
    Auto,
    /// Or else refuse to start.
    On,
    /// Never.
    Off,
}

/// `[windows]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WindowsConfig {
    /// How old a passage may be and still enter its window, in days, 3 to 36,500. Older ones go to
    /// `rejected_passage`.
    pub horizon_days: u32,
    /// How far ahead of the centre's clock a passage may be, in minutes, 0 to 60.
    pub ahead_minutes: u32,
    /// Time from one flush of a unit to its next in ms, 50 to 60,000; the shards take turns in it.
    /// Longer: cheaper, and later readable.
    pub flush_interval_ms: u64,
    /// A flush begins sooner when this many passages wait, 1,000 to 100,000,000, or 32 MiB of rows.
    pub flush_passages_max: u64,
}

impl Default for WindowsConfig {
    fn default() -> Self {
        Self {
            horizon_days: 60,
            ahead_minutes: 5,
            flush_interval_ms: 1_000,
            flush_passages_max: 1_000_000,
        }
    }
}

impl WindowsConfig {
    /// How old a passage may be, in ms.
    #[must_use]
    pub fn horizon_ms(&self) -> i64 {
        i64::from(self.horizon_days) * 86_400_000
    }

    /// How far ahead a passage may be, in ms.
    #[must_use]
    pub fn ahead_ms(&self) -> i64 {
        i64::from(self.ahead_minutes) * 60_000
    }

    /// From one flush to the next.
    #[must_use]
    pub const fn flush_interval(&self) -> Duration {
        Duration::from_millis(self.flush_interval_ms)
    }
}

/// `[raw]`: single passages beside the windows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    /// Whether they are stored. Without, receipts call stored what is counted.
    pub enabled: bool,
    /// For how many days; at least the horizon and a day, so that a late passage finds its day.
    pub retention_days: u32,
    /// Whether days beyond the horizon move to the columnstore of TimescaleDB, where there is one
    /// (not under its Apache licence).
    pub columnstore: bool,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            retention_days: 90,
            columnstore: true,
        }
    }
}

/// `[store]`: how long the past is kept, and what the ledger shows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// For how many days an answer can be asked for as it was then (`as_of`), 1 to 3,650. Grows with
    /// the changes of windows that were final, about 1 KiB each.
    pub history_days: u32,
    /// For how many days it is known what a stream that ended has settled, 1 to 36,500; at least one
    /// more than raw passages are kept. Older passages are refused: about 200 bytes for each start of
    /// each agent, against a buffer that turns up later than that.
    pub streams_days: u32,
    /// After how many minutes without a word of its unit a passage that is neither counted nor lost
    /// counts as unexplained, 1 to 525,600. Too short, and every unit that is offline shows.
    pub unexplained_after_minutes: u32,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            history_days: 7,
            streams_days: 400,
            unexplained_after_minutes: 24 * 60,
        }
    }
}

/// `[lease]`: the ownership of shards, by the database's clock.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LeaseConfig {
    /// How long a lease lasts without renewal, in ms, 1,000 to 60,000: how long the shards of an
    /// aggregator that is silent wait for another.
    pub ttl_ms: u64,
    /// Time from one renewal to the next in ms, at most a third of `ttl_ms`. The shards of one that
    /// was killed wait for one and a half of it and the next renewal of another.
    pub renew_ms: u64,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            ttl_ms: 10_000,
            renew_ms: 1_000,
        }
    }
}

impl LeaseConfig {
    /// How long a lease lasts.
    #[must_use]
    pub const fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    /// From one renewal to the next.
    #[must_use]
    pub const fn renew(&self) -> Duration {
        Duration::from_millis(self.renew_ms)
    }
}

/// `[api]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// Address and port. It speaks plain HTTP: put a TLS proxy in front where others can listen.
    pub listen: SocketAddr,
    /// Connections at a time, 1 to 10,000; further ones wait.
    pub connections_max: usize,
    /// Windows in one answer, 1 to 100,000; a question for more is refused (422). 10,000 windows of
    /// 5 minutes are 34 days and about 2.5 MB.
    pub windows_max: u32,
    /// Units in one question, 1 to 10,000; a question for more is refused (422).
    pub units_max: u32,
    /// Windows times units in one question, 1 to 1,000,000; a question for more is refused (422).
    /// 100,000 are a day of 347 units in windows of 5 minutes, which the database reads in about a
    /// second.
    pub unit_windows_max: u32,
    /// Memory for windows of the past that were asked for lately, up to 4 GiB; 0 keeps none. A day of
    /// 5 minutes takes 0.13 MB.
    pub cache_bytes_max: u64,
    /// Web origins (`https://dash.example`) whose pages may read the API in a browser; `*` for all.
    /// Empty: none but the API's own.
    pub allow_origins: Vec<String>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8_080)),
            connections_max: 512,
            windows_max: 10_000,
            units_max: 1_000,
            unit_windows_max: 100_000,
            cache_bytes_max: 160 << 20,
            allow_origins: Vec::new(),
        }
    }
}

/// `[ops]`: `/metrics`, `/healthz`, `/readyz`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpsConfig {
    /// Address and port; not for the public.
    pub listen: SocketAddr,
}

impl Default for OpsConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9_102)),
        }
    }
}

/// `[limits]`: what a flood may take. What is dropped at a limit was not receipted: units send it
/// again.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Bytes of frames on their way from the broker to the COMMIT, at least 8 frames of the largest
    /// size. Beyond, frames are dropped.
    pub intake_bytes_max: usize,
    /// Frames of one device on that way, at least two windows of the agent. Beyond, its frames are
    /// dropped.
    pub device_frames_max: u32,
    /// Devices that the centre will know. Frames of further ones are dropped.
    pub devices_max: usize,
    /// Windows kept in memory (about 1 KiB each), 5 minutes, 1 hour and 24 hours together. Those
    /// that go are read again when a late passage needs them.
    pub windows_cached_max: usize,
    /// Threads that decode what comes from a backlog, 0 = one for each core but one, which the database
    /// needs while it takes rows; what is live has its own.
    pub decode_threads: usize,
    /// Rejected passages kept whole per device and day; further ones are lost, and the ledger says so.
    pub rejected_per_day_max: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            intake_bytes_max: 256 * 1024 * 1024,
            device_frames_max: 32,
            devices_max: 100_000,
            windows_cached_max: 50_000,
            decode_threads: 0,
            rejected_per_day_max: 10_000,
        }
    }
}

/// `[log]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// `error` to `trace`, or directives for each module.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

impl LogConfig {
    /// The level as logging takes it: the database client is kept from `debug`, where it would write
    /// down the parameters of statements, plates among them, unless it is spoken of.
    #[must_use]
    pub fn directives(&self) -> String {
        if self.level.contains("tokio_postgres") {
            self.level.clone()
        } else {
            format!("{},tokio_postgres=info", self.level)
        }
    }
}

const fn default_pool_size() -> usize {
    8
}

const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests;
