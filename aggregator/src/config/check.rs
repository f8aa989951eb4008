//! ● Which values the settings may have. All faults are found at once, each by its key.

use proto::limits::{FRAME_BYTES_MAX, IN_FLIGHT_BATCHES_MAX};
use secrecy::{ExposeSecret, SecretString};
use service::config::{Fault, Validate};
use service::logging::check_level;

use super::Config;

/// Brokers that one aggregator serves: each receipt goes to all of them.
const BROKERS_MAX: usize = 8;

impl Validate for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults(Vec::new());
        let address = &self.mqtt.address;
        faults.unless(split_address(address).is_some(), "mqtt.address", || {
            format!("{address:?} is not host:port")
        });
        let further = &self.mqtt.further_addresses;
        faults.unless(
            further.len() < BROKERS_MAX,
            "mqtt.further_addresses",
            || {
                let most = BROKERS_MAX - 1;
                format!("{} brokers are more than {most}", further.len())
            },
        );
        for (place, address) in further.iter().enumerate() {
            let key = format!("mqtt.further_addresses[{place}]");
            faults.unless(split_address(address).is_some(), &key, || {
                format!("{address:?} is not host:port")
            });
            let is_new = self
                .mqtt
                .addresses()
                .take(place + 1)
                .all(|one| one != address);
            faults.unless(is_new, &key, || format!("{address:?} stands here twice"));
        }
        if let Err(problem) = database_login(&self.database.url) {
            faults.unless(false, "database.url", || problem);
        }
        faults.within("database.pool_size", self.database.pool_size, 1, 100);
        let windows = &self.windows;
        faults.within("windows.horizon_days", windows.horizon_days, 3, 36_500);
        faults.within("windows.ahead_minutes", windows.ahead_minutes, 0, 60);
        faults.within(
            "windows.flush_interval_ms",
            windows.flush_interval_ms,
            50,
            60_000,
        );
        faults.within(
            "windows.flush_passages_max",
            windows.flush_passages_max,
            1_000,
            100_000_000,
        );
        let (retention, horizon) = (self.raw.retention_days, windows.horizon_days);
        faults.unless(retention > horizon, "raw.retention_days", || {
            format!("{retention} days is not above windows.horizon_days = {horizon}")
        });
        faults.within("store.history_days", self.store.history_days, 1, 3_650);
        faults.within("store.streams_days", self.store.streams_days, 1, 36_500);
        faults.within(
            "store.unexplained_after_minutes",
            self.store.unexplained_after_minutes,
            1,
            525_600,
        );
        faults.within("lease.ttl_ms", self.lease.ttl_ms, 1_000, 60_000);
        faults.within(
            "lease.renew_ms",
            self.lease.renew_ms,
            100,
            self.lease.ttl_ms / 3,
        );
        faults.within("api.connections_max", self.api.connections_max, 1, 10_000);
        faults.within("api.windows_max", self.api.windows_max, 1, 100_000);
        faults.within("api.cache_bytes_max", self.api.cache_bytes_max, 0, 4 << 30);
        faults.within("api.units_max", self.api.units_max, 1, 10_000);
        faults.within(
            "api.unit_windows_max",
            self.api.unit_windows_max,
            1,
            1_000_000,
        );
        for (place, origin) in self.api.allow_origins.iter().enumerate() {
            faults.unless(
                is_origin(origin),
                &format!("api.allow_origins[{place}]"),
                || {
                    format!(
                        "{origin:?} is neither * nor an origin such as https://dash.example:8443"
                    )
                },
            );
        }
        let limits = &self.limits;
        let (least, most) = (8 * FRAME_BYTES_MAX, 64 << 30);
        faults.within(
            "limits.intake_bytes_max",
            limits.intake_bytes_max,
            least,
            most,
        );
        let least = u32::try_from(2 * IN_FLIGHT_BATCHES_MAX).unwrap_or(u32::MAX);
        faults.within(
            "limits.device_frames_max",
            limits.device_frames_max,
            least,
            10_000,
        );
        faults.within("limits.devices_max", limits.devices_max, 1, 10_000_000);
        faults.within(
            "limits.windows_cached_max",
            limits.windows_cached_max,
            1_000,
            100_000_000,
        );
        faults.within("limits.decode_threads", limits.decode_threads, 0, 1_024);
        faults.within(
            "limits.rejected_per_day_max",
            limits.rejected_per_day_max,
            0,
            10_000_000,
        );
        if let Err(error) = check_level(&self.log.level) {
            faults.0.push(Fault::new("log.level", error.to_string()));
        }
        faults.0
    }
}

/// Scheme, host and perhaps port, as browsers send it, without a path.
fn is_origin(text: &str) -> bool {
    let host = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let plain = |host: &str| {
        !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b'/')
    };
    text == "*" || host.is_some_and(plain)
}

/// Host and port of `host:port` or `[v6]:port`.
#[must_use]
pub fn split_address(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host
        .strip_prefix('[')
        .and_then(|v6| v6.strip_suffix(']'))
        .unwrap_or(host);
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then_some((host, port))
}

/// Where the database is, read from `database.url`.
///
/// # Errors
/// What is wrong with it, in words that quote nothing of it: a password with a space or a `?` in it is
/// taken for something else, and must not come to light by that.
pub fn database_login(url: &SecretString) -> Result<tokio_postgres::Config, String> {
    url.expose_secret()
        .parse()
        .map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let cause = match cause.unwrap_or_default() {
                unknown if unknown.starts_with("unknown option") => {
                    "it has an unknown option".to_owned()
                }
                // Names an option of PostgreSQL's, never its value.
                other => other,
            };
            format!("is neither postgresql://… nor key=value pairs: {cause}")
        })
}

struct Faults(Vec<Fault>);

impl Faults {
    fn unless(&mut self, holds: bool, key: &str, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Fault::new(key, problem()));
        }
    }

    fn within<T: PartialOrd + std::fmt::Display>(&mut self, key: &str, value: T, min: T, max: T) {
        self.unless(min <= value && value <= max, key, || {
            format!("{value} is outside {min} to {max}")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_login_is_said_without_quoting_it() {
        for good in [
            "postgresql://verst@db:5432/verst",
            "host=/run/postgresql user=verst",
        ] {
            assert!(database_login(&good.into()).is_ok(), "{good}");
        }
        for bad in [
            "postgresql://verst:hunter2@db:54x2/verst",
            "host=db password=mellon hunter2=x",
            "host=db password=mellon hunter2",
            "postgresql://verst@db/verst?password=mellon&hunter2=x",
            "postgresql://verst:mellon@db/verst?sslmode=hunter2",
        ] {
            let problem = database_login(&bad.into()).unwrap_err();
            let quotes = problem.contains("hunter2") || problem.contains("mellon");
            assert!(!quotes, "{bad}: {problem}");
        }
    }

    #[test]
    fn addresses_are_split_into_host_and_port() {
        assert_eq!(
            split_address("broker.example:8883"),
            Some(("broker.example", 8_883))
        );
        assert_eq!(split_address("[::1]:1883"), Some(("::1", 1_883)));
        for bad in ["broker", "broker:", ":8883", "broker:0", "broker:99999"] {
            assert_eq!(split_address(bad), None, "{bad}");
        }
    }
}
