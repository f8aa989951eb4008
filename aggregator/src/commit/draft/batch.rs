//! Batches: taken whole when all of it is new, or counted by a summary before, and in time; otherwise
//! decided number by number.
//!
//! What is rejected is settled all the same, so that it holds up nothing behind it: refused for later
//! instead, one unit with a wrong clock, or one camera of it, would block all that it accepts. So each
//! is kept in the side table, or else named by the ledger.

use std::collections::BTreeMap;
use std::ops::Range;

use proto::batch::PassageBatch;
use proto::header::UpHeader;
use proto::ranges::{Seq, SeqRange};
use proto::window::{Bucket, fold};

use super::super::plan::{Context, Planner, RawRows, RejectedRow, UnkeptKey};
use super::super::side_table;
use super::{DAY_MS, Draft, too_many_ranges};
use crate::intake::decode::{Passages, Refused};
use crate::intake::rows::Rows;
use crate::window::dedup::{Cursor, Novelty};
use crate::window::lateness::Rejection;

impl Draft<'_> {
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
            self.touch(header.stream, cursor, [range]);
            return Ok(());
        }
        let mut deltas = passages.deltas.iter();
        let simple = range == passages.range
            && context.horizon.covers(passages.span)
            && match novelty {
                Novelty::New => deltas.all(|delta| delta.stats.n <= self.room(delta.bucket)),
                Novelty::Counted => true,
                Novelty::Settled | Novelty::Mixed => false,
            };
        let next = cursor.count(&range.into(), true).map_err(too_many_ranges)?;
        self.recover(&cursor, &range.into(), planner);
        planner.tally.passages += range.count();
        if simple {
            if novelty == Novelty::New {
                planner.tally.counted += range.count();
                self.add(&passages.deltas);
            } else {
                planner.tally.stored += range.count();
            }
            if context.raw {
                let days = passages.deltas.iter().map(|delta| day_of(delta.bucket));
                planner.rows.raw_days.extend(days);
                self.raw(RawRows::Whole(&passages.rows), next.stream_key, planner);
            }
        } else {
            let numbers = (range.first().get()..=range.last().get()).zip(places);
            self.one_by_one(&cursor, &passages.batch(), numbers, context, planner);
        }
        self.touch(header.stream, next, [range]);
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
                        passage: side_table::as_json(&batch.passage(place)),
                    });
                } else {
                    let key = UnkeptKey {
                        stream_key: cursor.stream_key,
                        counted,
                        reason,
                    };
                    planner.unkept(key, self.state.key, seq, time);
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
}

/// The numbers of the passages at these places; none of no places.
fn part_of(range: SeqRange, places: &Range<usize>) -> Option<SeqRange> {
    let first = Seq::new(range.first().get() + places.start as u64).ok()?;
    SeqRange::from_count(first, places.len() as u64).ok()
}

pub(super) fn day_of(bucket: Bucket) -> i64 {
    bucket.start().as_millis().div_euclid(DAY_MS)
}
