//! All metrics of the aggregator.
//!
//! They balance: passages received = counted + stored + duplicate + rejected + refused + those on
//! their way, and those whose frames were dropped are sent again.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::commit::plan::Tally;
use crate::intake::admit::Dropped;
use crate::store::reader::BacklogRow;

/// One label, for a counter by reason, outcome, length …
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct By {
    reason: &'static str,
}

/// A loss, by what is lost and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Loss {
    scope: &'static str,
    reason: &'static str,
}

type ByReason = Family<By, Counter>;

/// Clones count the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Frames from the broker.
    pub frames_received: Counter,
    frames_dropped: ByReason,
    /// Passages in batches that were understood.
    pub passages_received: Counter,
    passages: ByReason,
    passages_rejected: ByReason,
    passages_lost: Family<Loss, Counter>,
    passages_recovered: Counter,
    raw_rows: Counter,
    windows_written: ByReason,
    receipts: Counter,
    /// Receipts and refusals that found no room on their way out; they heal by the next resend.
    pub downlink_dropped: Counter,
    refusals: ByReason,
    flushes: ByReason,
    /// Seconds from the begin of planning to the COMMIT.
    pub flush_seconds: Histogram,
    /// Seconds from the unit's sending to the COMMIT, by both clocks.
    freshness_seconds: Histogram,
    /// Bytes of frames on their way.
    pub intake_bytes: Gauge<i64, AtomicI64>,
    /// Devices in memory.
    pub devices: Gauge<i64, AtomicI64>,
    /// Windows in memory.
    pub windows_cached: Gauge<i64, AtomicI64>,
    /// Shards owned here.
    pub shards_owned: Gauge<i64, AtomicI64>,
    takeovers: ByReason,
    /// Shards given up to another aggregator.
    pub shards_released: Counter,
    /// Leases that another has taken over.
    pub leases_lost: Counter,
    /// Seconds since the leases were renewed.
    pub lease_age_seconds: Gauge<f64, AtomicU64>,
    aggregators: Gauge<i64, AtomicI64>,
    units_behind: Family<By, Gauge<i64, AtomicI64>>,
    backlog_passages: Gauge<i64, AtomicI64>,
    /// Passages of the owned shards of which nobody can say where they are.
    pub unexplained_passages: Gauge<i64, AtomicI64>,
    /// Brokers that are connected.
    pub brokers_connected: Gauge<i64, AtomicI64>,
    /// When the last flush was committed, in seconds since 1970.
    pub last_commit_seconds: Gauge<f64, AtomicU64>,
    /// Identities found cloned.
    pub clone_alarms: Counter,
    /// Raw days dropped by retention.
    pub raw_days_dropped: Counter,
}

