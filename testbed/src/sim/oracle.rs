//! ● The judge: looks at every step and knows what must hold.
//!
//! It learns what units accepted from what they write to their disks, and adds windows up once more,
//! one passage at a time, with the code of [`crate::recompute`]; of what it judges it believes
//! nothing.
//!
//! Held at every step: a passage enters its windows once and its raw row is written once, and both are
//! what was accepted; cursors only grow; losses stand in the ledger; a receipt never exceeds what is
//! committed; accepted = counted + lost + still held; counted = stored + rows lost by the ledger + rows
//! still held; nothing turns final that is not counted; nothing crosses the broker that the role does
//! not allow.

mod commit;
mod copies;
mod stores;
mod tally;
mod window;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use aggregator::window::dedup::Cursor;
use proto::loss::{Loss, LossScope};
use proto::{DeviceId, PassageBatch, Seq, SeqRange, SeqSet, StreamId};

use crate::recompute::{Fact, Interval, Stats};
use copies::Copies;
use stores::Stores;
pub use tally::Tally;

/// How old a passage may be, and how far ahead, that windows take, ms.
pub(super) const HORIZON_MS: i64 = 60 * 86_400_000;
pub(super) const AHEAD_MS: i64 = 5 * 60_000;

/// How late a camera may hand a passage over, by the units' settings.
pub(super) const CAMERA_DELAY_MS: i64 = 3_600_000;

/// What one unit's stream accepted.
#[derive(Debug)]
struct Accepted {
    unit: usize,
    /// Of the unit itself, or of its copy.
    place: usize,
    all: SeqSet,
    facts: BTreeMap<u64, Fact>,
    /// Handed over within the delay that the unit states windows complete by: of a time that it had
    /// not called complete. That goes by the latest that it ever took the time for, since it says so
    /// by a wrong clock as by a right one, and is believed up to the centre's.
    on_time: SeqSet,
}

