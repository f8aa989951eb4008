//! What tests of several modules need: headers, streams, messages without a broker, and a centre
//! whose database is its memory.

use std::collections::BTreeMap;

use proto::batch::PassageBatch;
use proto::device::{CentreId, DeviceId, StreamId};
use proto::frame::Up;
use proto::header::{Frontier, UpHeader};
use proto::passage::{EventTime, Passage};
use proto::ranges::{Seq, SeqSet};
use proto::receipt::{Centre, Receipt, Refusal};
use proto::summary::{Summary, SummaryEntry};
use proto::window::fold;

use crate::commit::plan::{
    Context, LossRow, RecoveredRow, RejectedRow, Tally, UnkeptKey, UnkeptRow, plan,
};
use crate::commit::select::select;
use crate::intake::admit::{Door, DoorLimits};
use crate::intake::decode::{Message, decode};
use crate::window::dedup::Cursor;
use crate::window::lateness::Horizon;
use crate::window::rollup::WindowId;
use crate::window::state::{DeviceState, Memory, Window};

/// 2025-04-05T10:15:30Z.
pub(crate) const NOW: i64 = 1_743_848_130_000;
pub(crate) const DAY: i64 = 86_400_000;

pub(crate) const CENTRE: Centre = Centre {
    id: CentreId::from_bytes([9; 16]),
    timeline: 1,
};

/// A stream by a small number.
pub(crate) fn stream(n: u8) -> StreamId {
    StreamId::from_bytes([n; 16])
}

/// A header that states no frontier.
pub(crate) fn header(stream_number: u8, first: u64, count: u32, accepted_to: u64) -> UpHeader {
    UpHeader {
        stream: stream(stream_number),
        first: Seq::new(first).unwrap(),
        count,
        accepted_to,
        frontier: Frontier {
            before: EventTime::from_millis(0),
            run: 1,
            counter: 0,
        },
        sent_at: EventTime::from_millis(NOW),
    }
}

/// A message as it comes from the threads that decode.
pub(crate) fn message(device: &str, header: &UpHeader, up: &Up) -> Message {
    let limits = DoorLimits {
        bytes_max: 1 << 30,
        device_frames_max: 1 << 20,
        devices_max: 9,
    };
    let topic = proto::topic::up(&DeviceId::new(device).unwrap());
    let frame = Door::new(limits)
        .admit(&topic, up.encode(header).into())
        .unwrap();
    decode(frame, true).unwrap()
}

/// A batch of these passages, the first with number `first`.
pub(crate) fn batch(device: &str, stream: u8, first: u64, passages: &[Passage]) -> Message {
    let count = u32::try_from(passages.len()).unwrap();
    let header = header(stream, first, count, first + u64::from(count) - 1);
    message(
        device,
        &header,
        &Up::Passages(passages.iter().cloned().collect()),
    )
}

/// A summary of these passages of stream 1.
pub(crate) fn summary(device: &str, seqs: SeqSet, of: &[Passage]) -> Message {
    let batch: PassageBatch = of.iter().cloned().collect();
    let (first, last) = (seqs.ranges()[0].first().get(), seqs.last().unwrap().get());
    let count = u32::try_from(of.len()).unwrap();
    let entry = SummaryEntry {
        seqs,
        deltas: fold(&batch, |_| true),
    };
    message(
        device,
        &header(1, first, count, last),
        &Up::Summary(Summary {
            entries: vec![entry],
        }),
    )
}

/// A passage at a time, with nothing but a speed.
pub(crate) fn passage(event_ms: i64, ckmh: u16) -> Passage {
    Passage {
        event_time: EventTime::from_millis(event_ms),
        speed: proto::Speed::from_centi_kmh(ckmh),
        ..Passage::default()
    }
}

/// What became of a flush.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    pub(crate) receipts: Vec<(DeviceId, Receipt)>,
    pub(crate) refusals: Vec<(DeviceId, Refusal)>,
    pub(crate) tally: Tally,
    pub(crate) transactions: usize,
}

/// A centre whose database is its memory: whatever is not in it, no table has.
pub(crate) struct MemoryCentre {
    pub(crate) memory: Memory,
    pub(crate) now_ms: i64,
    pub(crate) raw: bool,
    pub(crate) rejected_per_day_max: i64,
    /// How often each (stream key, number) was written as a raw row.
    pub(crate) raw_rows: BTreeMap<(i32, u64), u32>,
    pub(crate) rejected: Vec<RejectedRow>,
    pub(crate) losses: Vec<LossRow>,
    pub(crate) recovered: Vec<RecoveredRow>,
    pub(crate) unkept: Vec<(UnkeptKey, UnkeptRow)>,
    next_key: i32,
}

