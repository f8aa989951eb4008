//! Every metric of the agent, by name. Values come from the buffer's and the uplink's published
//! state at the time of the scrape, so they can contradict neither `edge-agent status` nor each
//! other: offered = accepted + duplicate + rejected + refused, accepted + offered again = receipted +
//! lost + held, sent ≥ receipted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use proto::loss::LossReason;
use tokio::sync::watch;

use crate::buffer::{Alarm, BufferState, Counters, StoreHealth};
use crate::clock::wall;
use crate::ingest::http::DoorCounters;
use crate::status::backlog::BufferedReport;
use crate::status::rates::Flow;
use crate::uplink::allowance::Held;
use crate::uplink::view::{LinkPhase, UplinkView};

/// Seconds from sending to receipt: from a local test to four times the least resend time.
const RECEIPT_SECONDS: [f64; 10] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 240.0];

/// Metrics that others observe.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Seconds from sending a message to its receipt.
    pub receipt_seconds: Histogram,
}

/// A registry named `verst_agent`, and the metrics that others observe.
#[must_use]
pub fn register(published: Published, commit_seconds: Histogram) -> (Registry, Metrics) {
    let mut registry = Registry::with_prefix("verst_agent");
    let metrics = Metrics {
        receipt_seconds: Histogram::new(RECEIPT_SECONDS),
    };
    registry.register_with_unit(
        "receipt",
        "Time from sending a message to its receipt",
        Unit::Seconds,
        metrics.receipt_seconds.clone(),
    );
    registry.register_with_unit(
        "commit",
        "Time of a group commit, fsync included",
        Unit::Seconds,
        commit_seconds,
    );
    registry.register_collector(Box::new(published));
    (registry, metrics)
}

/// What others publish, read at the time of the scrape.
#[derive(Debug)]
pub struct Published {
    /// The buffer.
    pub buffer: watch::Receiver<Arc<BufferState>>,
    /// The uplink.
    pub uplink: watch::Receiver<UplinkView>,
    /// How fast passages come and go.
    pub flow: watch::Receiver<Flow>,
    /// What went through the door.
    pub door: Arc<DoorCounters>,
}

impl Collector for Published {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let buffer = self.buffer.borrow().clone();
        let uplink = self.uplink.borrow().clone();
        let mut page = Page(&mut encoder);
        page.door(&self.door)?;
        page.passages(&buffer, &uplink)?;
        page.buffer(&buffer)?;
        page.backlog(&BufferedReport::new(
            wall(),
            &buffer,
            &uplink,
            *self.flow.borrow(),
        ))?;
        page.link(&uplink)?;
        page.uplink(&uplink)
    }
}

struct Page<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Page<'_, '_> {
    /// items = accepted + duplicate + rejected + refused.
    fn door(&mut self, door: &DoorCounters) -> std::fmt::Result {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let help = "Requests to post passages, of any outcome";
        self.counter("ingest_requests", help, of(&door.requests))?;
        self.counter(
            "passages_offered",
            "Passages in the requests that were read",
            of(&door.items),
        )?;
        let rejected = of(&door.rejected);
        self.counter(
            "passages_rejected",
            "Passages with a fault of their own",
            rejected,
        )?;
        let refused = of(&door.refused);
        self.counter(
            "passages_refused",
            "Good passages that the buffer did not take",
            refused,
        )
    }

    fn passages(&mut self, buffer: &BufferState, uplink: &UplinkView) -> std::fmt::Result {
        let (counters, tally) = (&buffer.counters, &uplink.tally);
        self.counter(
            "passages_accepted",
            "Passages made durable since the start",
            counters.accepted,
        )?;
        let duplicates = counters.duplicates;
        self.counter(
            "passages_duplicate",
            "Passages recognised by their event_id",
            duplicates,
        )?;
        let sent = tally.passages_sent;
        self.counter(
            "passages_sent",
            "Passages handed to the link, each sending",
            sent,
        )?;
        let receipted = tally.passages_answered;
        self.counter(
            "passages_receipted",
            "Passages that receipts covered",
            receipted,
        )?;
        let released = counters.released;
        self.counter(
            "passages_released",
            "Sent copies deleted for space",
            released,
        )?;
        let salvaged = counters.salvaged;
        self.counter(
            "passages_salvaged",
            "Passages taken back from the bytes of a damaged store",
            salvaged,
        )?;
        let again = counters.offered_again;
        self.counter(
            "passages_offered_again",
            "Passages lost by refusal and offered again to another build of the centre",
            again,
        )?;
        let lost = ConstCounter::new(0_u64);
        let help = "Passages lost, raw or altogether, by reason";
        let mut encoder =
            self.0
                .encode_descriptor("passages_lost", help, None, lost.metric_type())?;
        for reason in REASONS {
            let lost = ConstCounter::new(counters.lost[Counters::place(reason)]);
            lost.encode(encoder.encode_family(&[("reason", reason.word())])?)?;
        }
        Ok(())
    }

