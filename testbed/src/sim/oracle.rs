//! ● The judge: looks at every step and knows what must hold.
//!
//! It learns what units accepted from what they write to their disks, and adds windows up once more,
//! one passage at a time, with the code of [`crate::recompute`]; of what it judges it believes
//! nothing.
//!
//! Held at every step: a passage enters its windows once and its raw row is written once, and both are
//! what was accepted; cursors only grow; losses stand in the ledger; a receipt never exceeds what is
//! committed; accepted = counted + lost + still held; nothing turns final that is not counted; nothing
//! crosses the broker that the role does not allow.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::commit::plan::{LossRow, RejectedRow};
use aggregator::window::dedup::Cursor;
use aggregator::window::lateness::Rejection;
use aggregator::window::rollup::Length;
use aggregator::window::state::DeviceChange;
use broker::identity::{Identity, Role};
use proto::loss::{Loss, LossScope};
use proto::receipt::StreamReceipt;
use proto::window::SpeedStats;
use proto::{DeviceId, PassageBatch, Seq, SeqRange, SeqSet, StreamId};

use super::database::Writes;
use crate::recompute::stats::LaneStats;
use crate::recompute::{Fact, Interval, Stats};

/// How old a passage may be, and how far ahead, that windows take, ms.
pub(super) const HORIZON_MS: i64 = 60 * 86_400_000;
pub(super) const AHEAD_MS: i64 = 5 * 60_000;

/// How late a camera may hand a passage over, by the units' settings.
pub(super) const CAMERA_DELAY_MS: i64 = 3_600_000;

/// What one unit's stream accepted.
#[derive(Debug)]
struct Accepted {
    unit: usize,
    all: SeqSet,
    facts: BTreeMap<u64, Fact>,
    /// Handed over within the delay that the unit states windows complete by.
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
    /// Losses that units have declared and that are lost altogether.
    declared: BTreeMap<StreamId, SeqSet>,
    expected: Expected,
    /// What was committed in earlier lives of the database.
    past: BTreeMap<u32, BTreeMap<StreamId, Cursor>>,
    timeline: u32,
    /// Counts for the report.
    pub(super) tally: Tally,
}

