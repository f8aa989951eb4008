//! Settings: one TOML file, overridden by `VERST_AGENT__…` variables.
//!
//! `deploy/config/edge-agent.toml` shows every key with its default. A function takes the section
//! that it needs, never the whole. `faults` judges the values.

mod faults;

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::DeviceId;
use serde::Deserialize;
use service::config::ConfigFaults;
use service::logging::LogFormat;
use service::serve::Endpoint;

use crate::buffer::QuotaPolicy;
use crate::ingest::plates::Rotation;
use crate::uplink::allowance::{Hours, UtcOffset};

/// Prefix of the environment variables that override the file.
pub const ENV_PREFIX: &str = "VERST_AGENT";

/// Where the socket of `edge-agent status` lies unless the file says otherwise.
pub const STATUS_SOCKET: &str = "/run/verst/edge-agent.sock";

/// Brokers among which a unit may choose.
const BROKERS_MAX: usize = 8;

const MIB: u64 = 1024 * 1024;

/// Everything that the agent can be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who this unit is.
    pub device: DeviceConfig,
    /// The door for passages.
    #[serde(default)]
    pub ingest: IngestConfig,
    /// What becomes of number plates.
    #[serde(default)]
    pub plates: PlatesConfig,
    /// Where passages wait.
    pub buffer: BufferConfig,
    /// The way to the centre.
    pub uplink: UplinkConfig,
    /// The socket of `edge-agent status`.
    #[serde(default)]
    pub status: StatusConfig,
    /// The operator's pages.
    #[serde(default)]
    pub ops: OpsConfig,
    /// Logging.
    #[serde(default)]
    pub log: LogConfig,
}

/// `[device]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// The unit's name, `[A-Za-z0-9_-]{1,64}`: the `kvfv_id` of its passages and the CN of its
    /// certificate. With another CN the agent refuses to start.
    pub id: DeviceId,
}

/// `[ingest]`: `POST /v1/passages`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestConfig {
    /// `address:port` or `unix:/path`. Whoever can connect can post passages in the unit's name.
    pub listen: Endpoint,
    /// Allows an address that other machines can reach. Needs `token_file`, since such a door is
    /// plain HTTP.
    pub allow_remote: bool,
    /// A file with the token that requests must bear (`Authorization: Bearer …`), 16 to 512 bytes.
    pub token_file: Option<PathBuf>,
    /// Connections at a time, 1 to 4,096; further ones wait.
    pub connections_max: usize,
    /// Bytes of one request's body, 4 KiB to 64 MiB; more is refused with 413.
    pub body_bytes_max: usize,
    /// How far ahead of the unit's clock an event may be, in seconds, 0 to 3,600.
    pub ahead_s: u32,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            listen: Endpoint::Tcp(([127, 0, 0, 1], 8480).into()),
            allow_remote: false,
            token_file: None,
            connections_max: 256,
            body_bytes_max: 8 * 1024 * 1024,
            ahead_s: 300,
        }
    }
}

/// `[plates]`: applied before a passage touches the disk.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlatesConfig {
    /// `keep`, `drop` or `hash`. Default: `hash` when there is a key file, otherwise `drop`.
    pub policy: Option<PlatePolicy>,
    /// A file with the key of the hash (HMAC-SHA-256, cut to 8 bytes), at least 32 bytes. Units
    /// with the same key give a plate the same hash.
    pub key_file: Option<PathBuf>,
    /// How long the same plate keeps its hash, by event time in UTC: `never` (changes), `daily` or
    /// `monthly`. Trips can be linked for as long.
    pub rotation: Rotation,
}

impl Default for PlatesConfig {
    fn default() -> Self {
        Self {
            policy: None,
            key_file: None,
            rotation: Rotation::Daily,
        }
    }
}

/// What becomes of number plates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlatePolicy {
    /// Sent as text.
    Keep,
    /// Never written anywhere.
    Drop,
    /// Replaced by a keyed hash.
    Hash,
}

