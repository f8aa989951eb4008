//! The machine against a model of everything around it: a network that drops, duplicates, delays
//! and reorders, a centre that dies, closes, refuses and is put back in time, a buffer that lags, an
//! agent that restarts.
//!
//! Held at every step: a number is in at most one message; what is published is durable and wanted;
//! the window holds; nothing is freed that the centre has not committed; what a summary stands for
//! leaves raw after its receipt only. Once the faults stop, everything drains in a bounded number of
//! steps.

mod summaries;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;
use proto::frame::WIRE_VERSION;
use proto::limits::IN_FLIGHT_BYTES_MAX;
use proto::loss::{Loss, LossReason, LossScope};
use proto::receipt::{Intake, Refusal, RefusalClass, RefusalReason, StreamReceipt};
use proto::{CentreId, EventTime, Seq, SeqSet};

use super::super::backoff::Backoff;
use super::*;
use crate::buffer::StreamState;
use crate::uplink::frames::fixtures::buffer_state;

pub(super) const PACE: Pace = Pace {
    batch_passages: 50,
    event_wait_ms: 250,
    heartbeat_ms: 30_000,
    reconnect: Backoff {
        base_ms: 1_000,
        cap_ms: 60_000,
    },
    probe: Backoff {
        base_ms: 1_000,
        cap_ms: 300_000,
    },
    resend: Backoff {
        base_ms: 30_000,
        cap_ms: 300_000,
    },
    open_jitter_ms: 10_000,
    backlog_share_percent: 30,
    rate_bytes_per_s_max: None,
    summary_after_ms: 60_000,
};

const OURS: CentreId = CentreId::from_bytes([1; 16]);
const OTHERS: CentreId = CentreId::from_bytes([2; 16]);

/// Bytes of anything but passages.
const SAID_BYTES: usize = 200;
/// Passages that the buffer folds at once.
const FOLD_PASSAGES: u64 = 300;

/// Steps within which everything drains once the faults stop.
const DRAIN_STEPS_MAX: usize = 20_000;

#[derive(Debug, Clone)]
enum Op {
    Accept(u16),
    Advance(u32),
    /// The buffer applies what it was told, and shows itself.
    BufferWorks,
    BufferShows,
    AnswerRead {
        which: u16,
        part: u16,
    },
    Connects(bool),
    CutLink,
    FullLink,
    /// The broker has the oldest frame, whether the centre will or not.
    Acknowledge,
    DeliverUp(u16),
    DropUp(u16),
    DuplicateUp(u16),
    DeliverDown(u16),
    DropDown(u16),
    DuplicateDown(u16),
    CentreDies,
    CentreReturns,
    Intake(bool),
    Refuse {
        which: u16,
        class: RefusalClass,
        reason: RefusalReason,
    },
    /// The database is put back in time and has lost what it counted last.
    Reborn,
    ForeignReceipt,
    AgentRestarts,
    /// Another build of the centre takes over.
    NewBuild(u8),
    /// The buffer drops raw passages that were never offered and keeps their sums.
    Summarise(u16),
    /// Whether what waits is old enough to go ahead as summaries.
    Late(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let class = prop_oneof![
        4 => Just((RefusalClass::Later, RefusalReason::Overload)),
        4 => Just((RefusalClass::Later, RefusalReason::Cap)),
        2 => Just((RefusalClass::Reshape, RefusalReason::Cap)),
        1 => Just((RefusalClass::Never, RefusalReason::Malformed)),
    ];
    prop_oneof![
        8 => (1_u16..200).prop_map(Op::Accept),
        12 => (1_u32..40_000).prop_map(Op::Advance),
        8 => Just(Op::BufferWorks),
        8 => Just(Op::BufferShows),
        16 => (any::<u16>(), 1_u16..200).prop_map(|(which, part)| Op::AnswerRead { which, part }),
        6 => prop::bool::weighted(0.7).prop_map(Op::Connects),
        2 => Just(Op::CutLink),
        2 => Just(Op::FullLink),
        12 => Just(Op::Acknowledge),
        12 => any::<u16>().prop_map(Op::DeliverUp),
        3 => any::<u16>().prop_map(Op::DropUp),
        2 => any::<u16>().prop_map(Op::DuplicateUp),
        12 => any::<u16>().prop_map(Op::DeliverDown),
        3 => any::<u16>().prop_map(Op::DropDown),
        2 => any::<u16>().prop_map(Op::DuplicateDown),
        1 => Just(Op::CentreDies),
        2 => Just(Op::CentreReturns),
        2 => any::<bool>().prop_map(Op::Intake),
        3 => (any::<u16>(), class)
            .prop_map(|(which, (class, reason))| Op::Refuse { which, class, reason }),
        1 => Just(Op::Reborn),
        1 => Just(Op::ForeignReceipt),
        1 => Just(Op::AgentRestarts),
        1 => (1_u8..4).prop_map(Op::NewBuild),
        3 => (1_u16..100).prop_map(Op::Summarise),
        2 => any::<bool>().prop_map(Op::Late),
    ]
}

/// What travels up.
#[derive(Debug, Clone)]
enum Frame {
    Passages(StreamId, SeqRange),
    Losses(StreamId, Vec<Loss>),
    Summary(StreamId, Vec<SeqSet>),
}

/// One stream of the buffer.
#[derive(Debug, Clone, Default)]
struct Held {
    accepted_to: u64,
    counted: SeqSet,
    stored: SeqSet,
    lost: SeqSet,
    offered: SeqSet,
    /// Refused for ever.
    aside: SeqSet,
    /// Refused by which build.
    refused: BTreeMap<Arc<str>, SeqSet>,
    again: SeqSet,
    /// Dropped in favour of sums, which wait in `entries` or were counted or given up.
    summarised: SeqSet,
    /// What the sums that wait for a receipt stand for, dropped or not.
    entries: Vec<SeqSet>,
    /// Lost together with their sums.
    gone: SeqSet,
}

impl Held {
    fn all(&self) -> SeqSet {
        let range = SeqRange::from_count(Seq::FIRST, self.accepted_to);
        range.map(SeqSet::from).unwrap_or_default()
    }

