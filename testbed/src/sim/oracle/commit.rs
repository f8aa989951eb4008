//! ● What a transaction may write: each passage once in its windows and raw rows, losses with a word
//! in the ledger, nothing final that is open.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::commit::plan::{LossRow, RecoveredRow, RejectedRow};
use aggregator::window::dedup::Cursor;
use aggregator::window::lateness::Rejection;
use aggregator::window::state::DeviceChange;
use proto::loss::LossScope;
use proto::topic::Shard;
use proto::{SeqSet, StreamId};

use super::super::database::Writes;
use super::window::{interval, recomputed};
use super::{AHEAD_MS, HORIZON_MS, Oracle, one, show};
use crate::recompute::{Fact, Interval};

impl Oracle {
    /// A transaction was committed, under these tokens.
    pub(in crate::sim) fn committed(
        &mut self,
        now_ms: i64,
        writes: &Writes,
        tokens: &BTreeMap<Shard, i64>,
    ) {
        self.tally.commits += 1;
        for written in &writes.devices {
            let unit = self.units.iter().position(|unit| *unit == written.device);
            if let Some(unit) = unit {
                let token = tokens.get(&Shard::of(&written.device));
                let planner = (writes.session, token.copied().unwrap_or_default());
                let advanced = self.advanced(&written.change);
                let judged = self
                    .device(now_ms, unit, &written.change, writes)
                    .and_then(|()| self.clone_alarm(now_ms, unit, written, planner, &advanced));
                if let Err(problem) = judged {
                    self.fail(format!("{}: {problem}", written.device));
                }
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
        let news = ledger(LossScope::RawOnly);
        if !news.is_disjoint(raw_lost) {
            return Err(format!("raw rows of {stream} are booked as lost twice"));
        }
        let came = writes.recovered.iter().filter(|row: &&RecoveredRow| {
            of_stream(row.stream_key) && row.scope == LossScope::RawOnly
        });
        let came: SeqSet = came.map(|row| row.range).collect();
        *raw_lost = raw_lost.union(&news).difference(&came);
        let there = raw.union(rejected);
        let missing = new.stored.union(&new.rowless).difference(&there);
        if *raw_lost != missing {
            return Err(format!(
                "the raw rows of {} of {stream} are lost by the ledger, those of {} by the cursor",
                show(raw_lost),
                show(&missing)
            ));
        }
        let settled_raw = there.union(raw_lost);
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
        // Neither knows what the other holds: until the alarm both state too much.
        if self.has_copy(unit) {
            return Ok(());
        }
        let none = Cursor::default();
        for (stream, accepted) in self.streams.iter().filter(|(_, known)| known.unit == unit) {
            let cursor = self.expected.cursors.get(stream).unwrap_or(&none);
            let mut open = accepted
                .on_time
                .difference(&cursor.counted)
                .difference(&cursor.lost);
            open = open.difference(self.stores.gone(*stream));
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