impl MemoryCentre {
    pub(crate) fn new() -> Self {
        Self {
            memory: Memory::new(),
            now_ms: NOW,
            raw: true,
            rejected_per_day_max: 1_000,
            raw_rows: BTreeMap::new(),
            rejected: Vec::new(),
            losses: Vec::new(),
            recovered: Vec::new(),
            unkept: Vec::new(),
            next_key: 1,
        }
    }

    /// Flushes until nothing is left over.
    pub(crate) fn flush(&mut self, messages: Vec<Message>) -> Flushed {
        self.flush_with(messages, true)
    }

    /// Plans one transaction and loses it: nothing is committed.
    pub(crate) fn flush_in_vain(&mut self, messages: Vec<Message>) {
        self.flush_with(messages, false);
    }

    fn flush_with(&mut self, mut messages: Vec<Message>, commits: bool) -> Flushed {
        let mut flushed = Flushed::default();
        while !messages.is_empty() {
            self.load(&messages);
            let horizon = Horizon::at(self.now_ms, 60 * DAY, 300_000);
            let places: Vec<usize> = (0..messages.len()).collect();
            let selection = select(&self.memory, &messages, &places, &horizon);
            for (device, id) in &selection.windows {
                self.memory.learn_window(device, *id, Window::default());
            }
            let keys: Vec<i32> = (self.next_key..self.next_key + 100).collect();
            let context = Context {
                now_ms: self.now_ms,
                horizon,
                raw: self.raw,
                rejected_per_day_max: self.rejected_per_day_max,
                stream_keys: &keys,
                centre: CENTRE,
            };
            let plan = plan(&self.memory, &messages, &selection.parts, &context);
            self.next_key += i32::try_from(plan.stream_keys_used).unwrap();
            if !commits {
                return flushed;
            }
            flushed.transactions += 1;
            for part in &plan.rows.raw {
                for seq in part.rows.rows().seqs() {
                    *self.raw_rows.entry((part.stream_key, seq)).or_default() += 1;
                }
            }
            self.rejected.extend(plan.rows.rejected);
            self.losses.extend(plan.rows.losses);
            self.recovered.extend(plan.rows.recovered);
            self.unkept.extend(plan.rows.unkept);
            flushed.tally.add(&plan.tally);
            flushed.receipts.extend(plan.receipts);
            flushed.refusals.extend(plan.refusals);
            self.memory.install(plan.changes);
            for waiting in &selection.left_over {
                messages[waiting.message].decided = waiting.decided;
            }
            let left_over: Vec<usize> = selection
                .left_over
                .iter()
                .map(|waiting| waiting.message)
                .collect();
            messages = messages
                .into_iter()
                .enumerate()
                .filter_map(|(place, message)| left_over.contains(&place).then_some(message))
                .collect();
        }
        flushed
    }

    fn load(&mut self, messages: &[Message]) {
        for message in messages {
            let device = &message.sender().device;
            if self.memory.device(device).is_none() {
                let key = i32::try_from(self.memory.device_count()).unwrap() + 1;
                let state = DeviceState {
                    key,
                    ..DeviceState::default()
                };
                self.memory.learn_device(device.clone(), state);
            }
            for stream in message.streams() {
                let state = self.memory.device(device).unwrap();
                if !state.cursors.contains_key(&stream) {
                    self.memory.learn_cursor(device, stream, Cursor::default());
                }
            }
        }
    }

    pub(crate) fn state(&self, device: &str) -> &DeviceState {
        self.memory.device(&DeviceId::new(device).unwrap()).unwrap()
    }

    pub(crate) fn cursor(&self, device: &str, n: u8) -> &Cursor {
        &self.state(device).cursors[&stream(n)]
    }

    /// All windows that hold anything.
    pub(crate) fn windows(&self, device: &str) -> BTreeMap<WindowId, Window> {
        let windows = self.state(device).windows.iter();
        windows
            .filter(|(_, (window, _))| window.stats.n > 0)
            .map(|(id, (window, _))| (*id, window.clone()))
            .collect()
    }
}

impl Tally {
    /// The sum of two flushes.
    pub(crate) fn add(&mut self, other: &Self) {
        self.passages += other.passages;
        self.counted += other.counted;
        self.stored += other.stored;
        self.duplicate += other.duplicate;
        self.refused += other.refused;
        self.summarised += other.summarised;
        for (what, passages) in &other.lost {
            *self.lost.entry(*what).or_default() += passages;
        }
        self.recovered += other.recovered;
        self.raw_rows += other.raw_rows;
        for (reason, passages) in &other.rejected {
            *self.rejected.entry(*reason).or_default() += passages;
        }
    }
}
