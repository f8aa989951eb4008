//! How the unit fares, as one value: made from what buffer and uplink publish, sent as JSON over
//! the status socket. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::backlog::BufferedReport;
use super::rates::Flow;
use crate::buffer::{Alarm, BufferState, Counters, ForeignStore, StoreHealth, StreamState};
use crate::metrics::REASONS;
use crate::uplink::view::{LinkPhase, UplinkView};
use proto::loss::Loss;
use proto::{DeviceId, EventTime, StreamId};

/// Days before the end of the certificate from which on the unit is degraded.
const CERTIFICATE_DAYS_MIN: i64 = 14;

/// Silence of the centre, while passages wait on an open link, that is degraded.
const RECEIPT_SILENCE_S_MAX: i64 = 300;

/// Share of the quota, in percent, that may wait for a receipt before the unit is degraded.
const FULL_PERCENT_MAX: u64 = 80;

const DAY_MS: i64 = 86_400_000;

/// How the unit fares. Times are milliseconds since 1970 by the unit's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The unit's name.
    pub device: String,
    /// The agent's version.
    pub version: String,
    /// When the agent started.
    pub started_at_ms: i64,
    /// When this was made.
    pub now_ms: i64,
    /// Whether nothing is wrong.
    pub healthy: bool,
    /// What is wrong.
    pub reasons: Vec<String>,
    /// The way to the centre.
    pub link: LinkReport,
    /// What waits for a receipt.
    pub buffered: BufferedReport,
    /// What is on its way.
    pub in_flight: InFlightReport,
    /// Passages per second over the last minute.
    pub rates: RatesReport,
    /// Passages since the start.
    pub passages: PassagesReport,
    /// The streams that the unit still knows, newest first.
    pub streams: Vec<StreamReport>,
    /// The disk under the buffer.
    pub disk: DiskReport,
    /// `ok`, `no_space`, or why it failed.
    pub store: String,
    /// The unit's certificate.
    pub certificate: CertificateReport,
    /// What an operator should see to.
    pub alarms: Vec<String>,
}

/// The way to the centre.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReport {
    /// `up`, `waiting` (connected, but the centre does not take passages), `connecting` or `down`.
    pub state: String,
    /// Since when.
    pub since_ms: i64,
    /// Where to.
    pub broker: String,
    /// Its place among the brokers that may be used, the first is 1.
    pub broker_place: usize,
    /// How many there are.
    pub brokers: usize,
    /// Why it is not up.
    pub reason: Option<String>,
    /// When the last receipt came.
    pub last_receipt_ms: Option<i64>,
    /// The usual time from sending to receipt.
    pub receipt_time_ms: Option<u64>,
    /// What it carries, in bits a second, as far as that was measured.
    pub bits_per_s: Option<u64>,
    /// From sending to the broker's acknowledgement while nothing queues.
    pub round_trip_ms: Option<u64>,
    /// Why the owner's rules hold passages back.
    pub held: Option<String>,
    /// Until when.
    pub held_until_ms: Option<i64>,
    /// Bytes that it carried in this day, both ways, headers estimated.
    pub day_bytes: u64,
    /// How many it may, by the owner's rules.
    pub day_bytes_max: Option<u64>,
}

/// What is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InFlightReport {
    /// Messages without an answer.
    pub messages: usize,
    /// Passages in them.
    pub passages: u64,
    /// Bytes of those handed to the link.
    pub bytes: usize,
}

/// Passages per second over the last minute.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RatesReport {
    /// Made durable.
    pub in_per_s: f64,
    /// Receipted.
    pub out_per_s: f64,
    /// Made durable, over the last day or since the start.
    pub usual_in_per_s: f64,
}

/// Passages since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassagesReport {
    /// Made durable.
    pub accepted: u64,
    /// Recognised by their `event_id`.
    pub duplicates: u64,
    /// Refused at the door for a fault of their own.
    pub rejected: u64,
    /// Receipted.
    pub receipted: u64,
    /// Lost by refusal and offered again to another build of the centre.
    pub offered_again: u64,
    /// Lost, raw or altogether, by reason.
    pub lost: BTreeMap<String, u64>,
}

