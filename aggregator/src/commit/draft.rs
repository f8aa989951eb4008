//! What a flush changes of one device. Pure.
//!
//! A batch that is entirely new and within the horizon is merged whole; any other is decided number by
//! number. A summary entry is decided as a whole, for it cannot be split.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proto::batch::PassageBatch;
use proto::device::StreamId;
use proto::header::UpHeader;
use proto::limits::{NEW_STREAMS_PER_DAY_MAX, STREAMS_MAX, WINDOW_PASSAGES_MAX};
use proto::loss::{Loss, LossScope};
use proto::passage::Passage;
use proto::plate::Plate;
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::receipt::{RefusalClass, RefusalReason, StreamReceipt};
use proto::summary::SummaryEntry;
use proto::window::{Bucket, SpeedStats, WindowDelta, fold};
use serde_json::json;

use super::plan::{Context, LossRow, Planner, RawPart, RawRows, RecoveredRow, RejectedRow};
use super::select::FLUSH_WINDOWS_MAX;
use crate::intake::decode::{Passages, Refused, refused};
use crate::intake::rows::Rows;
use crate::window::dedup::{Cursor, Novelty, TooManyRanges};
use crate::window::lateness::Rejection;
use crate::window::rollup::{Length, WindowId};
use crate::window::state::{DeviceChange, DeviceState};

const DAY_MS: i64 = 86_400_000;

/// The changes of one device in the making.
#[derive(Debug)]
pub struct Draft<'m> {
    state: &'m DeviceState,
    change: DeviceChange,
    /// What the flush adds to each 5-minute window.
    deltas: BTreeMap<Bucket, SpeedStats>,
    /// Streams that get a receipt.
    touched: BTreeSet<StreamId>,
}

impl<'m> Draft<'m> {
    /// Nothing changed yet.
    #[must_use]
    pub fn new(state: &'m DeviceState, context: &Context<'_>) -> Self {
        let change = DeviceChange {
            key: state.key,
            finality: state.finality.clone(),
            today: state.today.on(context.now_ms.div_euclid(DAY_MS)),
            ..DeviceChange::default()
        };
        Self {
            state,
            change,
            deltas: BTreeMap::new(),
            touched: BTreeSet::new(),
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
    }

    /// Counts the passages at these places of a batch.
    ///
    /// # Errors
    /// Why nothing of them is taken.
    pub fn passages<'a>(
        &mut self,
        header: &UpHeader,
        passages: &'a Passages,
        places: Range<usize>,
        context: &Context<'_>,
        planner: &mut Planner<'a, '_>,
    ) -> Result<(), Refused> {
        let cursor = self.cursor(header, context, planner)?;
        let Some(range) = part_of(passages.range, &places) else {
            return Ok(());
        };
        let novelty = cursor.novelty(range);
        if novelty == Novelty::Settled {
            planner.tally.passages += range.count();
            planner.tally.duplicate += range.count();
            self.touch(header.stream, cursor);
            return Ok(());
        }
        let simple = range == passages.range
            && novelty == Novelty::New
            && context.horizon.covers(passages.span)
            && passages
                .deltas
                .iter()
                .all(|delta| delta.stats.n <= self.room(delta.bucket));
        let next = cursor.count(&range.into(), true).map_err(too_many_ranges)?;
        self.recover(&cursor, range.into(), planner);
        planner.tally.passages += range.count();
        if simple {
            planner.tally.counted += range.count();
            self.add(&passages.deltas);
            if context.raw {
                let days = passages.deltas.iter().map(|delta| day_of(delta.bucket));
                planner.rows.raw_days.extend(days);
                self.raw(RawRows::Whole(&passages.rows), next.stream_key, planner);
            }
        } else {
            let numbers = (range.first().get()..=range.last().get()).zip(places);
            self.one_by_one(&cursor, &passages.batch(), numbers, context, planner);
        }
        self.touch(header.stream, next);
        Ok(())
    }

