//! What is wrong with settings: values out of range, and some that do not go together.

use proto::limits::{IN_FLIGHT_BATCHES_MAX, IN_FLIGHT_BYTES_MAX};
use service::config::{Fault, Validate};
use service::logging::check_level;

use super::{Config, Limits, RouterSettings};

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
