//! ● A copy of a unit, by the same name: it raises its alarm, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};

use aggregator::window::state::DeviceChange;
use proto::StreamId;

use super::super::database::DeviceWrites;
use super::Oracle;

/// Nothing turns final for so long after a cloned identity was seen.
const CLONE_ALARM_MS: i64 = 86_400_000;

/// Returns to the stream before, one after the other and seen by one memory of the centre: as many
/// are no restart and no echo of one.
const RETURNS_MAX: u32 = 3;

/// Which memory of the centre planned a transaction: that of a connection, and of a token.
pub(in crate::sim) type Planner = (u64, i64);

/// What is known of copies.
#[derive(Debug, Default)]
pub(super) struct Copies {
    /// Units of which a copy has run.
    copied: BTreeSet<usize>,
    /// When the alarm was committed, and what was final then.
    alarmed: BTreeMap<usize, (i64, Option<i64>)>,
    turns: BTreeMap<usize, Turns>,
}

/// How the streams of a unit advance, one transaction after the other.
#[derive(Debug, Default)]
struct Turns {
    planner: Planner,
    /// The newest run that the planner knows of.
    newest: u32,
    current: Option<StreamId>,
    before: Option<StreamId>,
    returns: u32,
}

impl Turns {
    /// Takes note of the streams that advanced in one transaction; in which order, nobody knows.
    fn note(&mut self, planner: Planner, written: &DeviceWrites, advanced: &[StreamId]) {
        if self.planner != planner {
            *self = Self {
                planner,
                ..Self::default()
            };
        }
        let frontier = written.change.finality.frontier;
        let newest = frontier.map_or(0, |frontier| frontier.run);
        let known = std::mem::replace(&mut self.newest, newest);
        let [stream] = advanced else {
            if !advanced.is_empty() {
                self.forget();
            }
            return;
        };
        let heard = written.heard.iter();
        let runs = heard.filter(|(of, _)| of == stream).map(|(_, run)| *run);
        let (oldest, latest) = runs.fold((u32::MAX, 0), |(oldest, latest), run| {
            (oldest.min(run), latest.max(run))
        });
        // What an earlier run had still on its way is no turn; nor is a copy that is not yet corrected.
        if latest < known {
            return;
        }
        // It was the newest for a part of the transaction, and for which, nobody knows.
        if oldest < newest {
            return self.forget();
        }
        if self.current == Some(*stream) {
            return;
        }
        self.returns = match self.before == Some(*stream) {
            true => self.returns + 1,
            false => 0,
        };
        self.before = self.current.replace(*stream);
    }

    fn forget(&mut self) {
        (self.current, self.before, self.returns) = (None, None, 0);
    }
}

impl Oracle {
    /// From now on a copy of a unit runs.
    pub(in crate::sim) fn copied(&mut self, unit: usize) {
        self.copies.copied.insert(unit);
        self.tally.clones += 1;
    }

    pub(super) fn has_copy(&self, unit: usize) -> bool {
        self.copies.copied.contains(&unit)
    }

    /// Whether the alarm of a cloned identity stands for a unit.
    pub(super) fn is_called_cloned(&self, unit: usize, now_ms: i64) -> bool {
        let alarmed = self.copies.alarmed.get(&unit);
        alarmed.is_some_and(|(at_ms, _)| now_ms - at_ms < CLONE_ALARM_MS)
    }

    /// Which streams a transaction is the first to know further passages of; asked before it is taken
    /// over.
    pub(super) fn advanced(&self, change: &DeviceChange) -> Vec<StreamId> {
        let cursors = change.cursors.iter();
        let further = cursors.filter(|(stream, cursor)| {
            let known = self.expected.cursors.get(stream);
            cursor.accepted_to > known.map_or(0, |known| known.accepted_to)
        });
        further.map(|(stream, _)| *stream).collect()
    }

    /// The alarm is raised for a unit that has a copy, when it can be seen, and for no other; while it
    /// stands nothing turns final.
    pub(super) fn clone_alarm(
        &mut self,
        now_ms: i64,
        unit: usize,
        written: &DeviceWrites,
        planner: Planner,
        advanced: &[StreamId],
    ) -> Result<(), String> {
        let change = &written.change;
        let turns = self.copies.turns.entry(unit).or_default();
        turns.note(planner, written, advanced);
        let returns = turns.returns;
        let finality = &change.finality;
        if returns >= RETURNS_MAX && !advanced.is_empty() && !finality.is_cloned(now_ms) {
            return Err(format!(
                "no alarm after {returns} returns to another stream"
            ));
        }
        // Streams that a database has forgotten advance once more.
        let may_be_wrong = !self.past.is_empty();
        if change.clone_alarm {
            self.tally.alarms += 1;
            if !self.has_copy(unit) && !may_be_wrong {
                return Err("called cloned without a copy".to_owned());
            }
        }
        if !change.status_changed {
            return Ok(());
        }
        if let Some((at_ms, before)) = self.copies.alarmed.get(&unit)
            && now_ms - at_ms < CLONE_ALARM_MS
            && finality.final_to_ms > *before
            && !may_be_wrong
        {
            let to = finality.final_to_ms;
            return Err(format!("final to {to:?} although it is cloned"));
        }
        if let Some(at_ms) = finality.cloned_at_ms {
            let known = (at_ms, finality.final_to_ms);
            self.copies.alarmed.insert(unit, known);
        }
        Ok(())
    }
}