/// What became of the passages of one run of the agent, as far as the unit knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReport {
    /// Its name, as in the ledger of the centre.
    pub stream: String,
    /// Whether it is the run that goes on.
    pub current: bool,
    /// Accepted.
    pub accepted: u64,
    /// In the windows of the centre.
    pub counted: u64,
    /// In the database of the centre with their raw rows.
    pub stored: u64,
    /// In the buffer without a receipt.
    pub waiting: u64,
    /// In the buffer, sent copies included.
    pub held: u64,
    /// Lost, as the centre has booked.
    pub lost: u64,
    /// Lost, raw or altogether, as the centre has yet to book, by reason.
    pub unbooked: BTreeMap<String, u64>,
}

impl StreamReport {
    fn new(stream: &StreamState, losses: &[(StreamId, Loss)]) -> Self {
        let mut unbooked = BTreeMap::new();
        for (_, loss) in losses.iter().filter(|(of, _)| *of == stream.id) {
            *unbooked.entry(loss.reason.word().to_owned()).or_default() += loss.range.count();
        }
        Self {
            stream: stream.id.to_string(),
            current: stream.current,
            accepted: stream.accepted_to,
            counted: stream.counted.count(),
            stored: stream.stored.count(),
            waiting: stream.unsent.count(),
            held: stream.held.count(),
            lost: stream.lost.count(),
            unbooked,
        }
    }
}

/// The disk under the buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskReport {
    /// Bytes of the buffer's files.
    pub used_bytes: u64,
    /// Bytes free on the file system.
    pub free_bytes: u64,
    /// Logical bytes in the buffer, sent copies included.
    pub held_bytes: u64,
    /// Logical bytes that the buffer may hold.
    pub quota_bytes: u64,
}

/// The unit's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    /// When it expires; none while it cannot be read.
    pub expires_at_ms: Option<i64>,
    /// Whole days until then, negative after.
    pub days_left: Option<i64>,
}

/// What does not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The unit's name.
    pub device: String,
    /// Where the link may lead, the preferred one first.
    pub brokers: Vec<String>,
    /// When the agent started.
    pub started_at: EventTime,
}

impl Report {
    /// Makes the report.
    #[must_use]
    pub fn new(
        subject: &Subject,
        now: EventTime,
        buffer: &BufferState,
        uplink: &UplinkView,
        flow: Flow,
        rejected: u64,
    ) -> Self {
        let now_ms = now.as_millis();
        let expires_at_ms = uplink.certificate_not_after.map(EventTime::as_millis);
        let lost = REASONS.map(|reason| {
            (
                reason.word().to_owned(),
                buffer.counters.lost[Counters::place(reason)],
            )
        });
        let mut report = Self {
            device: subject.device.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: subject.started_at.as_millis(),
            now_ms,
            healthy: true,
            reasons: Vec::new(),
            link: LinkReport {
                state: uplink.phase.word().to_owned(),
                since_ms: uplink.since.as_millis(),
                broker: subject.brokers[uplink.broker].clone(),
                broker_place: uplink.broker + 1,
                brokers: subject.brokers.len(),
                reason: uplink.reason.clone(),
                last_receipt_ms: uplink.last_receipt.map(EventTime::as_millis),
                receipt_time_ms: uplink.receipt_time_ms,
                bits_per_s: uplink.bytes_per_s.map(|rate| rate.saturating_mul(8)),
                round_trip_ms: uplink.round_trip_ms,
                held: uplink.held.map(|held| held.words().to_owned()),
                held_until_ms: uplink.held_until.map(EventTime::as_millis),
                day_bytes: uplink.day_bytes,
                day_bytes_max: uplink.day_bytes_max,
            },
            buffered: BufferedReport::new(now, buffer, uplink, flow),
            in_flight: InFlightReport {
                messages: uplink.in_flight_messages,
                passages: uplink.in_flight_passages,
                bytes: uplink.in_flight_bytes,
            },
            rates: RatesReport {
                in_per_s: flow.in_per_s,
                out_per_s: flow.out_per_s,
                usual_in_per_s: flow.usual_in_per_s,
            },
            passages: PassagesReport {
                accepted: buffer.counters.accepted,
                duplicates: buffer.counters.duplicates,
                rejected,
                receipted: uplink.tally.passages_answered,
                offered_again: buffer.counters.offered_again,
                lost: lost.into_iter().collect(),
            },
            streams: buffer
                .streams
                .iter()
                .rev()
                .map(|stream| StreamReport::new(stream, &buffer.losses))
                .collect(),
            disk: DiskReport {
                used_bytes: buffer.disk.used_bytes,
                free_bytes: buffer.disk.free_bytes,
                held_bytes: buffer.held_bytes,
                quota_bytes: buffer.disk.quota_bytes,
            },
            store: match &buffer.health {
                StoreHealth::Ok => "ok".to_owned(),
                StoreHealth::NoSpace => "no_space".to_owned(),
                StoreHealth::Failed(why) => why.to_string(),
            },
            certificate: CertificateReport {
                expires_at_ms,
                days_left: expires_at_ms.map(|end| (end - now_ms).div_euclid(DAY_MS)),
            },
            alarms: buffer
                .alarms
                .iter()
                .map(|alarm| words(alarm, &subject.device))
                .collect(),
        };
        report.reasons = report.faults(uplink.phase);
        report.healthy = report.reasons.is_empty();
        report
    }

