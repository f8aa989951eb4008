//! What is wrong with settings: all of it at once, each fault by its key.

use proto::limits::BATCH_PASSAGES_MAX;
use service::config::{Fault, Validate};
use service::logging::check_level;
use service::serve::Endpoint;

use super::{BROKERS_MAX, Config, IngestConfig, MIB, PlatePolicy, UplinkConfig, split_address};

impl Validate for Config {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults(Vec::new());
        faults.ingest(&self.ingest);
        let plates = &self.plates;
        let hash_without_key =
            plates.policy == Some(PlatePolicy::Hash) && plates.key_file.is_none();
        faults.unless(!hash_without_key, "plates.policy", || {
            "hash needs plates.key_file".to_owned()
        });
        let buffer = &self.buffer;
        faults.unless(buffer.directory.is_absolute(), "buffer.directory", || {
            format!("{} is not an absolute path", buffer.directory.display())
        });
        if let Some(quota) = buffer.quota_bytes {
            faults.within("buffer.quota_bytes", quota, MIB, 1 << 50);
        }
        faults.within(
            "buffer.free_floor_bytes",
            buffer.free_floor_bytes,
            MIB,
            1 << 50,
        );
        faults.within("buffer.linger_ms", buffer.linger_ms, 0, 1_000);
        faults.within("buffer.open_timeout_s", buffer.open_timeout_s, 5, 600);
        faults.uplink(&self.uplink);
        faults.unless(self.status.socket.is_absolute(), "status.socket", || {
            format!("{} is not an absolute path", self.status.socket.display())
        });
        let token = self.ops.token_file.is_some();
        faults.reachable("ops", &self.ops.listen, self.ops.allow_remote, token);
        if let Err(error) = check_level(&self.log.level) {
            faults.0.push(Fault::new("log.level", error.to_string()));
        }
        faults.0
    }
}

struct Faults(Vec<Fault>);

impl Faults {
    fn ingest(&mut self, ingest: &IngestConfig) {
        self.within("ingest.connections_max", ingest.connections_max, 1, 4_096);
        self.within(
            "ingest.body_bytes_max",
            ingest.body_bytes_max,
            4 * 1024,
            64 * 1024 * 1024,
        );
        self.within("ingest.ahead_s", ingest.ahead_s, 0, 3_600);
        let token = ingest.token_file.is_some();
        self.reachable("ingest", &ingest.listen, ingest.allow_remote, token);
    }

    /// Who can be reached from other machines says so, and asks for a token.
    fn reachable(&mut self, section: &str, listen: &Endpoint, allowed: bool, token: bool) {
        if listen.is_local() {
            return;
        }
        self.unless(allowed, &format!("{section}.listen"), || {
            format!(
                "{listen} can be reached from other machines: set {section}.allow_remote = true"
            )
        });
        self.unless(token, &format!("{section}.token_file"), || {
            "missing: what other machines can reach needs a token".to_owned()
        });
    }

    fn uplink(&mut self, uplink: &UplinkConfig) {
        let broker = &uplink.broker;
        self.unless(split_address(broker).is_some(), "uplink.broker", || {
            format!("{broker:?} is not host:port")
        });
        let further = uplink.further_brokers.len();
        self.unless(further < BROKERS_MAX, "uplink.further_brokers", || {
            let most = BROKERS_MAX - 1;
            format!("{further} brokers are more than {most}")
        });
        for (place, broker) in uplink.further_brokers.iter().enumerate() {
            let key = format!("uplink.further_brokers[{place}]");
            self.unless(split_address(broker).is_some(), &key, || {
                format!("{broker:?} is not host:port")
            });
            let is_new = uplink.brokers().take(place + 1).all(|one| one != broker);
            self.unless(is_new, &key, || format!("{broker:?} stands here twice"));
        }
        let batch_max = u32::try_from(BATCH_PASSAGES_MAX).unwrap_or(u32::MAX);
        self.within("uplink.batch_passages", uplink.batch_passages, 1, batch_max);
        self.within("uplink.event_wait_ms", uplink.event_wait_ms, 0, 60_000);
        self.within("uplink.heartbeat_s", uplink.heartbeat_s, 1, 3_600);
        self.within("uplink.reconnect_max_s", uplink.reconnect_max_s, 1, 3_600);
        self.within("uplink.resend_min_s", uplink.resend_min_s, 1, 600);
        self.within("uplink.camera_delay_h", uplink.camera_delay_h, 1, 720);
        self.within("uplink.backlog_share", uplink.backlog_share, 1, 90);
        if let Some(rate) = uplink.rate_kbit_s_max {
            self.within("uplink.rate_kbit_s_max", rate, 8, 10_000_000);
        }
        if let Some(volume) = uplink.daily_mb_max {
            self.within("uplink.daily_mb_max", volume, 1, 10_000_000);
        }
        self.within("uplink.daily_reserve", uplink.daily_reserve, 0, 100);
        self.within("uplink.summary_after_s", uplink.summary_after_s, 0, 86_400);
        if let Some(name) = &uplink.server_name {
            let known = rustls::pki_types::ServerName::try_from(name.as_str()).is_ok();
            self.unless(known, "uplink.server_name", || {
                format!("{name:?} is neither a host name nor an IP address")
            });
        }
    }

    fn unless(&mut self, holds: bool, key: &str, problem: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Fault::new(key, problem()));
        }
    }

    fn within<T>(&mut self, key: &str, value: T, least: T, most: T)
    where
        T: PartialOrd + std::fmt::Display,
    {
        let holds = least <= value && value <= most;
        self.unless(holds, key, || {
            format!("{value} is outside {least} to {most}")
        });
    }
}
