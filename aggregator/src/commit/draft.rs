//! What a flush changes of one device. Pure.
//!
//! `batch`, `summary` and `rejected` say what is counted, `inventory` what is not and why, `correction`
//! what the unit has wrong; here is what they need: the cursor with the
//! caps on streams, room in windows, and the end, where deltas become windows of all lengths.

mod batch;
mod correction;
mod inventory;
mod rejected;
mod summary;

use std::collections::{BTreeMap, BTreeSet};

use proto::device::StreamId;
use proto::header::UpHeader;
use proto::limits::{NEW_STREAMS_PER_DAY_MAX, RANGES_MAX, STREAMS_MAX, WINDOW_PASSAGES_MAX};
use proto::loss::LossScope;
use proto::ranges::{SeqRange, SeqSet};
use proto::receipt::{Correction, RefusalClass, RefusalReason, StreamReceipt};
use proto::window::{Bucket, SpeedStats, WindowDelta};

use super::plan::{Context, Planner, RawPart, RawRows, RecoveredRow};
use crate::intake::decode::{Refused, refused};
use crate::window::dedup::{Cursor, TooManyRanges};
use crate::window::finality::Advance;
use crate::window::rollup::{Length, WindowId};
use crate::window::state::{Before, DeviceChange, DeviceState};

use correction::Stated;
pub use rejected::{FoldedIn, LeftReason};

const DAY_MS: i64 = 86_400_000;

/// The changes of one device in the making.
#[derive(Debug)]
pub struct Draft<'m> {
    state: &'m DeviceState,
    change: DeviceChange,
    /// What the flush adds to each 5-minute window.
    deltas: BTreeMap<Bucket, SpeedStats>,
    /// Streams that get a receipt, with the numbers that it is about.
    touched: BTreeMap<StreamId, SeqSet>,
    /// Streams whose earlier receipts hold no more.
    afresh: BTreeSet<StreamId>,
    /// What the headers say of the unit itself.
    stated: Stated,
}

impl<'m> Draft<'m> {
    /// Nothing changed yet.
    #[must_use]
    pub fn new(state: &'m DeviceState, now_ms: i64) -> Self {
        let change = DeviceChange {
            key: state.key,
            finality: state.finality.clone(),
            past: state.past,
            before: Before {
                final_to_ms: state.finality.final_to_ms,
                cloned_at_ms: state.finality.cloned_at_ms,
                past_changes: state.past.changes,
            },
            today: state.today.on(now_ms.div_euclid(DAY_MS)),
            ..DeviceChange::default()
        };
        Self {
            state,
            change,
            deltas: BTreeMap::new(),
            touched: BTreeMap::new(),
            afresh: BTreeSet::new(),
            stated: Stated::default(),
        }
    }

    /// The device's key.
    #[must_use]
    pub const fn key(&self) -> i32 {
        self.state.key
    }

    /// Takes note of what every header says.
    pub fn state(&mut self, header: &UpHeader, context: &Context<'_>) {
        self.change.finality.state(header.frontier, context.now_ms);
        self.stated.hear(header, context.now_ms);
    }

    /// What the unit has wrong of itself.
    pub fn correction(&self, context: &Context<'_>) -> Option<Correction> {
        let known = self.change.finality.frontier;
        self.stated.correction(known, context.now_ms)
    }

    /// The stream's cursor as it stands in this draft; a new one gets its key.
    fn cursor(
        &mut self,
        header: &UpHeader,
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) -> Result<Cursor, Refused> {
        let stream = header.stream;
        let drafted = self.change.cursors.get(&stream);
        let known = drafted.or_else(|| self.state.cursors.get(&stream));
        let mut cursor = known
            .unwrap_or_else(|| panic!("the cursor of {stream} is not loaded"))
            .clone();
        if cursor.stream_key == 0 {
            self.begin(&mut cursor, context, planner)?;
        }
        if cursor.accept_to(header.accepted_to) {
            self.advanced(header, context);
        }
        Ok(cursor)
    }

    /// Takes note that the stream of a header has accepted further passages.
    fn advanced(&mut self, header: &UpHeader, context: &Context<'_>) {
        let (stream, run) = (header.stream, header.frontier.run);
        match self.change.finality.advanced(stream, run, context.now_ms) {
            Advance::Behind => self.stated.hear_behind(),
            Advance::Alarm => self.change.clone_alarm = true,
            Advance::Plain => {}
        }
    }

    /// A stream that the database does not know gets its key.
    fn begin(
        &mut self,
        cursor: &mut Cursor,
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) -> Result<(), Refused> {
        self.admit_stream()?;
        cursor.stream_key = planner.stream_key();
        cursor.since_ms = context.now_ms;
        self.change.today.new_streams += 1;
        Ok(())
    }

    fn admit_stream(&self) -> Result<(), Refused> {
        let later = |detail: String| Err(refused(RefusalClass::Later, RefusalReason::Cap, &detail));
        let today = self.change.today.new_streams;
        if today >= NEW_STREAMS_PER_DAY_MAX {
            return later(format!(
                "{today} streams began today, the limit is {NEW_STREAMS_PER_DAY_MAX}"
            ));
        }
        let drafted = self.change.cursors.iter();
        let committed = self
            .state
            .cursors
            .iter()
            .filter(|(id, _)| !self.change.cursors.contains_key(id));
        let open = drafted
            .chain(committed)
            .filter(|(_, cursor)| !cursor.is_settled())
            .count();
        if open >= STREAMS_MAX {
            return later(format!(
                "{open} streams are unfinished, the limit is {STREAMS_MAX}"
            ));
        }
        Ok(())
    }

