//! The broker's settings: one TOML file, `VERST_BROKER__…` in the environment above it.
//!
//! `deploy/config/broker.toml` shows every key with its default. A function takes the part that it
//! needs, never the whole.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::limits::{FRAME_BYTES_MAX, IN_FLIGHT_BATCHES_MAX, IN_FLIGHT_BYTES_MAX};
use serde::{Deserialize, Serialize};
use service::config::{ConfigFaults, Fault, Validate};
use service::logging::{LogFormat, check_level};
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
    /// Connections, 1 to 100,000; default 10,000. Each takes about 70 KB. There is no limit per IP
    /// address: thousands of units may share one behind a carrier's NAT, and one certificate is one
    /// connection.
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

impl Validate for Config {
    fn faults(&self) -> Vec<Fault> {
        let limits = &self.limits;
        let router = &self.router;
        let mut faults = Vec::new();
        let mut within = |key: &str, value: usize, least: usize, most: usize| {
            if value < least || value > most {
                let problem = format!("{value} is outside the range {least} to {most}");
                faults.push(Fault::new(key, problem));
            }
        };
        let seconds = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
        within(
            "listen.reload_interval_s",
            seconds(self.listen.reload_interval_s),
            1,
            3_600,
        );
        within("limits.connections", limits.connections, 1, 100_000);
        within("limits.names", limits.names, 1, 1_000_000);
        within("limits.handshakes", limits.handshakes, 1, 10_000);
        within(
            "limits.connect_timeout_s",
            seconds(limits.connect_timeout_s),
            1,
            60,
        );
        let most = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
        let messages = usize::try_from(limits.messages_per_s).unwrap_or(most);
        within(
            "limits.messages_per_s",
            messages,
            IN_FLIGHT_BATCHES_MAX,
            most,
        );
        let bytes = usize::try_from(limits.bytes_per_s).unwrap_or(most);
        within("limits.bytes_per_s", bytes, IN_FLIGHT_BYTES_MAX, most);
        within(
            "limits.write_timeout_s",
            seconds(limits.write_timeout_s),
            1,
            300,
        );
        within("limits.subscriptions", limits.subscriptions, 1, 1_000);
        within(
            "limits.unacknowledged",
            usize::from(limits.unacknowledged),
            1,
            10_000,
        );
        within("limits.grace_s", seconds(limits.grace_s), 1, 300);
        within(
            "router.segment_bytes",
            router.segment_bytes,
            64 * 1024,
            64 * 1024 * 1024,
        );
        within("router.segments", router.segments, 2, 1_024);
        within(
            "router.devices_per_shard",
            router.devices_per_shard,
            1,
            10_000,
        );
        within(
            "router.down_segment_bytes",
            router.down_segment_bytes,
            1_024,
            1024 * 1024,
        );
        within("router.down_segments", router.down_segments, 2, 64);
        faults.extend(ring_fault(router));
        faults.extend(flood_fault(limits, router));
        if let Err(error) = check_level(&self.log.level) {
            faults.push(Fault::new("log.level", error.to_string()));
        }
        faults
    }
}

/// What all devices of a shard may have under way must stay under half of the shard's ring.
fn ring_fault(router: &RouterSettings) -> Option<Fault> {
    let ring = router.segment_bytes.saturating_mul(router.segments);
    let under_way = router.devices_per_shard.saturating_mul(IN_FLIGHT_BYTES_MAX);
    let least = under_way.saturating_mul(2).div_ceil(router.segments.max(1));
    (under_way > ring / 2).then(|| {
        let problem = format!(
            "{} devices with {IN_FLIGHT_BYTES_MAX} bytes under way each are {under_way} bytes, above \
             half of a shard's ring of {ring} bytes, so that a slow centre would lose messages: \
             raise router.segment_bytes to {least} or more, or router.segments",
            router.devices_per_shard
        );
        Fault::new("router.devices_per_shard", problem)
    })
}