/// `[buffer]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BufferConfig {
    /// Where passages wait until the centre has them. On a file system that honours fsync; not a
    /// RAM disk.
    pub directory: PathBuf,
    /// Logical bytes that may wait, at least 1 MiB; the files take up to 2.3 times as much.
    /// Default: a sixth of the file system, so that the files take at most two fifths, but no more
    /// than 2 GiB.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
    /// Bytes of the file system that are left free, at least 1 MiB.
    #[serde(default = "default_free_floor_bytes")]
    pub free_floor_bytes: u64,
    /// At the quota: `drop_oldest` keeps the windows exact and loses raw passages, `refuse_new`
    /// answers 429.
    #[serde(default)]
    pub policy: QuotaPolicy,
    /// How long a lone passage waits for company before its fsync, in ms, 0 to 1,000. At 12
    /// passages a second flash takes 12 GB of writes a day without, 7 with 100, 4 with 250, 1.1
    /// with 1,000. Dense traffic never waits.
    #[serde(default = "default_linger_ms")]
    pub linger_ms: u64,
    /// How long opening the store may take before it is moved aside as damaged, in seconds, 5 to
    /// 600.
    #[serde(default = "default_open_timeout_s")]
    pub open_timeout_s: u64,
}

/// `[uplink]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UplinkConfig {
    /// `host:port` of the broker; MQTT 3.1.1 over TLS.
    pub broker: String,
    /// Further brokers of the same centre, up to 7. After a link broke or did not come about the list
    /// is tried in turn, `broker` first; a link is kept while it carries.
    #[serde(default)]
    pub further_brokers: Vec<String>,
    /// The name in the broker's certificate, where it is not the host above.
    #[serde(default)]
    pub server_name: Option<String>,
    /// The certificates under which the broker is accepted, PEM.
    pub ca: PathBuf,
    /// The unit's own certificate and those that lead to the root, PEM: CN = `device.id`, OU =
    /// `unit`. Taken over anew with each connection.
    pub certificate: PathBuf,
    /// Its private key, PEM, mode 600.
    pub key: PathBuf,
    /// Passages in one message, at most, 1 to 4,096. The agent makes messages smaller where the link
    /// is slow.
    #[serde(default = "default_batch_passages")]
    pub batch_passages: u32,
    /// How long a passage waits for company before a message leaves with less, in ms, 0 to 60,000.
    /// Longer saves bytes on the link: at 12 passages a second 250 sends 345,600 messages a day.
    #[serde(default = "default_event_wait_ms")]
    pub event_wait_ms: u64,
    /// From one heartbeat to the next, in seconds, 1 to 3,600.
    #[serde(default = "default_heartbeat_s")]
    pub heartbeat_s: u64,
    /// The longest pause between two attempts to connect, in seconds, 1 to 3,600.
    #[serde(default = "default_reconnect_max_s")]
    pub reconnect_max_s: u64,
    /// The least time that a receipt is waited for before a message is sent again, in seconds, 1 to
    /// 600. Four times the usual time counts when that is longer.
    #[serde(default = "default_resend_min_s")]
    pub resend_min_s: u64,
    /// How late the camera may hand a passage over, in hours, 1 to 720. Windows turn `final` this
    /// much later; a passage later still revises a final window.
    #[serde(default = "default_camera_delay_h")]
    pub camera_delay_h: u32,
    /// Percent of the link that the backlog has even while live passages could fill it, 1 to 90.
    /// Live goes first otherwise, and the backlog has what is left.
    #[serde(default = "default_backlog_share")]
    pub backlog_share: u32,
    /// The most that is sent, in kbit/s with all headers, 8 to 10,000,000; no cap, without.
    #[serde(default)]
    pub rate_kbit_s_max: Option<u32>,
    /// The most that the link carries in a day, both ways, headers estimated, in MB (1,000,000
    /// bytes), 1 to 10,000,000; no cap, without. At the cap passages wait in the buffer for the
    /// next day; only heartbeats, more rarely, and keep-alives go on, at most about 1 MB a day.
    #[serde(default)]
    pub daily_mb_max: Option<u32>,
    /// Percent of `daily_mb_max` that is kept for live passages, summaries and losses, 0 to 100.
    #[serde(default = "default_daily_reserve")]
    pub daily_reserve: u32,
    /// When the backlog may travel, as `HH:MM-HH:MM` at `utc_offset`; at any time, without.
    #[serde(default)]
    pub backlog_hours: Vec<Hours>,
    /// Where the day of `daily_mb_max` and `backlog_hours` begins: `+HH:MM` or `-HH:MM` from UTC, the
    /// same all year.
    #[serde(default)]
    pub utc_offset: UtcOffset,
    /// After an outage a backlog whose oldest passage is older than this goes ahead as window deltas,
    /// which make the centre's windows exact at once; in seconds, 0 to 86,400; 0: never.
    #[serde(default = "default_summary_after_s")]
    pub summary_after_s: u64,
}

