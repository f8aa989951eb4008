//! Everything around the machine: clock, buffer, link, centre; and what must hold at every step.

use super::*;

/// What travels up.
#[derive(Debug, Clone)]
pub(super) enum Frame {
    Passages(StreamId, SeqRange),
    Losses(StreamId, Vec<Loss>),
    Summary(StreamId, Vec<SeqSet>),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Cursor {
    pub(super) counted: SeqSet,
    pub(super) stored: SeqSet,
    pub(super) lost: SeqSet,
}

pub(super) struct World {
    pub(super) machine: Machine,
    pub(super) now: Millis,
    pub(super) seed: u64,
    /// The buffer, by order of streams; the last is the current one.
    pub(super) streams: Vec<(StreamId, Held)>,
    pub(super) buffer_centre: Option<Centre>,
    pub(super) told: Vec<(Centre, Vec<StreamReceipt>)>,
    pub(super) to_refuse: Vec<(StreamId, SeqRange, Option<Arc<str>>)>,
    pub(super) to_give_up: Vec<(StreamId, SeqSet, SeqSet)>,
    /// Whose summaries are to be read, and how many entries at most.
    pub(super) to_summarise: Vec<(StreamId, usize)>,
    /// What is to be folded, and whether that depends on its age.
    pub(super) to_fold: Vec<(Backlog, bool)>,
    pub(super) late: bool,
    pub(super) shown_builds: Vec<Arc<str>>,
    pub(super) build: u8,
    /// Reads without an answer.
    pub(super) reads: Vec<(MessageId, StreamId, SeqRange)>,
    /// Frames of messages, as the driver keeps them.
    pub(super) framed: BTreeMap<MessageId, (StreamId, SeqRange)>,
    pub(super) connecting: bool,
    pub(super) linked: bool,
    pub(super) full: bool,
    pub(super) up: Vec<Frame>,
    /// Bytes of the frames that the broker has not acknowledged.
    pub(super) unacked: VecDeque<usize>,
    pub(super) down: Vec<Input>,
    pub(super) centre: Centre,
    pub(super) alive: bool,
    pub(super) open: bool,
    pub(super) token: u64,
    pub(super) cursors: BTreeMap<StreamId, Cursor>,
    /// Everything that the centre ever committed, in any of its lives.
    pub(super) ever: BTreeMap<StreamId, SeqSet>,
    pub(super) heartbeats: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
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

    pub(super) fn begin_stream(&mut self) {
        let number = u8::try_from(self.streams.len() + 1).unwrap();
        self.streams
            .push((StreamId::from_bytes([number; 16]), Held::default()));
    }

    pub(super) fn state(&self) -> Arc<BufferState> {
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

    pub(super) fn feed(&mut self, input: Input) {
        self.machine.handle(self.now, input);
        while let Some(command) = self.machine.poll() {
            self.obey(command);
        }
        self.check();
    }

    pub(super) fn obey(&mut self, command: Command) {
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

    pub(super) fn said(&mut self) {
        self.unacked.push_back(SAID_BYTES);
        let bytes = SAID_BYTES;
        self.machine.handle(self.now, Input::Said { bytes });
    }

    pub(super) fn acknowledge(&mut self) {
        if let Some(bytes) = self.unacked.pop_front() {
            self.full = false;
            self.feed(Input::Acknowledged { bytes });
        }
    }

    pub(super) fn publish(&mut self, id: MessageId) {
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

    pub(super) fn check(&self) {
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
}

/// Bytes of a message.
pub(super) fn bytes_of(range: SeqRange) -> usize {
    usize::try_from(range.count() * 1_000).unwrap()
}

/// The range in the header of a summary.
pub(super) fn claimed(entries: &[SeqSet]) -> SeqRange {
    let first = entries.iter().filter_map(|seqs| seqs.ranges().first());
    let first = first.map(|range| range.first()).min().unwrap();
    let count = entries.iter().map(SeqSet::count).sum();
    SeqRange::from_count(first, count).unwrap()
}
