//! Whatever may happen, in any order.

use super::*;

/// Steps within which everything drains once the faults stop.
const DRAIN_STEPS_MAX: usize = 20_000;

#[derive(Debug, Clone)]
pub(super) enum Op {
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

pub(super) fn op() -> impl Strategy<Value = Op> {
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

impl World {
    pub(super) fn apply(&mut self, op: &Op) {
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

    pub(super) fn restart(&mut self) {
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
    pub(super) fn drain(&mut self) -> usize {
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
