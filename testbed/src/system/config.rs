//! ● The TOML that each program is started with. Text in, text out; `mod.rs` writes the files.

use std::net::SocketAddr;
use std::path::Path;

use toml::{Table, Value};

use super::agent::Place;
use crate::pki::{BROKER_HOST, Pki};

/// The longest pause between two attempts of an agent to connect, in seconds.
const RECONNECT_MAX_S: i64 = 2;
/// How long an agent waits for a receipt before it sends again, in seconds: the least allowed is
/// right where the way takes microseconds, and a lost batch should not make a test wait.
const RESEND_MIN_S: i64 = 3;
/// Bytes of the disk that agents leave free.
const FREE_FLOOR_BYTES: i64 = 16 * 1024 * 1024;
/// By the database's clock: how long the shards of a killed aggregator wait for the next one.
const LEASE_TTL_MS: u32 = 2_000;
/// How often a lease is renewed.
const LEASE_RENEW_MS: u32 = 500;
/// How often the broker looks for changed certificates, in seconds.
const RELOAD_INTERVAL_S: i64 = 1;

/// Days that raw passages are kept beyond the horizon.
pub(super) const RAW_DAYS_BEYOND: i64 = 30;

/// What the whole system is asked to do differently from the defaults.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// How old a passage may be, in days; raw passages are kept some days longer.
    pub horizon_days: u32,
    /// From one flush to the next.
    pub flush_interval_ms: u32,
    /// Bytes that one agent may hold.
    pub buffer_quota_bytes: u32,
    /// From one heartbeat of an agent to its next, in seconds.
    pub heartbeat_s: u32,
    /// How long a silent aggregator's shards wait for another.
    pub lease_ttl_ms: u32,
    /// How often leases are renewed.
    pub lease_renew_ms: u32,
    /// Log level of all programs.
    pub log_level: &'static str,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            horizon_days: 60,
            flush_interval_ms: 1_000,
            buffer_quota_bytes: 512 * 1024 * 1024,
            heartbeat_s: 30,
            lease_ttl_ms: LEASE_TTL_MS,
            lease_renew_ms: LEASE_RENEW_MS,
            log_level: "info",
        }
    }
}

/// `[section] key = value …`
fn section(pairs: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Table(
        pairs
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<Table>(),
    )
}

/// Where the first broker is reached, and the second where there is one, as these keys.
fn brokers(
    (first, second): (u16, Option<u16>),
    [key, further]: [&'static str; 2],
) -> [(&'static str, Value); 2] {
    let address = |port: u16| Value::from(format!("{BROKER_HOST}:{port}"));
    let second: Vec<Value> = second.map(address).into_iter().collect();
    [(key, address(first)), (further, second.into())]
}

fn file(sections: impl IntoIterator<Item = (&'static str, Value)>) -> String {
    let table: Table = sections
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    table.to_string()
}

fn path(path: &Path) -> Value {
    Value::from(path.display().to_string())
}

fn log(tuning: &Tuning) -> Value {
    section([("level", tuning.log_level.into())])
}

/// For `broker run`.
#[must_use]
pub(super) fn broker(tuning: &Tuning, pki: &Pki, listen: SocketAddr, ops: SocketAddr) -> String {
    file([
        (
            "listen",
            section([
                ("address", listen.to_string().into()),
                ("certificate", path(&pki.certificate("broker"))),
                ("key", path(&pki.key("broker"))),
                ("client_ca", path(&pki.ca())),
                ("crl", path(&pki.crl())),
                ("reload_interval_s", RELOAD_INTERVAL_S.into()),
            ]),
        ),
        ("ops", section([("address", ops.to_string().into())])),
        ("log", log(tuning)),
    ])
}

/// For `aggregator run`.
#[must_use]
pub(super) fn aggregator(
    tuning: &Tuning,
    pki: &Pki,
    name: &str,
    ports: (u16, Option<u16>),
    database_url: &str,
    (api, ops): (SocketAddr, SocketAddr),
) -> String {
    file([
        (
            "mqtt",
            section(
                [
                    ("ca", path(&pki.ca())),
                    ("certificate", path(&pki.certificate(name))),
                    ("key", path(&pki.key(name))),
                ]
                .into_iter()
                .chain(brokers(ports, ["address", "further_addresses"])),
            ),
        ),
        ("database", section([("url", database_url.into())])),
        (
            "windows",
            section([
                ("horizon_days", i64::from(tuning.horizon_days).into()),
                (
                    "flush_interval_ms",
                    i64::from(tuning.flush_interval_ms).into(),
                ),
            ]),
        ),
        (
            "raw",
            section([(
                "retention_days",
                (i64::from(tuning.horizon_days) + RAW_DAYS_BEYOND).into(),
            )]),
        ),
        (
            "lease",
            section([
                ("ttl_ms", i64::from(tuning.lease_ttl_ms).into()),
                ("renew_ms", i64::from(tuning.lease_renew_ms).into()),
            ]),
        ),
        ("api", section([("listen", api.to_string().into())])),
        ("ops", section([("listen", ops.to_string().into())])),
        ("log", log(tuning)),
    ])
}

/// For `edge-agent run`. Plates are kept as they are, so that raw rows can be compared whole.
#[must_use]
pub(super) fn agent(
    tuning: &Tuning,
    pki: &Pki,
    device: &str,
    ports: (u16, Option<u16>),
    place: &Place,
) -> String {
    file([
        ("device", section([("id", device.into())])),
        (
            "ingest",
            section([("listen", place.door.to_string().into())]),
        ),
        ("plates", section([("policy", "keep".into())])),
        (
            "buffer",
            section([
                ("directory", path(&place.buffer)),
                ("quota_bytes", i64::from(tuning.buffer_quota_bytes).into()),
                ("free_floor_bytes", FREE_FLOOR_BYTES.into()),
            ]),
        ),
        (
            "uplink",
            section(
                [
                    ("ca", path(&pki.ca())),
                    ("certificate", path(&pki.certificate(device))),
                    ("key", path(&pki.key(device))),
                    ("reconnect_max_s", RECONNECT_MAX_S.into()),
                    ("resend_min_s", RESEND_MIN_S.into()),
                    ("heartbeat_s", i64::from(tuning.heartbeat_s).into()),
                ]
                .into_iter()
                .chain(brokers(ports, ["broker", "further_brokers"])),
            ),
        ),
        ("status", section([("socket", path(&place.status))])),
        ("ops", section([("listen", place.ops.to_string().into())])),
        ("log", log(tuning)),
    ])
}