    /// Puts a cursor into the change, with a receipt about these numbers.
    fn touch(
        &mut self,
        stream: StreamId,
        cursor: Cursor,
        about: impl IntoIterator<Item = SeqRange>,
    ) {
        let touched = self.touched.entry(stream).or_default();
        about.into_iter().for_each(|range| touched.insert(range));
        if self.state.cursors.get(&stream) != Some(&cursor) {
            self.change.cursors.insert(stream, cursor);
        }
    }

    /// Numbers that come after they were booked as lost, wholly or their raw rows.
    fn recover(&self, cursor: &Cursor, seqs: &SeqSet, planner: &mut Planner<'_, '_>) {
        for (scope, lost) in [
            (LossScope::All, &cursor.lost),
            (LossScope::RawOnly, &cursor.rowless),
        ] {
            if lost.is_empty() {
                continue;
            }
            let found = lost.intersection(seqs);
            planner.tally.recovered += found.count();
            let rows = found.ranges().iter().map(|range| RecoveredRow {
                stream_key: cursor.stream_key,
                scope,
                range: *range,
            });
            planner.rows.recovered.extend(rows);
        }
    }

    fn raw<'a>(&self, rows: RawRows<'a>, stream_key: i32, planner: &mut Planner<'a, '_>) {
        planner.tally.raw_rows += rows.rows().len() as u64;
        planner.rows.raw.push(RawPart {
            rows,
            device_key: self.state.key,
            stream_key,
        });
    }

    fn add(&mut self, deltas: &[WindowDelta]) {
        for delta in deltas {
            self.deltas
                .entry(delta.bucket)
                .or_default()
                .merge(&delta.stats);
        }
    }

    /// How many passages a 5-minute window still takes. A window that is not loaded is outside the
    /// horizon, and nobody will ask it for room.
    fn room(&self, bucket: Bucket) -> u32 {
        let id = WindowId::over(Length::Minutes5, bucket);
        let committed = self
            .state
            .windows
            .get(&id)
            .map_or(0, |(window, _)| window.stats.n);
        let drafted = self.deltas.get(&bucket).map_or(0, |stats| stats.n);
        WINDOW_PASSAGES_MAX.saturating_sub(committed + drafted)
    }

    /// The whole change and the receipt of each touched stream.
    ///
    /// # Panics
    /// When a window was not loaded, or the lengths do not add up.
    #[must_use]
    pub fn finish(mut self) -> (DeviceChange, Vec<StreamReceipt>) {
        let mut added = 0;
        for (bucket, stats) in &self.deltas {
            added += u64::from(stats.n);
            for length in Length::ALL {
                let id = WindowId::over(length, *bucket);
                let window = self.change.windows.entry(id).or_insert_with(|| {
                    let loaded = self.state.windows.get(&id);
                    let (window, _) =
                        loaded.unwrap_or_else(|| panic!("window {id:?} is not loaded"));
                    let mut window = window.clone();
                    window.rev += 1;
                    window.revised |= self.state.finality.is_final(id.end_ms());
                    window
                });
                window.stats.merge(stats);
            }
        }
        for length in Length::ALL {
            let windows = self
                .change
                .windows
                .iter()
                .filter(|(id, _)| id.length == length);
            let n = |stats: &SpeedStats| u64::from(stats.n);
            let grown: u64 = windows
                .map(|(id, new)| n(&new.stats) - n(&self.state.windows[id].0.stats))
                .sum();
            assert!(
                grown == added,
                "{added} passages added, {grown} to {length:?}"
            );
        }
        for cursor in self.change.cursors.values_mut() {
            cursor.rev += 1;
        }
        if self.change.taken.is_empty() {
            self.change.past.touched(self.deltas.keys().copied());
        } else {
            self.change.past.touched_beside();
        }
        self.change.status_changed = self.change.past != self.state.past
            || self.change.finality.differs_durably(&self.state.finality);
        let today = self.state.today.on(self.change.today.day);
        self.change.rejected_changed = self.change.today.rejected != today.rejected;
        for stream in &self.afresh {
            self.touched.entry(*stream).or_default();
        }
        let receipts = self
            .touched
            .iter()
            .filter_map(|(stream, about)| {
                let drafted = self.change.cursors.get(stream);
                let cursor = drafted.or_else(|| self.state.cursors.get(stream))?;
                let afresh = self.afresh.contains(stream);
                Some(receipt(*stream, cursor, about, afresh))
            })
            .collect();
        (self.change, receipts)
    }
}

/// What a message holds of a cursor, first of all what it is about.
fn receipt(stream: StreamId, cursor: &Cursor, about: &SeqSet, afresh: bool) -> StreamReceipt {
    let counted = cursor.counted.excerpt(about, RANGES_MAX);
    let stored = cursor.stored.intersection(&counted);
    StreamReceipt {
        stream,
        stored: stored.excerpt(about, RANGES_MAX),
        counted,
        lost: cursor.declared().excerpt(about, RANGES_MAX),
        afresh,
    }
}

fn too_many_ranges(error: TooManyRanges) -> Refused {
    refused(RefusalClass::Later, RefusalReason::Cap, &error.to_string())
}