    fn one_by_one(
        &mut self,
        cursor: &Cursor,
        batch: &PassageBatch,
        numbers: impl Iterator<Item = (u64, usize)>,
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) {
        let mut keep = vec![false; batch.len()];
        let mut room: BTreeMap<Bucket, u32> = BTreeMap::new();
        let mut rows = Rows::default();
        for (number, place) in numbers {
            let Ok(seq) = Seq::new(number) else { continue };
            if cursor.stored.contains(seq) {
                planner.tally.duplicate += 1;
                continue;
            }
            let counted = cursor.counted.contains(seq);
            let time = batch.event_time(place);
            let bucket = Bucket::of(time);
            let mut rejection = context.horizon.rejects(time);
            if rejection.is_none() && !counted {
                let left = room.entry(bucket).or_insert_with(|| self.room(bucket));
                match left.checked_sub(1) {
                    Some(less) => *left = less,
                    None => rejection = Some(Rejection::WindowFull),
                }
            }
            if let Some(reason) = rejection {
                *planner.tally.rejected.entry(reason).or_default() += 1;
                self.change.today.rejected += 1;
                if self.change.today.rejected_kept < context.rejected_per_day_max {
                    self.change.today.rejected_kept += 1;
                    planner.rows.rejected.push(RejectedRow {
                        device_key: self.state.key,
                        stream_key: cursor.stream_key,
                        seq: number,
                        event_time: time,
                        reason,
                        counted,
                        passage: as_json(&batch.passage(place)),
                    });
                }
                continue;
            }
            keep[place] = !counted;
            if counted {
                planner.tally.stored += 1;
            } else {
                planner.tally.counted += 1;
            }
            if context.raw {
                rows.push(batch, place, number);
                planner.rows.raw_days.insert(day_of(bucket));
            }
        }
        self.add(&fold(batch, |place| keep[place]));
        if !rows.is_empty() {
            self.raw(RawRows::Picked(rows), cursor.stream_key, planner);
        }
    }

    /// Counts the entries of a summary.
    ///
    /// # Errors
    /// Why some entry was not taken; the others are counted.
    pub fn summary(
        &mut self,
        header: &UpHeader,
        entries: &[SummaryEntry],
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) -> Result<(), Refused> {
        let mut cursor = self.cursor(header, context, planner)?;
        let mut problem = None;
        for entry in entries {
            if entry.seqs.is_subset(&cursor.counted) {
                continue;
            }
            match self.summary_entry(&cursor, entry, context, planner) {
                Ok(next) => cursor = next,
                Err(refused) => problem = Some(refused),
            }
        }
        self.touch(header.stream, cursor);
        problem.map_or(Ok(()), Err)
    }

    fn summary_entry(
        &mut self,
        cursor: &Cursor,
        entry: &SummaryEntry,
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) -> Result<Cursor, Refused> {
        let reshape = |reason, detail: &str| Err(refused(RefusalClass::Reshape, reason, detail));
        if !entry.seqs.is_disjoint(&cursor.counted) {
            return reshape(
                RefusalReason::Overlap,
                "some of the passages are counted already",
            );
        }
        let windows = entry.deltas.len();
        if windows > FLUSH_WINDOWS_MAX {
            let detail =
                format!("entry touches {windows} windows, the limit is {FLUSH_WINDOWS_MAX}");
            return reshape(RefusalReason::Cap, &detail);
        }
        if !entry
            .deltas
            .iter()
            .all(|delta| context.horizon.takes_summary(delta.bucket))
        {
            return reshape(
                RefusalReason::Horizon,
                "a window is outside what summaries may change",
            );
        }
        if entry
            .deltas
            .iter()
            .any(|delta| delta.stats.n > self.room(delta.bucket))
        {
            return reshape(
                RefusalReason::Cap,
                "a window would hold more passages than it may",
            );
        }
        let next = cursor
            .count(&entry.seqs, !context.raw)
            .map_err(too_many_ranges)?;
        self.recover(cursor, entry.seqs.clone(), planner);
        planner.tally.summarised += entry.seqs.count();
        self.add(&entry.deltas);
        Ok(next)
    }