const FLUSH_BOUNDS: [f64; 12] = [
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0,
];
/// A message that claims to be older, or from the future, counts as this old, or as new: one wrong
/// clock must not decide the mean of a fleet.
const FRESHNESS_MS_MAX: i64 = 86_400_000;
const FRESHNESS_BOUNDS: [f64; 12] = [
    0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0, 30.0, 300.0, 3_600.0, 86_400.0,
];

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("verst_aggregator");
        let metrics = Self {
            frames_received: Counter::default(),
            frames_dropped: Family::default(),
            passages_received: Counter::default(),
            passages: Family::default(),
            passages_rejected: Family::default(),
            passages_lost: Family::default(),
            passages_recovered: Counter::default(),
            raw_rows: Counter::default(),
            windows_written: Family::default(),
            receipts: Counter::default(),
            downlink_dropped: Counter::default(),
            refusals: Family::default(),
            flushes: Family::default(),
            flush_seconds: Histogram::new(FLUSH_BOUNDS),
            freshness_seconds: Histogram::new(FRESHNESS_BOUNDS),
            intake_bytes: Gauge::default(),
            devices: Gauge::default(),
            windows_cached: Gauge::default(),
            shards_owned: Gauge::default(),
            takeovers: Family::default(),
            shards_released: Counter::default(),
            leases_lost: Counter::default(),
            lease_age_seconds: Gauge::default(),
            aggregators: Gauge::default(),
            units_behind: Family::default(),
            backlog_passages: Gauge::default(),
            unexplained_passages: Gauge::default(),
            brokers_connected: Gauge::default(),
            last_commit_seconds: Gauge::default(),
            clone_alarms: Counter::default(),
            raw_days_dropped: Counter::default(),
        };
        let m = metrics.clone();
        registry.register(
            "frames_received",
            "Frames from the broker",
            m.frames_received,
        );
        registry.register(
            "frames_dropped",
            "Frames dropped before planning, by reason; their units send them again",
            m.frames_dropped,
        );
        registry.register(
            "passages_received",
            "Passages in batches that were understood",
            m.passages_received,
        );
        registry.register(
            "passages",
            "Passages decided: counted into windows, stored as raw rows after a summary, duplicate, rejected to the side table, refused; and summarised: counted by summaries",
            m.passages,
        );
        registry.register(
            "passages_rejected",
            "Passages for the side table, by reason",
            m.passages_rejected,
        );
        registry.register(
            "passages_lost",
            "Passages booked in the loss ledger, by scope and reason",
            m.passages_lost,
        );
        registry.register(
            "passages_recovered",
            "Passages booked as lost, wholly or their raw rows, that came after all",
            m.passages_recovered,
        );
        registry.register("raw_rows", "Raw rows written", m.raw_rows);
        registry.register(
            "windows_written",
            "Windows written, by length",
            m.windows_written,
        );
        registry.register("receipts", "Receipts handed to the broker", m.receipts);
        registry.register(
            "downlink_dropped",
            "Receipts and refusals that found no room on their way out",
            m.downlink_dropped,
        );
        registry.register("refusals", "Refusals, by reason", m.refusals);
        registry.register("flushes", "Flushes, by outcome", m.flushes);
        registry.register_with_unit(
            "flush",
            "From the begin of planning to the COMMIT",
            Unit::Seconds,
            m.flush_seconds,
        );
        registry.register_with_unit(
            "freshness",
            "From the unit's sending to the COMMIT, by both clocks",
            Unit::Seconds,
            m.freshness_seconds,
        );
        registry.register_with_unit(
            "intake",
            "Frames on their way from the broker to the COMMIT",
            Unit::Bytes,
            m.intake_bytes,
        );
        registry.register("devices", "Devices in memory", m.devices);
        registry.register("windows_cached", "Windows in memory", m.windows_cached);
        registry.register("shards_owned", "Shards owned here", m.shards_owned);
        registry.register(
            "takeovers",
            "Shards claimed, by reason: free (never owned, or given up), vanished (its owner's session was gone), expired (its owner was silent for the length of a lease)",
            m.takeovers,
        );
        registry.register(
            "shards_released",
            "Shards given up to another aggregator",
            m.shards_released,
        );
        registry.register(
            "leases_lost",
            "Leases of this aggregator that another has taken over",
            m.leases_lost,
        );
        registry.register_with_unit(
            "lease_age",
            "Since the leases were renewed; at lease.ttl_ms they are void",
            Unit::Seconds,
            m.lease_age_seconds,
        );
        registry.register(
            "aggregators",
            "Aggregators that share the shards, this one among them",
            m.aggregators,
        );
        registry.register(
            "units_behind",
            "Units of the owned shards that are behind, by reason: cloned, never_heard, unit_offline, backlog",
            m.units_behind,
        );
        registry.register(
            "backlog_passages",
            "Passages that wait for a receipt at the units of the owned shards, by their last heartbeats",
            m.backlog_passages,
        );
        registry.register(
            "unexplained_passages",
            "Passages of the owned shards that are neither counted nor lost, and of which their unit has not said for long that it holds them",
            m.unexplained_passages,
        );
        registry.register(
            "brokers_connected",
            "Brokers that are connected, of mqtt.address and mqtt.further_addresses",
            m.brokers_connected,
        );
        registry.register_with_unit(
            "last_commit_timestamp",
            "When the last flush was committed, since 1970",
            Unit::Seconds,
            m.last_commit_seconds,
        );
        registry.register("clone_alarms", "Devices found cloned", m.clone_alarms);
        registry.register(
            "raw_days_dropped",
            "Raw days dropped by retention",
            m.raw_days_dropped,
        );
        metrics
    }

    /// A frame was dropped.
    pub fn dropped(&self, reason: Dropped) {
        self.frames_dropped
            .get_or_create(&By {
                reason: reason.word(),
            })
            .inc();
    }

    /// A flush ended.
    pub fn flushed(&self, outcome: &'static str) {
        self.flushes.get_or_create(&By { reason: outcome }).inc();
    }

    /// A refusal was sent.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&By { reason }).inc();
    }

    /// A shard was claimed.
    pub fn took_over(&self, reason: &'static str) {
        self.takeovers.get_or_create(&By { reason }).inc();
    }

    /// So many aggregators live.
    pub fn aggregators(&self, living: usize) {
        self.aggregators
            .set(i64::try_from(living).unwrap_or(i64::MAX));
    }

    /// So many receipts were sent.
    pub fn receipted(&self, receipts: usize) {
        self.receipts.inc_by(receipts as u64);
    }

    /// So many windows of a length were written.
    pub fn wrote_windows(&self, length: &'static str, windows: usize) {
        self.windows_written
            .get_or_create(&By { reason: length })
            .inc_by(windows as u64);
    }

    /// What the units of the owned shards hold.
    pub fn backlog(&self, rows: &[BacklogRow]) {
        for reason in ["cloned", "never_heard", "unit_offline", "backlog"] {
            let units = rows
                .iter()
                .filter(|row| row.behind.as_deref() == Some(reason))
                .map(|row| row.units)
                .sum();
            self.units_behind.get_or_create(&By { reason }).set(units);
        }
        let passages = rows
            .iter()
            .map(|row| row.passages)
            .fold(0, i64::saturating_add);
        self.backlog_passages.set(passages);
    }

    /// A plan was committed.
    pub fn committed(&self, tally: &Tally, now_ms: i64) {
        let rejected: u64 = tally.rejected.values().sum();
        for (reason, passages) in [
            ("counted", tally.counted),
            ("stored", tally.stored),
            ("duplicate", tally.duplicate),
            ("rejected", rejected),
            ("refused", tally.refused),
            ("summarised", tally.summarised),
        ] {
            self.passages.get_or_create(&By { reason }).inc_by(passages);
        }
        for (reason, passages) in &tally.rejected {
            self.passages_rejected
                .get_or_create(&By {
                    reason: reason.word(),
                })
                .inc_by(*passages);
        }
        for ((scope, reason), passages) in &tally.lost {
            let loss = Loss { scope, reason };
            self.passages_lost.get_or_create(&loss).inc_by(*passages);
        }
        self.passages_recovered.inc_by(tally.recovered);
        self.raw_rows.inc_by(tally.raw_rows);
        for sent_at in &tally.sent_at {
            let age_ms = believed_age_ms(now_ms, sent_at.as_millis());
            self.freshness_seconds.observe(seconds(age_ms));
        }
        self.last_commit_seconds.set(seconds(now_ms));
    }
}

/// How old a message is: the unit's clock says so, and may say anything.
fn believed_age_ms(now_ms: i64, sent_at_ms: i64) -> i64 {
    let age_ms = now_ms.saturating_sub(sent_at_ms);
    age_ms.clamp(0, FRESHNESS_MS_MAX)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds of this century fit 53 bits"
)]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_clock_makes_a_message_older_than_a_day_or_newer_than_now() {
        let now_ms = 1_743_848_130_000;
        for (sent_at_ms, age_ms) in [
            (now_ms - 86_400_000, 86_400_000),
            (now_ms - 86_400_001, 86_400_000),
            (i64::MIN, 86_400_000),
            (now_ms - 7, 7),
            (now_ms + 7, 0),
            (i64::MAX, 0),
        ] {
            assert_eq!(believed_age_ms(now_ms, sent_at_ms), age_ms, "{sent_at_ms}");
        }
    }
}