/// What must stand in the database.
#[derive(Debug, Clone, Default)]
pub(super) struct Expected {
    cursors: BTreeMap<StreamId, Cursor>,
    windows: BTreeMap<(usize, Interval, i64), Stats>,
    raw: BTreeMap<StreamId, SeqSet>,
    rejected: BTreeMap<StreamId, SeqSet>,
    /// Of which the raw rows will never come.
    raw_lost: BTreeMap<StreamId, SeqSet>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    failure: Option<String>,
    units: Vec<DeviceId>,
    /// Whether the passages of a unit have an id each.
    with_ids: Vec<bool>,
    streams: BTreeMap<StreamId, Accepted>,
    times: BTreeSet<(usize, i64)>,
    /// The latest that each unit ever took the time for.
    latest: BTreeMap<usize, i64>,
    /// Losses that units have declared and that are lost altogether.
    declared: BTreeMap<StreamId, SeqSet>,
    expected: Expected,
    stores: Stores,
    copies: Copies,
    /// What was committed in earlier lives of the database.
    past: BTreeMap<u32, BTreeMap<StreamId, Cursor>>,
    timeline: u32,
    /// Counts for the report.
    pub(super) tally: Tally,
}
impl Oracle {
    pub(super) fn new(units: Vec<DeviceId>, with_ids: Vec<bool>) -> Self {
        Self {
            units,
            with_ids,
            timeline: 1,
            ..Self::default()
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    pub(super) const fn failure(&self) -> Option<&String> {
        self.failure.as_ref()
    }

    /// A unit has made passages durable.
    pub(super) fn accepted(
        &mut self,
        unit: usize,
        place: usize,
        believed_ms: i64,
        stream: StreamId,
        first: Seq,
        batch: &PassageBatch,
    ) {
        self.takes_time_for(unit, believed_ms);
        let latest_ms = self.latest[&unit];
        let known = self.streams.entry(stream).or_insert_with(|| Accepted {
            unit,
            place,
            all: SeqSet::new(),
            facts: BTreeMap::new(),
            on_time: SeqSet::new(),
        });
        let mut problem = None;
        if known.unit != unit {
            problem = Some(format!("stream {stream} has two units"));
        }
        for (number, passage) in (first.get()..).zip(batch.iter()) {
            let fact = Fact::from(&passage);
            let event_ms = fact.event_ms;
            if let Some(before) = known.facts.get(&number) {
                if *before != fact {
                    problem = Some(format!(
                        "number {number} of {stream} became another passage"
                    ));
                }
                continue;
            }
            if known.place != place {
                problem = Some(format!("a copy of the store goes on with stream {stream}"));
            }
            known.facts.insert(number, fact);
            self.tally.accepted += 1;
            let one = one(number);
            known.all.insert(one);
            if event_ms >= latest_ms - CAMERA_DELAY_MS {
                known.on_time.insert(one);
            }
            if !self.times.insert((unit, event_ms)) && self.with_ids[unit] {
                problem = Some(format!(
                    "unit {unit} accepted the passage of {event_ms} twice although it has an id"
                ));
            }
        }
        problem.into_iter().for_each(|problem| self.fail(problem));
    }

    /// As far as a unit knows it is now this.
    pub(super) fn takes_time_for(&mut self, unit: usize, believed_ms: i64) {
        let latest_ms = self.latest.entry(unit).or_insert(believed_ms);
        *latest_ms = believed_ms.max(*latest_ms);
    }

    /// A camera was told that its passages are durable.
    pub(super) fn answered(&mut self, unit: usize, times: &[i64]) {
        let lost = times
            .iter()
            .find(|time| !self.times.contains(&(unit, **time)));
        if let Some(time) = lost {
            self.fail(format!(
                "unit {unit} answered for the passage of {time} before it was on the disk"
            ));
        }
    }

    /// What a unit has declared as lost altogether.
    pub(super) fn declared(&mut self, losses: &[(StreamId, Loss)]) {
        for (stream, loss) in losses {
            if loss.scope == LossScope::All {
                self.declared.entry(*stream).or_default().insert(loss.range);
            }
        }
    }

    /// The database was put back to an earlier state and is another one now.
    pub(super) fn promoted(&mut self, timeline: u32, expected: Expected) {
        let before = std::mem::replace(&mut self.expected, expected);
        self.past.insert(self.timeline, before.cursors);
        self.timeline = timeline;
    }

    /// The streams of all units.
    pub(super) fn known_streams(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    pub(super) fn expected(&self) -> Expected {
        self.expected.clone()
    }

    /// When everything has drained: nothing is left open, and nothing is lost without cause. Whether
    /// there was one for a unit says `may_lose`; a store that was put back is a cause of its own.
    pub(super) fn finish(&mut self, may_lose: impl Fn(usize) -> bool) {
        let none = Cursor::default();
        let mut problem = None;
        for (stream, accepted) in &self.streams {
            let cursor = self.expected.cursors.get(stream).unwrap_or(&none);
            let gone = self.stores.gone(*stream);
            let open = accepted
                .all
                .difference(&cursor.counted)
                .difference(&cursor.lost)
                .difference(gone);
            if !open.is_empty() {
                problem = Some(format!("{} of {stream} were never counted", show(&open)));
            }
            let waiting = cursor.awaited().difference(gone);
            if !waiting.is_empty() {
                problem = Some(format!("{} of {stream} have no raw row", show(&waiting)));
            }
            self.tally.lost += cursor.lost.count();
            self.tally.rowless += cursor.rowless.count();
            let mut lost = cursor.lost.clone();
            if let Some(raw_lost) = self.expected.raw_lost.get(stream) {
                self.tally.raw_lost += raw_lost.count();
                lost = lost.union(raw_lost);
            }
            let without_cause = lost.difference(gone);
            if !may_lose(accepted.unit) && !without_cause.is_empty() {
                problem = Some(format!(
                    "{} of {stream} are lost without cause",
                    show(&without_cause)
                ));
            }
        }
        problem.into_iter().for_each(|problem| self.fail(problem));
    }
}

/// A set of one number.
fn one(number: u64) -> SeqRange {
    let seq = Seq::new(number).unwrap_or(Seq::FIRST);
    SeqRange::from_count(seq, 1).unwrap_or_else(|error| unreachable!("{error}"))
}

/// A set in a few words.
pub(super) fn show(set: &SeqSet) -> String {
    let ranges: Vec<String> = set
        .ranges()
        .iter()
        .take(4)
        .map(ToString::to_string)
        .collect();
    format!("{} numbers ({})", set.count(), ranges.join(", "))
}
