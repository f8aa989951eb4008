//! The broker's settings: one TOML file, `VERST_BROKER__…` in the environment above it.
//!
//! `deploy/config/broker.toml` shows every key with its default. A function takes the part that it
//! needs, never the whole. What is wrong with settings says `check`.

mod check;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::limits::FRAME_BYTES_MAX;
use serde::{Deserialize, Serialize};
use service::config::ConfigFaults;
use service::logging::LogFormat;
use service::serve::Endpoint;

/// What stands before `__` and the keys in environment variables.
pub const ENVIRONMENT_PREFIX: &str = "VERST_BROKER";

/// A packet, at most: a frame and, generously, the MQTT header around it.
pub const PACKET_BYTES_MAX: usize = FRAME_BYTES_MAX + 1024;

/// All settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect, and the certificates.
    pub listen: ListenSettings,
    /// The operator's pages.
    #[serde(default)]
    pub ops: OpsSettings,
    /// What clients may use.
    #[serde(default)]
    pub limits: Limits,
    /// The router's memory.
    #[serde(default)]
    pub router: RouterSettings,
    /// Log lines.
    #[serde(default)]
    pub log: LogSettings,
}

/// `[listen]`: MQTT 3.1.1 over TLS with client certificates; there is no other listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenSettings {
    /// Address and port; default `0.0.0.0:8883`. Port 0 lets the kernel choose.
    #[serde(default = "default_address")]
    pub address: SocketAddr,
    /// The broker's own certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, readable by this program's user alone.
    pub key: PathBuf,
    /// The authorities whose client certificates are accepted, PEM.
    pub client_ca: PathBuf,
    /// Revocation lists, PEM, one of each authority; absent: nothing is revoked. With a list in
    /// place, a client of an authority without one is refused.
    #[serde(default)]
    pub crl: Option<PathBuf>,
    /// How often the four files are looked at for changes, in seconds, 1 to 3,600; default 5. A
    /// revocation takes effect within this time, or at once on SIGHUP.
    #[serde(default = "default_reload_interval_s")]
    pub reload_interval_s: u64,
}

impl ListenSettings {
    /// The defaults around the three files that have none.
    #[must_use]
    pub fn new(certificate: &Path, key: &Path, client_ca: &Path) -> Self {
        Self {
            address: default_address(),
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            client_ca: client_ca.to_owned(),
            crl: None,
            reload_interval_s: default_reload_interval_s(),
        }
    }
}

fn default_address() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8883))
}

fn default_reload_interval_s() -> u64 {
    5
}

/// `[ops]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpsSettings {
    /// Where `/metrics`, `/healthz` and `/readyz` are served, without TLS; default
    /// `127.0.0.1:9183`. Keep it off public networks.
    pub address: Endpoint,
}

impl Default for OpsSettings {
    fn default() -> Self {
        Self {
            address: Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 9183))),
        }
    }
}

/// `[limits]`. A client beyond a rate is slowed down; beyond any other limit it is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections, 1 to 100,000; default 10,000. Each takes about 40 KB, a busy one up to 80. There is
    /// no limit per IP address: thousands of units may share one behind a carrier's NAT, and one
    /// certificate is one connection.
    pub connections: usize,
    /// Different names since the start, 1 to 1,000,000; default 50,000. Each leaves a small ring in
    /// the router until the broker restarts.
    pub names: usize,
    /// Handshakes in progress, 1 to 10,000; default 256. Further connections wait in the kernel's
    /// queue; while they do, a handshake that makes no progress for 2 seconds gives way.
    pub handshakes: usize,
    /// From the accept to the end of CONNECT, in seconds, 1 to 60; default 10.
    pub connect_timeout_s: u64,
    /// Packets per second that one unit or reader may send, at least 8; default 2,000. A second's
    /// worth may come at once. The centre has no such limit.
    pub messages_per_s: u32,
    /// Bytes per second that one unit or reader may send, at least 81,920 (what it may have under
    /// way), at most half of a shard's ring, so that no unit can make the others of its shard lose
    /// messages within a second; default 2,000,000. A second's worth may come at once.
    pub bytes_per_s: u32,
    /// How long a client may leave what is sent to it unread, in seconds, 1 to 300; default 30.
    pub write_timeout_s: u64,
    /// Filters of one connection, 1 to 1,000; default 128. The centre needs 64.
    pub subscriptions: usize,
    /// Messages delivered at QoS 1 and not acknowledged, 1 to 10,000; default 1,000. Further ones
    /// wait in the router. Divided by the round trip this is the highest delivery rate.
    pub unacknowledged: u16,
    /// From the stop until connections are cut, in seconds, 1 to 300; default 10.
    pub grace_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            names: 50_000,
            handshakes: 256,
            connect_timeout_s: 10,
            messages_per_s: 2_000,
            bytes_per_s: 2_000_000,
            write_timeout_s: 30,
            subscriptions: 128,
            unacknowledged: 1_000,
            grace_s: 10,
        }
    }
}

impl Limits {
    /// [`Self::connect_timeout_s`].
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_s)
    }

    /// [`Self::write_timeout_s`].
    #[must_use]
    pub fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.write_timeout_s)
    }

    /// [`Self::grace_s`].
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_s)
    }
}

/// `[router]`: the rings that messages wait in for a slow subscriber. A full ring drops its oldest
/// segment, and what was in it comes again when a unit misses its receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterSettings {
    /// Bytes of one segment of a shard's ring, 65,536 to 67,108,864; default 524,288.
    pub segment_bytes: usize,
    /// Segments of a shard's ring, 2 to 1,024; default 8. There are 64 rings: by default 256 MiB of
    /// messages when all are full, about 600 MB resident with batches of 8 KiB, and several times
    /// that only if units send messages of a few bytes each.
    pub segments: usize,
    /// Devices of one shard for which the ring must suffice, 1 to 10,000; default 25, which is a
    /// fleet of 1,000. Each may have 80 KiB under way, and all together must stay under half of the
    /// ring: with the centre away for a moment nothing is then dropped.
    pub devices_per_shard: usize,
    /// Bytes of one segment of the ring towards one device, 1,024 to 1,048,576; default 16,384.
    pub down_segment_bytes: usize,
    /// Segments of that ring, 2 to 64; default 2.
    pub down_segments: usize,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 512 * 1024,
            segments: 8,
            devices_per_shard: 25,
            down_segment_bytes: 16 * 1024,
            down_segments: 2,
        }
    }
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `text` (default) or `json`.
    pub format: LogFormat,
    /// `error`, `warn`, `info` (default), `debug`, or directives per module. rumqttd is silent
    /// unless named: it writes several lines for each connection.
    pub level: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
        }
    }
}

impl LogSettings {
    /// The level as logging takes it: rumqttd off unless it is spoken of.
    #[must_use]
    pub fn directives(&self) -> String {
        if self.level.contains("rumqttd") {
            self.level.clone()
        } else {
            format!("{},rumqttd=off", self.level)
        }
    }
}

/// Reads the settings and checks them.
///
/// # Errors
/// All faults at once.
pub fn load(path: &Path) -> Result<Config, ConfigFaults> {
    service::config::load(path, ENVIRONMENT_PREFIX)
}

#[cfg(test)]
mod tests;