    fn buffer(&mut self, state: &BufferState) -> std::fmt::Result {
        self.gauge(
            "buffered_passages",
            "Passages that wait for a receipt",
            state.unsent.passages,
        )?;
        let bytes = state.unsent.bytes;
        self.gauge(
            "buffered_bytes",
            "Logical bytes that wait for a receipt",
            bytes,
        )?;
        let summarised = state.summarised;
        self.gauge(
            "summarised_passages",
            "Passages whose sums wait for a receipt; their raw form was dropped or follows",
            summarised,
        )?;
        self.gauge(
            "held_bytes",
            "Logical bytes in the buffer, sent copies included",
            state.held_bytes,
        )?;
        self.gauge(
            "quota_bytes",
            "Logical bytes that the buffer may hold",
            state.disk.quota_bytes,
        )?;
        self.gauge(
            "disk_used_bytes",
            "Bytes of the buffer's files",
            state.disk.used_bytes,
        )?;
        self.gauge(
            "disk_free_bytes",
            "Bytes free on its file system",
            state.disk.free_bytes,
        )?;
        let healthy = u64::from(state.health == StoreHealth::Ok);
        self.gauge("store_healthy", "Whether the store takes passages", healthy)?;
        self.counter(
            "commits",
            "Group commits, each with its fsync",
            state.counters.commits,
        )?;
        self.gauge(
            "streams",
            "Streams in the buffer",
            length(state.streams.len()),
        )?;
        let quarantined: u64 = state.alarms.iter().map(quarantined).sum();
        self.gauge("quarantined_passages", "Passages moved aside", quarantined)?;
        let is_foreign = |alarm: &&Alarm| matches!(alarm, Alarm::StoreForeign(_));
        let foreign = state.alarms.iter().filter(is_foreign).count();
        self.gauge(
            "foreign_stores",
            "Stores of other units that were moved aside, unsent",
            length(foreign),
        )?;
        self.gauge(
            "alarms",
            "Things that an operator should see to",
            length(state.alarms.len()),
        )
    }

    /// What is not known has no line.
    fn backlog(&mut self, backlog: &BufferedReport) -> std::fmt::Result {
        let now_ms = wall().as_millis();
        let seconds = |ms: i64| u64::try_from(ms / 1_000).unwrap_or(0);
        let age_s = |at: Option<i64>| at.map_or(0, |at| seconds(now_ms - at));
        self.gauge(
            "buffered_oldest_age_seconds",
            "Age of the oldest passage that waits",
            age_s(backlog.oldest_ms),
        )?;
        self.gauge(
            "buffered_newest_age_seconds",
            "Age of the newest passage that waits",
            age_s(backlog.newest_ms),
        )?;
        if let Some(drain) = backlog.drain_per_min {
            self.signed(
                "buffered_drain_per_minute",
                "Passages by which those that wait became fewer in the last minute",
                drain,
            )?;
        }
        if let Some(done_at) = backlog.done_at_ms {
            self.gauge(
                "buffered_done_in_seconds",
                "Time until no passage of a backlog waits any more, at this rate",
                seconds(done_at - now_ms),
            )?;
        }
        if let Some(lasts_s) = backlog.buffer_lasts_s {
            self.gauge(
                "buffer_lasts_seconds",
                "Time until the quota is full if nothing leaves, at the traffic of the last day",
                lasts_s,
            )?;
        }
        Ok(())
    }