    fn unsent(&self) -> SeqSet {
        self.all()
            .difference(&self.stored)
            .difference(&self.lost)
            .difference(&self.aside)
            .difference(&self.summarised)
    }

    fn settled(&self) -> SeqSet {
        self.stored.union(&self.lost)
    }

    fn summed(&self) -> SeqSet {
        let ranges = self.entries.iter().flat_map(|seqs| seqs.ranges());
        ranges.copied().collect()
    }

    fn declared(&self) -> SeqSet {
        self.aside.union(&self.summarised)
    }

    fn waits(&self) -> bool {
        let settled = self.settled();
        !self.unsent().is_empty() || !self.declared().is_subset(&settled)
    }

    fn losses(&self) -> Vec<Loss> {
        let all = self.aside.union(&self.gone).difference(&self.counted);
        let raw_only = self.declared().difference(&all);
        let loss = |scope| {
            move |range: &SeqRange| Loss {
                range: *range,
                scope,
                reason: LossReason::Refused,
                event_min: None,
                event_max: None,
            }
        };
        let settled = self.settled();
        let (all, raw_only) = (all.difference(&settled), raw_only.difference(&settled));
        let all = all.ranges().iter().map(loss(LossScope::All));
        all.chain(raw_only.ranges().iter().map(loss(LossScope::RawOnly)))
            .collect()
    }

    fn take_over(&mut self, receipt: &StreamReceipt) {
        self.counted = self.counted.union(&receipt.counted);
        self.stored = self.stored.union(&receipt.stored);
        let lost = receipt.lost.difference(&self.again);
        self.lost = self.lost.union(&lost).difference(&self.counted);
        self.again = self.again.difference(&self.counted);
        let decided = self.counted.union(&self.lost);
        self.entries.retain(|seqs| !seqs.is_subset(&decided));
    }

    fn refuse(&mut self, range: SeqRange, build: Option<Arc<str>>) {
        self.aside.insert(range);
        self.again.remove(range);
        if let Some(build) = build {
            self.refused.entry(build).or_default().insert(range);
        }
    }

    fn offer_again(&mut self, build: &Arc<str>) {
        let refused = self.refused.get(build).cloned().unwrap_or_default();
        let back = self.aside.difference(&refused);
        self.aside = self.aside.difference(&back);
        self.lost = self.lost.difference(&back);
        self.again = self.again.union(&back.difference(&self.counted));
    }

    fn give_up(&mut self, seqs: &SeqSet, counted: &SeqSet) {
        let is_named = |entry: &SeqSet| entry.is_subset(seqs) && !entry.is_subset(counted);
        let named: SeqSet = self
            .entries
            .extract_if(.., |entry| is_named(entry))
            .flat_map(|entry| entry.ranges().to_vec())
            .collect();
        // What is held is sent raw from here on.
        self.offered = self.offered.union(&named);
        let lost = named.intersection(&self.declared()).difference(counted);
        self.gone = self.gone.union(&lost.difference(&self.settled()));
    }

    fn reborn(&mut self) {
        self.counted = SeqSet::new();
        (self.stored, self.lost) = (SeqSet::new(), SeqSet::new());
        let summed = self.entries.iter().flat_map(|seqs| seqs.ranges()).copied();
        self.gone = self.summarised.difference(&summed.collect());
    }

    fn summarise(&mut self, count: u64) {
        let free = self.unsent().difference(&self.offered);
        let Some(run) = free.ranges().first() else {
            return;
        };
        let count = count.min(run.count());
        let seqs = SeqSet::from(SeqRange::from_count(run.first(), count).unwrap());
        self.summarised = self.summarised.union(&seqs);
        let news = seqs.difference(&self.summed()).difference(&self.counted);
        if !news.is_empty() {
            self.entries.push(news);
        }
    }

