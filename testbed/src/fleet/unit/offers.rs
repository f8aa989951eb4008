//! What a unit says to the centre: batches within its window, the header of each, heartbeats.

use bytes::Bytes;
use proto::frame::Up;
use proto::header::{Frontier, UpHeader};
use proto::heartbeat::{Backlog, CameraLink, Disk, Heartbeat, HeldStream};
use proto::limits::{IN_FLIGHT_BYTES_MAX, RANGES_MAX};
use proto::receipt::Intake;
use proto::{EventTime, PassageBatch, Seq, SeqSet};

use super::batch::{Batch, Content, InFlight};
use super::{Owner, Unit};

/// Without a receipt for this long, a batch is sent again, or for [`RESEND_RECEIPTS`] receipt times.
pub(super) const RESEND_MS_MIN: i64 = 30_000;
const RESEND_RECEIPTS: i64 = 4;
/// Between two probes of a closed intake.
const PROBE_MS: i64 = 10_000;
/// The store of a simulated unit was started once.
const RUN: u32 = 1;

impl Unit {
    pub(super) fn offer(&mut self, now_ms: i64, owner: Owner, publish: &mut Vec<Bytes>) {
        let window = match owner.intake {
            Intake::Open => self.window,
            Intake::Closed => 1,
        };
        while now_ms >= self.quiet_until_ms && self.in_flight.len() < window {
            let Some(mut batch) = self.outbox.pop_front() else {
                return;
            };
            let frame = self.frame_of(&batch, now_ms);
            let bytes = frame.len();
            if !self.in_flight.is_empty() && self.in_flight_bytes + bytes > IN_FLIGHT_BYTES_MAX {
                batch.content = Content::Frame(frame);
                self.outbox.push_front(batch);
                return;
            }
            self.counts.offered_batches += 1;
            self.counts.resent_batches += u64::from(batch.offers > 0);
            batch.offers += 1;
            batch.content = Content::Frame(frame.clone());
            publish.push(frame);
            self.in_flight_bytes += bytes;
            self.in_flight.push_back(InFlight {
                batch,
                offered_ms: now_ms,
                bytes,
            });
            if owner.intake == Intake::Closed {
                self.quiet_until_ms = now_ms + PROBE_MS;
            }
        }
    }

    /// The frame of a batch; made at its first offer, because the frontier is taken at publish.
    fn frame_of(&mut self, batch: &Batch, now_ms: i64) -> Bytes {
        match &batch.content {
            Content::Frame(frame) => frame.clone(),
            Content::Passages(passages) => {
                let oldest = self
                    .oldest()
                    .map_or(batch.oldest, |oldest| oldest.min(batch.oldest));
                let count = u32::try_from(batch.range.count()).unwrap_or(u32::MAX);
                let header = self.header(batch.range.first(), count, Some(oldest), now_ms);
                Up::Passages(PassageBatch::clone(passages))
                    .encode(&header)
                    .into()
            }
        }
    }

    fn header(
        &mut self,
        first: Seq,
        count: u32,
        oldest: Option<EventTime>,
        now_ms: i64,
    ) -> UpHeader {
        self.statements += 1;
        let clock = EventTime::from_millis(now_ms - self.habits.camera_delay_max_ms);
        UpHeader {
            stream: self.stream,
            first,
            count,
            accepted_to: self.accepted_to,
            frontier: Frontier {
                before: oldest.map_or(clock, |oldest| oldest.min(clock)),
                run: RUN,
                counter: self.statements,
            },
            sent_at: EventTime::from_millis(now_ms),
        }
    }

    /// The oldest event time without a receipt.
    pub(super) fn oldest(&self) -> Option<EventTime> {
        let waiting = self.waiting.event_span().map(|(oldest, _)| oldest);
        let outbox = self.outbox.iter().map(|batch| batch.oldest);
        let in_flight = self.in_flight.iter().map(|sent| sent.batch.oldest);
        outbox.chain(in_flight).chain(waiting).min()
    }

    pub(super) fn heartbeat(&mut self, now_ms: i64) -> Bytes {
        let passages = self.counts.posted - self.counts.receipted - self.counts.refused;
        let oldest = self.oldest();
        let bytes = passages * std::mem::size_of::<proto::Passage>() as u64;
        let heartbeat = Heartbeat {
            held: vec![HeldStream {
                stream: self.stream,
                accepted_to: self.accepted_to,
                released: self.released.clone(),
                held: SeqSet::up_to(self.accepted_to)
                    .difference(&self.released)
                    .cover(RANGES_MAX),
            }],
            backlog: Backlog {
                passages,
                bytes,
                oldest,
                newest: self.last_post_ms.map(EventTime::from_millis),
                drain_per_min: None,
            },
            camera: self.last_post_ms.map_or(CameraLink::Unknown, |ms| {
                CameraLink::LastPostAt(EventTime::from_millis(ms))
            }),
            clock_offset_ms: None,
            agent_version: concat!("simulated ", env!("CARGO_PKG_VERSION")).to_owned(),
            disk: Disk::default(),
        };
        let header = self.header(Seq::FIRST, 0, oldest, now_ms);
        Up::Heartbeat(heartbeat).encode(&header).into()
    }

    pub(super) fn resend_ms(&self) -> i64 {
        RESEND_MS_MIN.max(RESEND_RECEIPTS * self.receipt_time_ms)
    }

    pub(super) fn take_back_overdue(&mut self, now_ms: i64) {
        let limit = self.resend_ms();
        if self
            .in_flight
            .front()
            .is_some_and(|sent| now_ms - sent.offered_ms >= limit)
        {
            self.take_back_all();
        }
    }

    pub(super) fn take_back_all(&mut self) {
        while let Some(sent) = self.in_flight.pop_back() {
            self.outbox.push_front(sent.batch);
        }
        self.in_flight_bytes = 0;
    }

    pub(super) fn forget(&mut self, place: usize) -> Option<InFlight> {
        let sent = self.in_flight.remove(place)?;
        self.in_flight_bytes -= sent.bytes;
        Some(sent)
    }
}