    fn link(&mut self, view: &UplinkView) -> std::fmt::Result {
        if let Some(rate) = view.bytes_per_s {
            self.gauge(
                "link_bytes_per_second",
                "What the link carries, as far as it was tried",
                rate,
            )?;
        }
        if let Some(round_trip_ms) = view.round_trip_ms {
            self.gauge(
                "link_round_trip_milliseconds",
                "From sending to the broker's acknowledgement while nothing queues",
                round_trip_ms,
            )?;
        }
        self.gauge(
            "link_day_bytes",
            "What the link carried in this day, both ways, headers estimated",
            view.day_bytes,
        )?;
        let held = match view.held {
            None => 0,
            Some(Held::Hours | Held::Volume) => 1,
            Some(Held::AllVolume) => 2,
        };
        let help = "What the owner's rules hold back: 0 nothing, 1 the backlog, 2 all passages";
        self.gauge("link_held", help, held)
    }

    fn uplink(&mut self, view: &UplinkView) -> std::fmt::Result {
        let tally = &view.tally;
        self.gauge(
            "link_up",
            "Whether passages can reach the centre",
            u64::from(view.phase == LinkPhase::Up),
        )?;
        self.counter("links", "Links that came up", tally.links)?;
        self.counter(
            "link_losses",
            "Links lost, or attempts that failed",
            tally.link_losses,
        )?;
        self.counter(
            "messages_sent",
            "Messages of passages handed to the link",
            tally.messages_sent,
        )?;
        let resent = tally.messages_resent;
        self.counter("messages_resent", "Those that had been sent before", resent)?;
        let answered = tally.messages_answered;
        self.counter(
            "messages_answered",
            "Messages that receipts covered",
            answered,
        )?;
        let in_flight = length(view.in_flight_messages);
        self.gauge(
            "in_flight_messages",
            "Messages without an answer",
            in_flight,
        )?;
        let bytes = length(view.in_flight_bytes);
        self.gauge(
            "in_flight_bytes",
            "Bytes handed to the link without an answer",
            bytes,
        )?;
        self.counter("receipts", "Receipts of the pinned centre", tally.receipts)?;
        self.counter(
            "foreign_words",
            "Words of another centre, or of an earlier life of it",
            tally.foreign,
        )?;
        self.counter(
            "suspect_messages",
            "Messages unanswered again and again",
            tally.suspects,
        )?;
        let refusals = [
            ("later", tally.refused_later),
            ("reshape", tally.refused_reshape),
            ("never", tally.refused_never),
        ];
        let kind = ConstCounter::new(0_u64).metric_type();
        let help = "Refusals by class";
        let mut encoder = self.0.encode_descriptor("refusals", help, None, kind)?;
        for (class, count) in refusals {
            ConstCounter::new(count).encode(encoder.encode_family(&[("class", class)])?)?;
        }
        let Some(end) = view.certificate_not_after else {
            return Ok(());
        };
        let left_s = (end.as_millis() - wall().as_millis()) / 1_000;
        let help = "Seconds until the unit's certificate expires";
        self.signed("certificate_expires_in_seconds", help, left_s)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> std::fmt::Result {
        let counter = ConstCounter::new(value);
        counter.encode(
            self.0
                .encode_descriptor(name, help, None, counter.metric_type())?,
        )
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> std::fmt::Result {
        self.signed(name, help, i64::try_from(value).unwrap_or(i64::MAX))
    }

    fn signed(&mut self, name: &str, help: &str, value: i64) -> std::fmt::Result {
        let gauge = ConstGauge::new(value);
        gauge.encode(
            self.0
                .encode_descriptor(name, help, None, gauge.metric_type())?,
        )
    }
}

/// Every reason in the order of [`Counters::place`].
pub const REASONS: [LossReason; 4] = [
    LossReason::Quota,
    LossReason::Corrupt,
    LossReason::Refused,
    LossReason::Operator,
];

fn length(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

const fn quarantined(alarm: &Alarm) -> u64 {
    match alarm {
        Alarm::PassagesQuarantined { passages } => *passages,
        Alarm::StoreQuarantined { .. }
        | Alarm::StoreForeign(_)
        | Alarm::StoreDamaged { .. }
        | Alarm::ForeignCentre { .. } => 0,
    }
}

#[cfg(test)]
mod tests;