    fn faults(&self, phase: LinkPhase) -> Vec<String> {
        let mut faults = Vec::new();
        if phase != LinkPhase::Up {
            let why = self.link.reason.as_deref().unwrap_or("not connected yet");
            faults.push(format!("link is {}: {why}", self.link.state));
        }
        let heard = self.link.last_receipt_ms.unwrap_or(self.link.since_ms);
        let silence_s = (self.now_ms - heard.max(self.link.since_ms)) / 1_000;
        if phase == LinkPhase::Up && self.in_flight.bytes > 0 && silence_s > RECEIPT_SILENCE_S_MAX {
            faults.push(format!(
                "no receipt for {silence_s} s although passages wait"
            ));
        }
        if uplink_is_used_up(&self.link) {
            faults
                .push("uplink.daily_mb_max is used up: passages wait for the next day".to_owned());
        }
        if self.store != "ok" {
            faults.push(format!("store does not take passages: {}", self.store));
        }
        let full = self.buffered.bytes.saturating_mul(100);
        if full > self.disk.quota_bytes.saturating_mul(FULL_PERCENT_MAX) {
            let (bytes, quota) = (self.buffered.bytes, self.disk.quota_bytes);
            faults.push(format!(
                "{bytes} bytes wait for a receipt, the quota is {quota}"
            ));
        }
        let lost: u64 = self.passages.lost.values().sum();
        if lost > 0 {
            faults.push(format!("{lost} passages lost since the start"));
        }
        match self.certificate.days_left {
            None => faults.push("the certificate cannot be read".to_owned()),
            Some(days) if days < 0 => faults.push("the certificate has expired".to_owned()),
            Some(days) if days < CERTIFICATE_DAYS_MIN => {
                faults.push(format!("the certificate expires in {days} days"));
            }
            Some(_) => {}
        }
        faults.extend(self.alarms.iter().cloned());
        faults
    }
}

/// Whether live passages wait because of the owner's rules.
fn uplink_is_used_up(link: &LinkReport) -> bool {
    link.day_bytes_max
        .is_some_and(|most| link.day_bytes >= most)
}

fn words(alarm: &Alarm, device: &str) -> String {
    match alarm {
        Alarm::StoreQuarantined { directory } => {
            let directory = directory.display();
            format!(
                "a damaged store was moved to {directory}; take out what can be read of it with `edge-agent export {directory} --out FILE`, then delete it"
            )
        }
        Alarm::StoreForeign(ForeignStore {
            directory,
            begun_for,
        }) => {
            let whose = begun_for.as_ref().map_or("another unit", DeviceId::as_str);
            let directory = directory.display();
            format!(
                "a store of {whose} was found in the buffer of {device} and moved to {directory}, unsent; let an agent with the certificate of {whose} send what is in it (`edge-agent export {directory}` shows it), or delete it"
            )
        }
        Alarm::StoreDamaged { salvaged, lost } => {
            format!(
                "the store was damaged at the start: {salvaged} passages were taken back from its bytes, {lost} are lost"
            )
        }
        Alarm::PassagesQuarantined { passages } => {
            format!("{passages} passages were moved aside: refused by the centre or damaged")
        }
        Alarm::ForeignCentre { centre } => {
            format!(
                "another centre answers: {} in its life {}",
                centre.id, centre.timeline
            )
        }
    }
}

#[cfg(test)]
mod tests;
