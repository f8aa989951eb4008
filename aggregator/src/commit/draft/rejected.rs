//! Passages of the side table, folded into their windows after all. Their numbers are settled since
//! they were rejected, so no cursor changes.

use std::collections::BTreeMap;

use proto::batch::PassageBatch;
use proto::window::{Bucket, fold};

use super::super::plan::{Planner, RawRows};
use super::Draft;
use super::batch::day_of;
use crate::intake::rows::Rows;
use crate::window::lateness::{Horizon, Rejection};
use crate::window::state::TakenRow;

/// Why a passage stays in the side table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftReason {
    /// It is still ahead of the centre's clock.
    TooNew,
    /// Its window holds as many passages as a window may.
    WindowFull,
}

impl LeftReason {
    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::TooNew => "too_new",
            Self::WindowFull => "window_full",
        }
    }
}

/// What became of rejected passages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoldedIn {
    /// Into their windows.
    pub counted: u64,
    /// In their windows already, by a summary; only the raw passage had come too late.
    pub counted_before: u64,
    /// Raw rows written.
    pub raw_rows: u64,
    /// Left in the side table.
    pub left: BTreeMap<LeftReason, u64>,
}

impl Draft<'_> {
    /// Counts the passages of a batch that stand in these rows of the side table, place by place,
    /// however old they are. Raw rows are written for days (since 1970) from `raw_from_day` on.
    pub fn rejected(
        &mut self,
        batch: &PassageBatch,
        rows: &[TakenRow],
        horizon: &Horizon,
        raw_from_day: Option<i64>,
        planner: &mut Planner<'_, '_>,
    ) -> FoldedIn {
        let mut folded = FoldedIn::default();
        let mut keep = vec![false; batch.len()];
        let mut room: BTreeMap<Bucket, u32> = BTreeMap::new();
        let mut raw: BTreeMap<i32, Rows> = BTreeMap::new();
        for (place, row) in rows.iter().enumerate() {
            let time = batch.event_time(place);
            let bucket = Bucket::of(time);
            let left = if horizon.rejects(time) == Some(Rejection::TooNew) {
                Some(LeftReason::TooNew)
            } else if row.counted {
                None
            } else {
                let room = room.entry(bucket).or_insert_with(|| self.room(bucket));
                match room.checked_sub(1) {
                    Some(less) => {
                        *room = less;
                        None
                    }
                    None => Some(LeftReason::WindowFull),
                }
            };
            if let Some(reason) = left {
                *folded.left.entry(reason).or_default() += 1;
                continue;
            }
            keep[place] = !row.counted;
            if row.counted {
                folded.counted_before += 1;
            } else {
                folded.counted += 1;
            }
            self.change.taken.push(*row);
            let day = day_of(bucket);
            if raw_from_day.is_some_and(|oldest| day >= oldest) {
                raw.entry(row.stream_key)
                    .or_default()
                    .push(batch, place, row.seq);
                planner.rows.raw_days.insert(day);
                folded.raw_rows += 1;
            }
        }
        self.add(&fold(batch, |place| keep[place]));
        for (stream_key, rows) in raw {
            self.raw(RawRows::Picked(rows), stream_key, planner);
        }
        folded
    }
}