    /// Folds what no message may have contained, some at a time.
    fn fold(&mut self, to: u64) -> Folded {
        let free = self
            .unsent()
            .difference(&self.offered)
            .difference(&self.counted)
            .difference(&self.summed())
            .difference(&self.again);
        let first = |limit: u64| {
            SeqRange::from_count(Seq::FIRST, limit).map_or_else(|_| SeqSet::new(), SeqSet::from)
        };
        let mut seqs = free.intersection(&first(to));
        let more = seqs.count() > FOLD_PASSAGES;
        if more {
            let next = seqs.iter().nth(usize::try_from(FOLD_PASSAGES).unwrap());
            let next = next.unwrap().get();
            seqs = seqs.intersection(&first(next - 1));
        }
        let passages = seqs.count();
        if passages > 0 {
            self.entries.push(seqs);
        }
        Folded { passages, more }
    }
}

#[derive(Debug, Clone, Default)]
struct Cursor {
    counted: SeqSet,
    stored: SeqSet,
    lost: SeqSet,
}

struct World {
    machine: Machine,
    now: Millis,
    seed: u64,
    /// The buffer, by order of streams; the last is the current one.
    streams: Vec<(StreamId, Held)>,
    buffer_centre: Option<Centre>,
    told: Vec<(Centre, Vec<StreamReceipt>)>,
    to_refuse: Vec<(StreamId, SeqRange, Option<Arc<str>>)>,
    to_give_up: Vec<(StreamId, SeqSet, SeqSet)>,
    /// Whose summaries are to be read, and how many entries at most.
    to_summarise: Vec<(StreamId, usize)>,
    /// What is to be folded, and whether that depends on its age.
    to_fold: Vec<(Backlog, bool)>,
    late: bool,
    shown_builds: Vec<Arc<str>>,
    build: u8,
    /// Reads without an answer.
    reads: Vec<(MessageId, StreamId, SeqRange)>,
    /// Frames of messages, as the driver keeps them.
    framed: BTreeMap<MessageId, (StreamId, SeqRange)>,
    connecting: bool,
    linked: bool,
    full: bool,
    up: Vec<Frame>,
    /// Bytes of the frames that the broker has not acknowledged.
    unacked: VecDeque<usize>,
    down: Vec<Input>,
    centre: Centre,
    alive: bool,
    open: bool,
    token: u64,
    cursors: BTreeMap<StreamId, Cursor>,
    /// Everything that the centre ever committed, in any of its lives.
    ever: BTreeMap<StreamId, SeqSet>,
    heartbeats: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let centre = Centre {
            id: OURS,
            timeline: 1,
        };
        let mut world = Self {
            machine: Machine::new(PACE, Some(centre), Jitter::new(seed)),
            now: 0,
            seed,
            streams: Vec::new(),
            buffer_centre: Some(centre),
            told: Vec::new(),
            to_refuse: Vec::new(),
            to_give_up: Vec::new(),
            to_summarise: Vec::new(),
            to_fold: Vec::new(),
            late: false,
            shown_builds: Vec::new(),
            build: 1,
            reads: Vec::new(),
            framed: BTreeMap::new(),
            connecting: false,
            linked: false,
            full: false,
            up: Vec::new(),
            unacked: VecDeque::new(),
            down: Vec::new(),
            centre,
            alive: true,
            open: true,
            token: 1,
            cursors: BTreeMap::new(),
            ever: BTreeMap::new(),
            heartbeats: 0,
        };
        world.begin_stream();
        world.feed(Input::Tick);
        world
    }

    fn begin_stream(&mut self) {
        let number = u8::try_from(self.streams.len() + 1).unwrap();
        self.streams
            .push((StreamId::from_bytes([number; 16]), Held::default()));
    }

    fn state(&self) -> Arc<BufferState> {
        let mut state = buffer_state();
        let last = self.streams.len() - 1;
        let view = |(place, (id, held)): (usize, &(StreamId, Held))| {
            Arc::new(StreamState {
                id: *id,
                current: place == last,
                accepted_to: held.accepted_to,
                offered: SeqSet::new(),
                held: held.all(),
                kept: SeqSet::new(),
                unsent: held.unsent(),
                summed: held.summed().intersection(&held.unsent()),
                counted: held.counted.clone(),
                stored: held.stored.clone(),
                lost: held.lost.clone(),
                again: held.again.clone(),
                oldest_unsent: None,
            })
        };
        state.streams = self.streams.iter().enumerate().map(view).collect();
        for (id, held) in &self.streams {
            let losses = held.losses().into_iter().map(|loss| (*id, loss));
            state.losses.extend(losses);
            state.summarised += held.entries.iter().map(SeqSet::count).sum::<u64>();
        }
        state.centre = self.buffer_centre;
        Arc::new(state)
    }