    /// Books losses: of each range what is not counted.
    ///
    /// # Errors
    /// When the cursor cannot take them.
    pub fn losses(
        &mut self,
        header: &UpHeader,
        losses: &[Loss],
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) -> Result<(), Refused> {
        let mut cursor = self.cursor(header, context, planner)?;
        for loss in losses {
            let range = SeqSet::from(loss.range);
            let (news, next) = match loss.scope {
                LossScope::All => {
                    let news = range.difference(&cursor.counted).difference(&cursor.lost);
                    let next = cursor.lose(&news);
                    (news, next)
                }
                // The raw passages will never come: settled, so that the unit may let go of them.
                LossScope::RawOnly => {
                    let news = range
                        .intersection(&cursor.counted)
                        .difference(&cursor.stored);
                    let next = cursor.store(&news);
                    (news, next)
                }
            };
            cursor = next.map_err(too_many_ranges)?;
            planner.tally.lost += news.count();
            let (device_key, stream_key) = (self.state.key, cursor.stream_key);
            let rows = news.ranges().iter();
            planner.rows.losses.extend(rows.map(|range| LossRow {
                device_key,
                stream_key,
                loss: *loss,
                range: *range,
            }));
        }
        self.touch(header.stream, cursor);
        Ok(())
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
            self.admit_stream()?;
            cursor.stream_key = planner.stream_key();
            self.change.today.new_streams += 1;
        }
        if cursor.accept_to(header.accepted_to)
            && self.change.finality.advanced(stream, context.now_ms)
        {
            self.change.clone_alarm = true;
        }
        Ok(cursor)
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

    fn touch(&mut self, stream: StreamId, cursor: Cursor) {
        self.touched.insert(stream);
        if self.state.cursors.get(&stream) != Some(&cursor) {
            self.change.cursors.insert(stream, cursor);
        }
    }

    fn recover(&self, cursor: &Cursor, seqs: SeqSet, planner: &mut Planner<'_, '_>) {
        if cursor.lost.is_empty() {
            return;
        }
        let found = cursor.lost.intersection(&seqs);
        let stream_key = cursor.stream_key;
        let rows = found.ranges().iter().map(|range| RecoveredRow {
            stream_key,
            range: *range,
        });
        planner.rows.recovered.extend(rows);
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
        self.change.finality_changed = self.change.finality.differs_durably(&self.state.finality);
        let today = self.state.today.on(self.change.today.day);
        self.change.rejected_changed = self.change.today.rejected != today.rejected;
        let receipts = self
            .touched
            .iter()
            .filter_map(|stream| {
                let drafted = self.change.cursors.get(stream);
                let cursor = drafted.or_else(|| self.state.cursors.get(stream))?;
                Some(StreamReceipt {
                    stream: *stream,
                    counted: cursor.counted.clone(),
                    stored: cursor.stored.clone(),
                    lost: cursor.lost.clone(),
                })
            })
            .collect();
        (self.change, receipts)
    }
}

/// The numbers of the passages at these places; none of no places.
fn part_of(range: SeqRange, places: &Range<usize>) -> Option<SeqRange> {
    let first = Seq::new(range.first().get() + places.start as u64).ok()?;
    SeqRange::from_count(first, places.len() as u64).ok()
}

fn day_of(bucket: Bucket) -> i64 {
    bucket.start().as_millis().div_euclid(DAY_MS)
}

fn too_many_ranges(error: TooManyRanges) -> Refused {
    refused(RefusalClass::Later, RefusalReason::Cap, &error.to_string())
}

/// A passage for the side table, in the units of the raw table.
fn as_json(passage: &Passage) -> serde_json::Value {
    let (plate, plate_hash) = match &passage.plate {
        Plate::Absent => (None, None),
        Plate::Text(text) => (Some(text.as_str().to_owned()), None),
        Plate::Hash(hash) => (None, Some(format!("{:016x}", u64::from_be_bytes(*hash)))),
    };
    let extra: Option<serde_json::Value> = passage
        .extra
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok());
    let mut json = json!({
        "speed_ckmh": passage.speed.map(proto::Speed::centi_kmh),
        "lane": passage.lane.map(|lane| lane.get()),
        "direction": passage.direction.map(proto::passage::Direction::word),
        "vehicle_class": passage.vehicle_class.map(|class| class.get()),
        "length_cm": passage.length.map(|length| length.get()),
        "speed_limit_kmh": passage.speed_limit.map(|limit| limit.get()),
        "confidence_permille": passage.confidence.map(|confidence| confidence.get()),
        "violation": passage.violation,
        "plate": plate,
        "plate_hash": plate_hash,
        "extra": extra,
    });
    if let Some(fields) = json.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    json
}