/// `[status]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatusConfig {
    /// The unix socket that `edge-agent status` asks; owner and group may.
    pub socket: PathBuf,
}

impl Default for StatusConfig {
    fn default() -> Self {
        Self {
            socket: STATUS_SOCKET.into(),
        }
    }
}

/// `[ops]`: `/metrics`, `/healthz`, `/readyz`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpsConfig {
    /// `address:port` or `unix:/path`; not for the public.
    pub listen: Endpoint,
    /// Allows an address that other machines can reach. Needs `token_file`.
    pub allow_remote: bool,
    /// A file with the token that requests must bear (`Authorization: Bearer …`), 16 to 512 bytes.
    pub token_file: Option<PathBuf>,
}

impl Default for OpsConfig {
    fn default() -> Self {
        Self {
            listen: Endpoint::Tcp(([127, 0, 0, 1], 9101).into()),
            allow_remote: false,
            token_file: None,
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
    /// The level as logging takes it: at `trace` the store would write down what it holds, plates
    /// among them, unless it is spoken of.
    #[must_use]
    pub fn directives(&self) -> String {
        if self.level.contains("sled") {
            self.level.clone()
        } else {
            format!("{},sled=warn", self.level)
        }
    }
}

const fn default_free_floor_bytes() -> u64 {
    256 * MIB
}

const fn default_linger_ms() -> u64 {
    50
}

const fn default_open_timeout_s() -> u64 {
    60
}

const fn default_batch_passages() -> u32 {
    2_000
}

const fn default_backlog_share() -> u32 {
    30
}

const fn default_daily_reserve() -> u32 {
    20
}

const fn default_event_wait_ms() -> u64 {
    250
}

const fn default_heartbeat_s() -> u64 {
    30
}

const fn default_reconnect_max_s() -> u64 {
    60
}

const fn default_resend_min_s() -> u64 {
    30
}

const fn default_camera_delay_h() -> u32 {
    24
}

const fn default_summary_after_s() -> u64 {
    60
}

/// Reads the file, overridden by the environment, and checks everything.
///
/// # Errors
/// All faults, each with its line.
pub fn load(path: &Path) -> Result<Config, ConfigFaults> {
    service::config::load(path, ENV_PREFIX)
}

impl BufferConfig {
    /// How long a lone passage waits for company.
    #[must_use]
    pub const fn linger(&self) -> Duration {
        Duration::from_millis(self.linger_ms)
    }

    /// How long opening the store may take.
    #[must_use]
    pub const fn open_timeout(&self) -> Duration {
        Duration::from_secs(self.open_timeout_s)
    }
}

impl UplinkConfig {
    /// All brokers, the preferred one first.
    pub fn brokers(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.broker)
            .chain(&self.further_brokers)
            .map(String::as_str)
    }

    /// Their hosts and ports.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, u16)> {
        self.brokers().filter_map(split_address)
    }
}

/// Host and port of `host:port` or `[v6]:port`.
fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|v6| v6.strip_suffix(']'))
        .unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests;