    fn feed(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        while let Some(command) = self.machine.poll() {
            self.obey(command);
        }
        self.check();
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Connect => self.connecting = true,
            Command::Read { id, stream, range } => self.reads.push((id, stream, range)),
            Command::Publish(id) => self.publish(id),
            Command::Forget(id) => drop(self.framed.remove(&id)),
            Command::Fold {
                backlog,
                older_than_ms,
                ..
            } => self.to_fold.push((backlog, older_than_ms.is_some())),
            Command::Summary(stream, entries_max) => {
                self.to_summarise.push((stream, entries_max));
            }
            Command::Losses(stream, losses) => {
                if self.linked {
                    self.up.push(Frame::Losses(stream, losses));
                    self.said();
                }
            }
            Command::Heartbeat => {
                self.heartbeats += 1;
                if self.linked && !self.full {
                    self.said();
                }
            }
            Command::Receipt(centre, streams) => self.told.push((centre, streams)),
            Command::Refused {
                stream,
                range,
                build,
                ..
            } => self.to_refuse.push((stream, range, build)),
            Command::SummaryRefused {
                stream,
                seqs,
                counted,
                ..
            } => self.to_give_up.push((stream, seqs, counted)),
            Command::OfferAgain(build) => self.shown_builds.push(build),
            Command::CentreTime(_) | Command::Corrected(_) => {}
        }
    }

    fn said(&mut self) {
        self.unacked.push_back(SAID_BYTES);
        let bytes = SAID_BYTES;
        self.machine.handle(self.now, Input::Said { bytes });
    }

    fn acknowledge(&mut self) {
        if let Some(bytes) = self.unacked.pop_front() {
            self.full = false;
            self.feed(Input::Acknowledged { bytes });
        }
    }

    fn publish(&mut self, id: MessageId) {
        let (stream, range) = self.framed.remove(&id).expect("published without a frame");
        assert!(self.linked, "published without a link");
        let (_, held) = self
            .streams
            .iter()
            .find(|(known, _)| *known == stream)
            .unwrap();
        assert!(
            range.last().get() <= held.accepted_to,
            "published above the durable mark"
        );
        assert!(
            !held.summed().overlaps_range(range),
            "published before the receipt of its summary"
        );
        if self.full {
            self.framed.insert(id, (stream, range));
            self.machine.handle(self.now, Input::NotPublished { id });
        } else {
            self.up.push(Frame::Passages(stream, range));
            self.unacked.push_back(bytes_of(range));
        }
    }

    fn check(&self) {
        let flight = self.machine.flight();
        assert!(flight.len() <= MESSAGES_MAX);
        let mut seen: BTreeMap<StreamId, SeqSet> = BTreeMap::new();
        for (id, message) in flight.iter() {
            let others = seen.entry(message.stream).or_default();
            assert!(
                !others.overlaps_range(message.range),
                "{id:?} shares a number"
            );
            others.insert(message.range);
            assert!(message.range.count() <= PACE.batch_passages);
            if matches!(message.phase, Phase::Ready { .. }) {
                assert!(
                    self.framed.contains_key(&id),
                    "{id:?} is ready without a frame"
                );
            }
        }
        let sent = flight
            .iter()
            .filter(|(_, m)| matches!(m.phase, Phase::Sent { .. }))
            .count();
        assert!(flight.bytes_sent(None) <= IN_FLIGHT_BYTES_MAX || sent == 1);
        assert!(
            self.framed.len() <= MESSAGES_MAX,
            "frames are forgotten with their messages"
        );
        assert!(self.to_fold.len() <= 1, "one question at a time");
        for (id, held) in &self.streams {
            let ever = self.ever.get(id).cloned().unwrap_or_default();
            assert!(
                held.counted.union(&held.lost).is_subset(&ever),
                "freed what was not committed"
            );
        }
    }

    fn apply(&mut self, op: &Op) {
        let pick = |which: u16, len: usize| usize::from(which) % len.max(1);
        match *op {
            Op::Accept(count) => {
                let (_, held) = self.streams.last_mut().unwrap();
                held.accepted_to += u64::from(count);
            }
            Op::Advance(ms) => {
                self.now += Millis::from(ms);
                self.feed(Input::Tick);
            }
            Op::BufferWorks => self.buffer_works(),
            Op::BufferShows => self.feed(Input::Buffer(self.state())),
            Op::AnswerRead { which, part } if !self.reads.is_empty() => {
                let read = self.reads.remove(pick(which, self.reads.len()));
                self.answer_read(read, u64::from(part));
            }
            Op::Connects(well) if self.connecting => self.connects(well),
            Op::CutLink if self.linked => self.cut(),
            Op::FullLink if self.linked => self.full = true,
            Op::DeliverUp(which) if !self.up.is_empty() => {
                let frame = self.up.remove(pick(which, self.up.len()));
                self.arrive(&frame);
            }
            Op::Acknowledge => self.acknowledge(),
            Op::DropUp(which) if !self.up.is_empty() => {
                drop(self.up.remove(pick(which, self.up.len())));
            }
            Op::DuplicateUp(which) if !self.up.is_empty() => {
                self.up.push(self.up[pick(which, self.up.len())].clone());
            }
            Op::DeliverDown(which) if !self.down.is_empty() && self.linked => {
                let word = self.down.remove(pick(which, self.down.len()));
                self.feed(word);
            }
            Op::DropDown(which) if !self.down.is_empty() => {
                drop(self.down.remove(pick(which, self.down.len())));
            }
            Op::DuplicateDown(which) if !self.down.is_empty() => {
                self.down
                    .push(self.down[pick(which, self.down.len())].clone());
            }
            Op::CentreDies => self.alive = false,
            Op::CentreReturns => {
                self.alive = true;
                self.token += 1;
                self.say_beacon();
            }
            Op::Intake(open) if self.alive => {
                self.open = open;
                self.say_beacon();
            }
            Op::Refuse {
                which,
                class,
                reason,
            } if !self.up.is_empty() && self.alive => {
                let place = pick(which, self.up.len());
                let (stream, range) = match &self.up[place] {
                    Frame::Passages(stream, range) => (*stream, *range),
                    Frame::Summary(stream, entries) => (*stream, claimed(entries)),
                    Frame::Losses(..) => return,
                };
                self.up.remove(place);
                self.refuse(stream, range, class, reason);
            }
            Op::Reborn => self.reborn(),
            Op::ForeignReceipt => {
                let centre = Centre {
                    id: OTHERS,
                    timeline: 9,
                };
                let everything: SeqSet = SeqRange::from_count(Seq::FIRST, 1 << 40).unwrap().into();
                let streams = self.streams.iter().map(|(id, _)| StreamReceipt {
                    stream: *id,
                    counted: everything.clone(),
                    stored: everything.clone(),
                    lost: SeqSet::new(),
                    afresh: false,
                });
                let streams = streams.collect();
                self.down.push(Input::Receipt(Receipt {
                    centre,
                    streams,
                    correction: None,
                }));
            }
            Op::AgentRestarts => self.restart(),
            Op::NewBuild(build) if self.alive => {
                self.build = build;
                self.token += 1;
                self.say_beacon();
            }
            Op::Late(late) => self.late = late,
            Op::Summarise(count) => {
                let (_, held) = self.streams.first_mut().unwrap();
                held.summarise(u64::from(count));
            }
            _ => {}
        }
    }

    fn buffer_works(&mut self) {
        for (centre, receipts) in std::mem::take(&mut self.told) {
            let Some(pinned) = self.buffer_centre else {
                panic!("the model is pinned")
            };
            if centre.id != pinned.id || centre.timeline < pinned.timeline {
                continue;
            }
            if centre.timeline > pinned.timeline {
                self.buffer_centre = Some(centre);
                self.streams.iter_mut().for_each(|(_, held)| held.reborn());
            }
            for receipt in receipts {
                let known = self
                    .streams
                    .iter_mut()
                    .find(|(id, _)| *id == receipt.stream);
                let Some((_, held)) = known else { continue };
                held.take_over(&receipt);
            }
        }
        for (stream, range, build) in std::mem::take(&mut self.to_refuse) {
            if let Some(held) = self.held(stream) {
                held.refuse(range, build);
            }
        }
        for build in std::mem::take(&mut self.shown_builds) {
            let streams = self.streams.iter_mut();
            streams.for_each(|(_, held)| held.offer_again(&build));
        }
        for (stream, seqs, counted) in std::mem::take(&mut self.to_give_up) {
            if let Some(held) = self.held(stream) {
                held.give_up(&seqs, &counted);
            }
            self.feed(Input::SummaryGivenUp);
        }
        for (stream, entries_max) in std::mem::take(&mut self.to_summarise) {
            self.read_summary(stream, entries_max);
        }
        for (backlog, if_late) in std::mem::take(&mut self.to_fold) {
            let wanted = self.late || !if_late;
            let held = self.held(backlog.stream).filter(|_| wanted);
            let folded = held.map_or_else(Folded::default, |held| held.fold(backlog.to));
            // The driver shows the buffer first.
            self.feed(Input::Buffer(self.state()));
            self.feed(Input::Folded(folded));
        }
    }

    fn held(&mut self, stream: StreamId) -> Option<&mut Held> {
        let known = self.streams.iter_mut().find(|(id, _)| *id == stream);
        known.map(|(_, held)| held)
    }

    fn read_summary(&mut self, stream: StreamId, entries_max: usize) {
        let entries = self.held(stream).map(|held| held.entries.clone());
        let mut entries = entries.unwrap_or_default();
        entries.truncate(entries_max);
        let input = if entries.is_empty() {
            Input::SummaryAbsent(stream)
        } else if self.full || !self.linked {
            Input::SummaryNotSent
        } else {
            self.up.push(Frame::Summary(stream, entries.clone()));
            self.said();
            let ranges = entries.iter().flat_map(|seqs| seqs.ranges()).copied();
            Input::SummarySent {
                stream,
                claimed: claimed(&entries),
                seqs: ranges.collect(),
                entries: entries.len(),
            }
        };
        self.feed(input);
    }

    /// The buffer answers with as much as its own limit allows.
    fn answer_read(&mut self, (id, stream, range): (MessageId, StreamId, SeqRange), part: u64) {
        let held = self
            .streams
            .iter()
            .find(|(known, _)| *known == stream)
            .map(|(_, held)| held);
        let is_gone = |held: &Held| {
            held.declared()
                .union(&held.summed())
                .contains(range.first())
        };
        let Some(held) = held.filter(|held| !is_gone(held)) else {
            return self.feed(Input::Absent { id });
        };
        let read = SeqRange::from_count(range.first(), part.min(range.count())).unwrap();
        let open = SeqSet::from(read).difference(&held.declared().union(&held.summed()));
        let read = open.ranges()[0];
        if let Some(held) = self.held(stream) {
            held.offered.insert(read);
        }
        self.framed.insert(id, (stream, read));
        let bytes = bytes_of(read);
        self.feed(Input::Loaded {
            id,
            range: read,
            bytes,
        });
    }

    fn connects(&mut self, well: bool) {
        self.connecting = false;
        if well {
            self.linked = true;
            self.full = false;
            self.unacked.clear();
            self.feed(Input::Subscribed);
            // Retained.
            self.say_beacon();
        } else {
            self.feed(Input::Lost);
        }
    }

    fn cut(&mut self) {
        self.linked = false;
        self.unacked.clear();
        self.up.clear();
        self.down.clear();
        self.feed(Input::Lost);
    }

    fn say_beacon(&mut self) {
        if self.linked {
            self.down.push(Input::Beacon(Beacon {
                centre: self.centre,
                token: self.token,
                build: self.build.to_string(),
                wire_min: WIRE_VERSION,
                wire_max: WIRE_VERSION,
                intake: if self.open {
                    Intake::Open
                } else {
                    Intake::Closed
                },
                sent_at: EventTime::from_millis(0),
                summaries_age_max_ms: u64::MAX,
            }));
        }
    }

    fn arrive(&mut self, frame: &Frame) {
        if !self.alive || !self.open {
            return;
        }
        let stream = match frame {
            Frame::Passages(stream, _) | Frame::Losses(stream, _) | Frame::Summary(stream, _) => {
                *stream
            }
        };
        let cursor = self.cursors.entry(stream).or_default();
        match frame {
            Frame::Passages(_, range) => {
                cursor.counted.insert(*range);
                cursor.stored.insert(*range);
                cursor.lost.remove(*range);
            }
            Frame::Summary(..) => {}
            Frame::Losses(_, losses) => {
                for loss in losses {
                    let range = SeqSet::from(loss.range);
                    match loss.scope {
                        LossScope::All => {
                            let news = range.difference(&cursor.counted);
                            cursor.lost = cursor.lost.union(&news);
                        }
                        LossScope::RawOnly => {
                            let news = range.intersection(&cursor.counted);
                            cursor.stored = cursor.stored.union(&news);
                        }
                    }
                }
            }
        }
        let mut overlaps = false;
        if let Frame::Summary(_, entries) = frame {
            for seqs in entries {
                if seqs.is_disjoint(&cursor.counted) {
                    cursor.counted = cursor.counted.union(seqs);
                    cursor.lost = cursor.lost.difference(seqs);
                } else {
                    overlaps |= !seqs.is_subset(&cursor.counted);
                }
            }
        }
        let (counted, lost) = (cursor.counted.clone(), cursor.lost.clone());
        let stored = cursor.stored.clone();
        let ever = self.ever.entry(stream).or_default();
        *ever = ever.union(&counted).union(&lost);
        if self.linked {
            let streams = vec![StreamReceipt {
                stream,
                counted,
                stored,
                lost,
                afresh: false,
            }];
            self.down.push(Input::Receipt(Receipt {
                centre: self.centre,
                streams,
                correction: None,
            }));
        }
        if overlaps && let Frame::Summary(_, entries) = frame {
            let (class, reason) = (RefusalClass::Reshape, RefusalReason::Overlap);
            self.refuse(stream, claimed(entries), class, reason);
        }
    }

    fn refuse(
        &mut self,
        stream: StreamId,
        range: SeqRange,
        class: RefusalClass,
        reason: RefusalReason,
    ) {
        self.down.push(Input::Refusal(Refusal {
            centre: self.centre,
            stream,
            range: Some(range),
            class,
            reason,
            detail: String::new(),
            counted: self.cursors.get(&stream).map(|c| c.counted.clone()),
        }));
    }

    fn reborn(&mut self) {
        self.centre.timeline += 1;
        self.token = 1;
        for cursor in self.cursors.values_mut() {
            let kept = cursor.counted.ranges().first().copied();
            cursor.counted = kept.map(SeqSet::from).unwrap_or_default();
            cursor.stored = cursor.stored.intersection(&cursor.counted);
            cursor.lost = SeqSet::new();
        }
        // Down the same connection, after what the life before still had to say.
        self.say_beacon();
    }

    fn restart(&mut self) {
        if self.streams.len() >= 6 {
            return;
        }
        self.buffer_works();
        self.begin_stream();
        self.seed += 1;
        self.machine = Machine::new(PACE, self.buffer_centre, Jitter::new(self.seed));
        (self.connecting, self.linked) = (false, false);
        self.shown_builds.clear();
        self.to_summarise.clear();
        self.to_fold.clear();
        self.reads.clear();
        self.framed.clear();
        self.unacked.clear();
        self.up.clear();
        self.down.clear();
        self.feed(Input::Buffer(self.state()));
    }

    /// No more faults: runs until nothing waits, and says how many steps that took.
    fn drain(&mut self) -> usize {
        (self.alive, self.open, self.full) = (true, true, false);
        self.token += 1;
        self.say_beacon();
        self.feed(Input::Tick);
        for step in 0..DRAIN_STEPS_MAX {
            self.buffer_works();
            self.feed(Input::Buffer(self.state()));
            let waits = self.streams.iter().any(|(_, held)| held.waits());
            if !waits && self.machine.flight().is_empty() {
                return step;
            }
            if self.connecting {
                self.connects(true);
            } else if !self.unacked.is_empty() {
                self.acknowledge();
            } else if let Some(read) = self.reads.pop() {
                self.answer_read(read, u64::MAX);
            } else if !self.down.is_empty() {
                let word = self.down.remove(0);
                self.feed(word);
            } else if !self.up.is_empty() {
                let frame = self.up.remove(0);
                self.arrive(&frame);
            } else {
                let next = self.machine.timeout(self.now).unwrap_or(self.now + 1_000);
                assert!(
                    next > self.now,
                    "the machine asks to be called again at once"
                );
                self.now = next;
                self.feed(Input::Tick);
            }
        }
        panic!(
            "not drained: {:?}\n{:?}",
            self.streams,
            self.machine.flight().iter().collect::<Vec<_>>()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_freed_early_and_all_drains_after(
        seed: u64,
        ops in prop::collection::vec(op(), 0..300),
    ) {
        let mut world = World::new(seed);
        for op in &ops {
            world.apply(op);
        }
        world.drain();
        for (id, held) in &world.streams {
            let cursor = world.cursors.get(id).cloned().unwrap_or_default();
            prop_assert_eq!(cursor.counted.union(&cursor.lost), held.all());
            prop_assert_eq!(cursor.stored.union(&cursor.lost), held.all());
        }
    }
}

/// Bytes of a message.
fn bytes_of(range: SeqRange) -> usize {
    usize::try_from(range.count() * 1_000).unwrap()
}

/// The range in the header of a summary.
fn claimed(entries: &[SeqSet]) -> SeqRange {
    let first = entries.iter().filter_map(|seqs| seqs.ranges().first());
    let first = first.map(|range| range.first()).min().unwrap();
    let count = entries.iter().map(SeqSet::count).sum();
    SeqRange::from_count(first, count).unwrap()
}

/// A world with a link, an open intake and so many passages in the buffer.
fn linked(passages: u16) -> World {
    let mut world = World::new(1);
    world.connects(true);
    let beacon = world.down.remove(0);
    world.feed(beacon);
    world.apply(&Op::Accept(passages));
    world.apply(&Op::BufferShows);
    world
}

/// Reads are answered, and what leaves crosses the link.
fn work(world: &mut World) {
    while let Some(read) = world.reads.pop() {
        world.answer_read(read, u64::MAX);
        while !world.unacked.is_empty() {
            world.acknowledge();
        }
    }
}

#[test]
fn events_wait_for_company_no_longer_than_configured() {
    let mut world = linked(3);
    assert!(world.reads.is_empty());
    assert_eq!(world.machine.timeout(world.now), Some(PACE.event_wait_ms));
    world.apply(&Op::Advance(250));
    assert_eq!(world.reads.len(), 1);
}

#[test]
fn the_window_opens_by_receipts_from_one_to_its_maximum() {
    let mut world = linked(5_000);
    let mut windows = Vec::new();
    for _ in 0..5 {
        work(&mut world);
        windows.push(world.up.len());
        while !world.up.is_empty() {
            let frame = world.up.remove(0);
            world.arrive(&frame);
        }
        // One receipt for the flush.
        let last = world.down.pop().unwrap();
        world.down.clear();
        world.feed(last);
    }
    for (receipts, messages) in windows.iter().enumerate() {
        assert!(*messages <= 1 << receipts, "{windows:?}");
    }
    assert!(windows[0] == 1 && windows[4] > 1, "{windows:?}");
    assert!(world.machine.tally().messages_answered >= 5);
}

#[test]
fn a_duplicate_receipt_changes_nothing() {
    let mut world = linked(60);
    work(&mut world);
    let frame = world.up.remove(0);
    world.arrive(&frame);
    world.apply(&Op::DuplicateDown(0));
    world.apply(&Op::DeliverDown(0));
    let before = world.machine.tally();
    world.apply(&Op::DeliverDown(0));
    assert_eq!(
        world.machine.tally().messages_answered,
        before.messages_answered
    );
}

#[test]
fn an_unanswered_message_is_sent_again_after_its_deadline_and_on_a_new_link() {
    let mut world = linked(50);
    work(&mut world);
    world.up.clear();
    world.apply(&Op::Advance(29_999));
    assert!(world.reads.is_empty());
    world.apply(&Op::Advance(40_000));
    work(&mut world);
    assert_eq!(world.up.len(), 1);
    world.cut();
    world.apply(&Op::Advance(60_000));
    world.connects(true);
    let beacon = world.down.remove(0);
    world.feed(beacon);
    // Nothing of it can be folded.
    world.buffer_works();
    work(&mut world);
    assert_eq!(
        (world.up.len(), world.machine.tally().messages_resent),
        (1, 2)
    );
}

#[test]
fn a_new_owner_is_sent_everything_again_at_once() {
    let mut world = linked(50);
    work(&mut world);
    world.up.clear();
    world.apply(&Op::CentreReturns);
    world.apply(&Op::DeliverDown(0));
    work(&mut world);
    assert_eq!(world.up.len(), 1);
}

#[test]
fn a_closed_intake_gets_one_probe_per_backoff() {
    let mut world = linked(0);
    world.apply(&Op::Intake(false));
    world.apply(&Op::DeliverDown(0));
    world.apply(&Op::Accept(5_000));
    world.apply(&Op::BufferShows);
    for probes in 1..6 {
        let next = world.machine.timeout(world.now).unwrap();
        world.now = next;
        world.feed(Input::Tick);
        work(&mut world);
        assert!(
            world.up.len() <= probes,
            "{} messages after {probes} turns",
            world.up.len()
        );
    }
    assert!(!world.up.is_empty());
}

#[test]
fn never_moves_a_range_aside_and_the_rest_goes_on() {
    let mut world = linked(100);
    work(&mut world);
    world.apply(&Op::Refuse {
        which: 0,
        class: RefusalClass::Never,
        reason: RefusalReason::Malformed,
    });
    world.apply(&Op::DeliverDown(0));
    assert_eq!(world.to_refuse.len(), 1);
    world.drain();
    let (id, held) = &world.streams[0];
    assert_eq!(
        (held.aside.count(), world.cursors[id].counted.count()),
        (50, 50)
    );
}

#[test]
fn what_one_build_refused_is_offered_once_to_the_next() {
    let mut world = linked(50);
    let refuse = |world: &mut World| {
        work(world);
        let is_passages = |frame: &Frame| matches!(frame, Frame::Passages(..));
        while world.up.iter().any(is_passages) {
            world.up.retain(is_passages);
            world.apply(&Op::Refuse {
                which: 0,
                class: RefusalClass::Never,
                reason: RefusalReason::Malformed,
            });
            world.apply(&Op::DeliverDown(0));
            world.apply(&Op::BufferWorks);
            world.apply(&Op::BufferShows);
            world.apply(&Op::Advance(300));
            work(world);
        }
        assert!(world.reads.is_empty(), "all are aside");
    };
    refuse(&mut world);
    for (build, offers) in [(1, false), (2, true), (1, false), (2, false), (3, true)] {
        world.apply(&Op::NewBuild(build));
        world.apply(&Op::DeliverDown(0));
        world.apply(&Op::BufferWorks);
        world.apply(&Op::BufferShows);
        assert_eq!(!world.reads.is_empty(), offers, "build {build}");
        if offers {
            refuse(&mut world);
        }
    }
    world.drain();
    assert_eq!(world.streams[0].1.lost.count(), 50);
}

#[test]
fn a_bad_summary_costs_itself_only_and_is_not_sent_for_ever() {
    let mut world = linked(0);
    world.apply(&Op::Accept(100));
    for _ in 0..4 {
        world.apply(&Op::Summarise(25));
    }
    world.apply(&Op::BufferShows);
    let bad = Seq::new(26).unwrap();
    let mut sendings = 0;
    for _ in 0..200 {
        world.up.retain(|frame| matches!(frame, Frame::Summary(..)));
        if let Some(Frame::Summary(stream, entries)) = world.up.first().cloned() {
            sendings += 1;
            if entries.iter().any(|seqs| seqs.contains(bad)) {
                world.up.remove(0);
                let (class, reason) = (RefusalClass::Reshape, RefusalReason::Horizon);
                world.refuse(stream, claimed(&entries), class, reason);
            } else {
                world.apply(&Op::DeliverUp(0));
            }
        }
        world.apply(&Op::DeliverDown(0));
        world.apply(&Op::BufferWorks);
        world.apply(&Op::BufferShows);
        world.apply(&Op::Advance(100));
    }
    let (id, held) = &world.streams[0];
    assert!(held.entries.is_empty());
    assert_eq!(held.gone.count(), 25);
    assert_eq!(world.cursors[id].counted.count(), 75);
    assert!(sendings < 8, "{sendings} sendings");
}

#[test]
fn too_large_a_message_comes_again_in_halves() {
    let mut world = linked(50);
    work(&mut world);
    world.apply(&Op::Refuse {
        which: 0,
        class: RefusalClass::Reshape,
        reason: RefusalReason::Cap,
    });
    world.apply(&Op::DeliverDown(0));
    let (_, _, range) = world.reads[0];
    assert_eq!(range.count(), 25);
}

#[test]
fn heartbeats_come_at_their_interval() {
    let mut world = linked(0);
    assert_eq!(world.heartbeats, 1);
    world.apply(&Op::Advance(29_999));
    assert_eq!(world.heartbeats, 1);
    world.apply(&Op::Advance(1));
    assert_eq!(world.heartbeats, 2);
}