/// What one unit may send in a second must stay under half of the shard's ring as well.
fn flood_fault(limits: &Limits, router: &RouterSettings) -> Option<Fault> {
    let half = router.segment_bytes.saturating_mul(router.segments) / 2;
    let rate = usize::try_from(limits.bytes_per_s).unwrap_or(usize::MAX);
    (rate > half).then(|| {
        let problem = format!(
            "{rate} is above half of a shard's ring, {half}: one unit could make the others of its \
             shard lose messages within a second; lower it, or raise router.segment_bytes"
        );
        Fault::new("limits.bytes_per_s", problem)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[listen]\ncertificate = 'c'\nkey = 'k'\nclient_ca = 'a'\n";

    fn parse(text: &str) -> Result<Config, ConfigFaults> {
        service::config::parse(Path::new("broker.toml"), text, ENVIRONMENT_PREFIX, [])
    }

    fn faults(text: &str) -> String {
        faults_of(text).unwrap()
    }

    fn faults_of(text: &str) -> Option<String> {
        parse(text).err().map(|faults| faults.to_string())
    }

    #[test]
    fn three_files_are_all_that_must_be_said() {
        let config = parse(LEAST).unwrap();
        let listen = ListenSettings::new(Path::new("c"), Path::new("k"), Path::new("a"));
        assert_eq!(config.listen, listen);
        assert_eq!(config.limits, Limits::default());
    }

    #[test]
    fn the_example_shows_every_key_with_its_default() {
        let text = include_str!("../../deploy/config/broker.toml");
        let config = parse(text).unwrap();
        assert_eq!(config.limits, Limits::default());
        assert_eq!(config.router, RouterSettings::default());
        assert_eq!(config.ops, OpsSettings::default());
        assert_eq!(config.log, LogSettings::default());
        assert_eq!(config.listen.address, default_address());
        assert_eq!(config.listen.reload_interval_s, default_reload_interval_s());
        let shown: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(" = "))
            .collect();
        let known = serde_json::to_value(&config).unwrap();
        for key in known
            .as_object()
            .unwrap()
            .values()
            .flat_map(|part| part.as_object().unwrap().keys())
        {
            assert!(
                shown.iter().any(|(name, _)| name == key),
                "{key} is missing in the example"
            );
        }
    }

    #[test]
    fn a_ring_that_a_shard_would_overrun_is_a_fault_that_names_the_way_out() {
        let fault = faults(&format!("{LEAST}[router]\ndevices_per_shard = 26\n"));
        assert!(
            fault.contains("broker.toml:6: router.devices_per_shard"),
            "{fault}"
        );
        assert!(
            fault.contains("raise router.segment_bytes to 532480 or more"),
            "{fault}"
        );
        let raised = format!("{LEAST}[router]\ndevices_per_shard = 26\nsegment_bytes = 532480\n");
        assert!(parse(&raised).is_ok());
    }

    #[test]
    fn a_rate_by_which_one_unit_would_overrun_the_ring_is_a_fault() {
        let with = |bytes: u32| faults_of(&format!("{LEAST}[limits]\nbytes_per_s = {bytes}\n"));
        assert_eq!(with(2_097_152), None);
        let fault = with(2_097_153).unwrap();
        assert!(
            fault.contains("broker.toml:6: limits.bytes_per_s"),
            "{fault}"
        );
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let fault = faults(&format!(
            "{LEAST}[limits]\nhandshakes = 0\nbytes_per_s = 10\nspeed = 1\n[log]\nlevel = 'loud'\n"
        ));
        for key in [
            "limits.handshakes",
            "limits.bytes_per_s",
            "limits.speed",
            "log.level",
        ] {
            assert!(fault.contains(key), "{key} is missing in {fault}");
        }
    }

    #[test]
    fn rumqttd_is_silent_unless_it_is_spoken_of() {
        let log = |level: &str| LogSettings {
            level: level.to_owned(),
            ..LogSettings::default()
        };
        assert_eq!(log("info").directives(), "info,rumqttd=off");
        assert_eq!(log("info,rumqttd=warn").directives(), "info,rumqttd=warn");
    }
}
