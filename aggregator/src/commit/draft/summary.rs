//! Summaries, each entry decided as a whole, and declared losses.

use proto::header::UpHeader;
use proto::loss::{Loss, LossScope};
use proto::ranges::SeqSet;
use proto::receipt::{RefusalClass, RefusalReason};
use proto::summary::SummaryEntry;

use super::super::plan::{Context, LossCause, LossRow, Planner};
use super::super::select::FLUSH_WINDOWS_MAX;
use super::{Draft, too_many_ranges};
use crate::intake::decode::{Refused, refused};
use crate::window::dedup::Cursor;

impl Draft<'_> {
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
        let about = entries.iter().flat_map(|entry| entry.seqs.ranges());
        self.touch(header.stream, cursor, about.copied());
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
        self.recover(cursor, &entry.seqs, planner);
        planner.tally.summarised += entry.seqs.count();
        self.add(&entry.deltas);
        Ok(next)
    }

    /// Books losses: of each range what is not counted. The ledger gets what the cursor takes, and
    /// nothing else.
    ///
    /// # Errors
    /// When the cursor cannot take some; the others are booked.
    pub fn losses(
        &mut self,
        header: &UpHeader,
        losses: &[Loss],
        context: &Context<'_>,
        planner: &mut Planner<'_, '_>,
    ) -> Result<(), Refused> {
        let mut cursor = self.cursor(header, context, planner)?;
        let mut problem = None;
        for loss in losses {
            let range = SeqSet::from(loss.range);
            let (news, next) = match loss.scope {
                LossScope::All => {
                    let open = range.difference(&cursor.counted);
                    let next = cursor.lose(&open);
                    (open.difference(&cursor.lost), next)
                }
                // The raw passages will never come: settled, so that the unit may let go of them.
                LossScope::RawOnly => {
                    let news = range.intersection(&cursor.awaited());
                    let next = cursor.store(&range.intersection(&cursor.counted));
                    (news, next)
                }
            };
            match next {
                Ok(next) => cursor = next,
                Err(error) => {
                    problem = Some(too_many_ranges(error));
                    continue;
                }
            }
            let cause = LossCause::Declared(loss.reason);
            planner.tally.lose(loss.scope, cause, news.count());
            let (device_key, stream_key) = (self.state.key, cursor.stream_key);
            let rows = news.ranges().iter();
            planner.rows.losses.extend(rows.map(|range| LossRow {
                device_key,
                stream_key,
                range: *range,
                scope: loss.scope,
                cause,
                event_min: loss.event_min,
                event_max: loss.event_max,
            }));
        }
        self.touch(header.stream, cursor, losses.iter().map(|loss| loss.range));
        problem.map_or(Ok(()), Err)
    }
}