/// What a run saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Passages that units made durable.
    pub accepted: u64,
    /// Transactions that the oracle looked at.
    pub commits: u64,
    /// Passages counted by summaries before, or instead of, their raw rows.
    pub summarised: u64,
    /// Passages lost altogether, and declared.
    pub lost: u64,
    /// Faults.
    pub faults: u64,
    /// Receipts that were compared with what is committed.
    pub receipts: u64,
    /// Virtual seconds from the end of the faults until everything had drained.
    pub drained_s: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.commits += other.commits;
        self.summarised += other.summarised;
        self.lost += other.lost;
        self.faults += other.faults;
        self.receipts += other.receipts;
        self.drained_s = self.drained_s.max(other.drained_s);
    }
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
        unit_wall_ms: i64,
        stream: StreamId,
        first: Seq,
        batch: &PassageBatch,
    ) {
        let known = self.streams.entry(stream).or_insert_with(|| Accepted {
            unit,
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
            known.facts.insert(number, fact);
            self.tally.accepted += 1;
            let one = one(number);
            known.all.insert(one);
            if event_ms >= unit_wall_ms - CAMERA_DELAY_MS {
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

    /// accepted = counted + lost + held, for one unit.
    pub(super) fn identity(
        &mut self,
        unit: usize,
        held: &BTreeMap<StreamId, SeqSet>,
        losses: &[(StreamId, Loss)],
    ) {
        let mut missing = None;
        for (stream, accepted) in &self.streams {
            if accepted.unit != unit {
                continue;
            }
            let mut left = accepted.all.clone();
            if let Some(cursor) = self.expected.cursors.get(stream) {
                left = left.difference(&cursor.counted).difference(&cursor.lost);
            }
            if let Some(held) = held.get(stream) {
                left = left.difference(held);
            }
            for (_, loss) in losses.iter().filter(|(of, _)| of == stream) {
                left.remove(loss.range);
            }
            if !left.is_empty() {
                missing = Some(format!(
                    "unit {unit} accepted {} of {stream}, which is neither counted nor lost nor held",
                    show(&left)
                ));
            }
        }
        missing.into_iter().for_each(|missing| self.fail(missing));
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

    /// The centre sends a receipt to a device.
    pub(super) fn receipted(
        &mut self,
        device: &DeviceId,
        timeline: u32,
        streams: &[StreamReceipt],
    ) {
        let Some(unit) = self.units.iter().position(|unit| unit == device) else {
            return;
        };
        self.tally.receipts += 1;
        let committed = if timeline == self.timeline {
            Some(&self.expected.cursors)
        } else {
            self.past.get(&timeline)
        };
        let none = Cursor::default();
        let mut problem = None;
        for receipt in streams {
            let known = self.streams.get(&receipt.stream);
            if known.is_none_or(|known| known.unit != unit) {
                problem = Some(format!("{device} is sent a receipt of {}", receipt.stream));
                continue;
            }
            let cursor = committed
                .and_then(|all| all.get(&receipt.stream))
                .unwrap_or(&none);
            let settled = cursor.lost.union(&cursor.counted);
            let fits = receipt.counted.is_subset(&cursor.counted)
                && receipt.stored.is_subset(&cursor.stored)
                && receipt.lost.is_subset(&settled);
            if !fits {
                problem = Some(format!(
                    "a receipt of {} says counted {}, stored {}; committed is counted {}, stored {}",
                    receipt.stream,
                    show(&receipt.counted),
                    show(&receipt.stored),
                    show(&cursor.counted),
                    show(&cursor.stored),
                ));
            }
        }
        problem.into_iter().for_each(|problem| self.fail(problem));
    }

    /// A unit got a receipt: it must be about its own streams.
    pub(super) fn received(&mut self, unit: usize, streams: &[StreamReceipt]) {
        let foreign = streams.iter().find(|receipt| {
            let stream = self.streams.get(&receipt.stream);
            stream.is_some_and(|stream| stream.unit != unit)
        });
        if let Some(receipt) = foreign {
            self.fail(format!("unit {unit} got a receipt of {}", receipt.stream));
        }
    }

    /// The gate let a message through.
    pub(super) fn published(&mut self, identity: &Identity, topic: &str, retain: bool) {
        let name = identity.name.as_str();
        let may = match identity.role {
            Role::Unit => topic.ends_with(&format!("/{name}/up")) && !retain,
            Role::Centre => {
                topic.ends_with("/down") && !retain || topic.ends_with("/beacon") && retain
            }
            Role::Reader => false,
        };
        if !may {
            self.fail(format!(
                "{identity} published to {topic} (retained: {retain})"
            ));
        }
    }

    /// The gate delivers a message.
    pub(super) fn delivered(&mut self, identity: &Identity, topic: &str) {
        let name = identity.name.as_str();
        let may = match identity.role {
            Role::Unit => topic.ends_with(&format!("/{name}/down")) || topic.ends_with("/beacon"),
            Role::Centre => topic.ends_with("/up"),
            Role::Reader => topic.ends_with("/beacon"),
        };
        if !may {
            self.fail(format!("{identity} was given a message on {topic}"));
        }
    }

    /// A transaction was committed.
    pub(super) fn committed(&mut self, now_ms: i64, writes: &Writes) {
        self.tally.commits += 1;
        for written in &writes.devices {
            let unit = self.units.iter().position(|unit| *unit == written.device);
            if let Some(unit) = unit
                && let Err(problem) = self.device(now_ms, unit, &written.change, writes)
            {
                self.fail(format!("{}: {problem}", written.device));
            }
        }
    }

    fn device(
        &mut self,
        now_ms: i64,
        unit: usize,
        change: &DeviceChange,
        writes: &Writes,
    ) -> Result<(), String> {
        let mut touched = BTreeSet::new();
        let mut cursors: Vec<_> = change.cursors.iter().collect();
        cursors.sort_by_key(|(stream, _)| *stream.as_bytes());
        for (stream, cursor) in cursors {
            self.cursor(now_ms, unit, *stream, cursor, writes, &mut touched)?;
        }
        let raw = writes.raw.iter().filter(|row| row.device_key == change.key);
        for row in raw {
            let known = change.cursors.values();
            if !known
                .into_iter()
                .any(|cursor| cursor.stream_key == row.stream_key)
            {
                return Err(format!(
                    "a raw row of stream key {} without its cursor",
                    row.stream_key
                ));
            }
        }
        for (id, window) in &change.windows {
            let key = (unit, interval(id.length), id.start_ms);
            touched.remove(&key);
            let found = recomputed(&window.stats);
            let expected = self.expected.windows.get(&key).cloned().unwrap_or_default();
            if found != expected {
                return Err(format!(
                    "window {id:?} holds {} passages (sum {}), recomputed are {} (sum {})",
                    found.n, found.sum_ckmh, expected.n, expected.sum_ckmh
                ));
            }
        }
        if let Some((_, interval, start_ms)) = touched.first() {
            let name = interval.name();
            return Err(format!("window {name} of {start_ms} was not written"));
        }
        if change.status_changed
            && let Some(final_to_ms) = change.finality.final_to_ms
        {
            self.finality(unit, final_to_ms)?;
        }
        Ok(())
    }

    fn cursor(
        &mut self,
        now_ms: i64,
        unit: usize,
        stream: StreamId,
        new: &Cursor,
        writes: &Writes,
        touched: &mut BTreeSet<(usize, Interval, i64)>,
    ) -> Result<(), String> {
        let Some(accepted) = self.streams.get(&stream).filter(|known| known.unit == unit) else {
            return Err(format!("stream {stream} is not the unit's"));
        };
        let expected = &mut self.expected;
        let old = expected
            .cursors
            .insert(stream, new.clone())
            .unwrap_or_default();
        if !old.counted.is_subset(&new.counted) || !old.stored.is_subset(&new.stored) {
            return Err(format!("the cursor of {stream} shrank"));
        }
        let settled = new.counted.union(&new.lost);
        if !settled.is_subset(&accepted.all) {
            let strange = settled.difference(&accepted.all);
            return Err(format!(
                "{} of {stream} were never accepted",
                show(&strange)
            ));
        }
        let of_stream = |key: i32| key == new.stream_key;
        let raw = expected.raw.entry(stream).or_default();
        for row in writes.raw.iter().filter(|row| of_stream(row.stream_key)) {
            let seq = one(row.seq);
            if accepted.facts.get(&row.seq) != Some(&row.fact) {
                return Err(format!(
                    "raw row {} of {stream} is not what was accepted",
                    row.seq
                ));
            }
            if raw.contains_range(seq) {
                return Err(format!("raw row {} of {stream} is written twice", row.seq));
            }
            raw.insert(seq);
        }
        let rejected = expected.rejected.entry(stream).or_default();
        let mut only_rejected = SeqSet::new();
        for row in writes
            .rejected
            .iter()
            .filter(|row| of_stream(row.stream_key))
        {
            check_rejection(now_ms, row, accepted.facts.get(&row.seq))?;
            rejected.insert(one(row.seq));
            if !row.counted {
                only_rejected.insert(one(row.seq));
            }
        }
        let counted = new.counted.difference(&old.counted);
        for seq in counted.difference(&only_rejected).iter() {
            let fact = &accepted.facts[&seq.get()];
            for interval in Interval::ALL {
                let start_ms = fact.event_ms - fact.event_ms.rem_euclid(interval.ms());
                let key = (unit, interval, start_ms);
                touched.insert(key);
                expected.windows.entry(key).or_default().add(fact);
            }
        }
        self.tally.summarised += counted.difference(&new.stored).count();
        let ledger = |scope| -> SeqSet {
            let rows = writes.losses.iter();
            let of_scope =
                rows.filter(|row: &&LossRow| of_stream(row.stream_key) && row.scope == scope);
            of_scope.map(|row| row.range).collect()
        };
        let raw_lost = expected.raw_lost.entry(stream).or_default();
        *raw_lost = raw_lost.union(&ledger(LossScope::RawOnly));
        let settled_raw = raw.union(rejected).union(raw_lost);
        if !new.stored.is_subset(&settled_raw) {
            let missing = new.stored.difference(&settled_raw);
            return Err(format!(
                "{} of {stream} are called stored without rows",
                show(&missing)
            ));
        }
        if !raw.is_subset(&new.stored) {
            return Err(format!("raw rows of {stream} are not called stored"));
        }
        let lost = new.lost.difference(&old.lost);
        if !lost.is_subset(&ledger(LossScope::All)) {
            return Err(format!(
                "{} of {stream} are lost without a word",
                show(&lost)
            ));
        }
        Ok(())
    }

    /// What is called final has been counted, or the unit has said that it is lost.
    fn finality(&self, unit: usize, final_to_ms: i64) -> Result<(), String> {
        // The unit learns of a database that was put back only by its next word.
        if !self.past.is_empty() {
            return Ok(());
        }
        let none = Cursor::default();
        for (stream, accepted) in self.streams.iter().filter(|(_, known)| known.unit == unit) {
            let cursor = self.expected.cursors.get(stream).unwrap_or(&none);
            let mut open = accepted
                .on_time
                .difference(&cursor.counted)
                .difference(&cursor.lost);
            if let Some(declared) = self.declared.get(stream) {
                open = open.difference(declared);
            }
            let early = open
                .iter()
                .find(|seq| accepted.facts[&seq.get()].event_ms < final_to_ms);
            if let Some(seq) = early {
                return Err(format!(
                    "final to {final_to_ms}, but {seq} of {stream} is not counted"
                ));
            }
        }
        Ok(())
    }

    /// When everything has drained: nothing is left open, and nothing is lost without cause.
    pub(super) fn finish(&mut self, may_lose: bool) {
        let none = Cursor::default();
        let mut problem = None;
        for (stream, accepted) in &self.streams {
            let cursor = self.expected.cursors.get(stream).unwrap_or(&none);
            let open = accepted
                .all
                .difference(&cursor.counted)
                .difference(&cursor.lost);
            if !open.is_empty() {
                problem = Some(format!("{} of {stream} were never counted", show(&open)));
            }
            let waiting = cursor.counted.difference(&cursor.stored);
            if !waiting.is_empty() {
                problem = Some(format!("{} of {stream} have no raw row", show(&waiting)));
            }
            self.tally.lost += cursor.lost.count();
            if !may_lose && !cursor.lost.is_empty() {
                problem = Some(format!(
                    "{} of {stream} are lost without cause",
                    show(&cursor.lost)
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

fn check_rejection(now_ms: i64, row: &RejectedRow, fact: Option<&Fact>) -> Result<(), String> {
    let Some(fact) = fact else {
        return Err(format!(
            "number {} in the side table was never accepted",
            row.seq
        ));
    };
    // The plan was made a little earlier than it is committed.
    let slack_ms = 120_000;
    let plausible = match row.reason {
        Rejection::TooOld => fact.event_ms < now_ms - HORIZON_MS,
        Rejection::TooNew => fact.event_ms > now_ms - slack_ms + AHEAD_MS,
        Rejection::WindowFull => false,
    };
    if plausible && fact.event_ms == row.event_time.as_millis() {
        Ok(())
    } else {
        Err(format!(
            "number {} is in the side table as {}",
            row.seq,
            row.reason.word()
        ))
    }
}

const fn interval(length: Length) -> Interval {
    match length {
        Length::Minutes5 => Interval::FiveMinutes,
        Length::Hour1 => Interval::Hour,
        Length::Hours24 => Interval::Day,
    }
}

/// A window of the product in the form of the recomputation.
fn recomputed(stats: &SpeedStats) -> Stats {
    let histogram = stats
        .histogram
        .counts()
        .iter()
        .zip(i32::from(stats.histogram.lowest_kmh())..);
    let by_place = |counts: &[u32]| -> BTreeMap<i16, i64> {
        let used = counts.iter().zip(0_i16..).filter(|(count, _)| **count > 0);
        used.map(|(count, place)| (place, i64::from(*count)))
            .collect()
    };
    let lanes = by_place(&stats.lane_n).into_iter().map(|(lane, n)| {
        let place = usize::from(lane.unsigned_abs());
        let lane_stats = LaneStats {
            n,
            n_speed: stats.lane_n_speed[place].into(),
            sum_ckmh: signed(stats.lane_sum_ckmh[place]),
        };
        (lane, lane_stats)
    });
    Stats {
        n: stats.n.into(),
        n_speed: stats.n_speed.into(),
        n_moving: stats.n_moving.into(),
        violations: stats.violations.into(),
        sum_ckmh: signed(stats.sum_ckmh),
        sumsq_ckmh2: signed(stats.sumsq_ckmh2),
        pace_sum_ms_per_km: signed(stats.pace_sum_ms_per_km),
        min_ckmh: stats.min.map(|speed| speed.centi_kmh().into()),
        max_ckmh: stats.max.map(|speed| speed.centi_kmh().into()),
        histogram: histogram
            .filter(|(count, _)| **count > 0)
            .map(|(count, kmh)| (kmh, i64::from(*count)))
            .collect(),
        classes: by_place(&stats.class_n),
        lanes: lanes.collect(),
    }
}

fn signed(sum: u64) -> i64 {
    i64::try_from(sum).unwrap_or(i64::MAX)
}
