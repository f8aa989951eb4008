//! Window deltas sent instead of, or ahead of, the passages that they stand for.

use serde::{Deserialize, Serialize};

use crate::limits::{SUMMARY_DELTAS_MAX, SUMMARY_ENTRIES_MAX};
use crate::ranges::SeqSet;
use crate::window::{StatsError, WindowDelta};

/// The body of a `Summary` frame: entries of the header's stream, each decided as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// What is summarised.
    pub entries: Vec<SummaryEntry>,
}

/// Some passages and what they add to the windows. Sealed: once offered, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryEntry {
    /// The passages.
    pub seqs: SeqSet,
    /// Their sums, by ascending, distinct window.
    pub deltas: Vec<WindowDelta>,
}

/// A summary that cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SummaryError {
    /// None, or more than anybody may send.
    #[error(
        "summary has {entries} entries and {deltas} windows, the limits are {SUMMARY_ENTRIES_MAX} and {SUMMARY_DELTAS_MAX}"
    )]
    Size {
        /// Entries found.
        entries: usize,
        /// Windows found in all of them.
        deltas: usize,
    },
    /// The windows hold another number of passages than the ranges.
    #[error("summary entry stands for {passages} passages but its windows count {counted}")]
    Count {
        /// Size of its ranges.
        passages: u64,
        /// Sum over its windows.
        counted: u64,
    },
    /// Windows twice or out of order.
    #[error("summary entry has its windows twice or out of order")]
    Order,
    /// Two entries claim the same passage.
    #[error("summary entries overlap")]
    Overlap,
    /// A window that contradicts itself.
    #[error(transparent)]
    Stats(#[from] StatsError),
}

impl Summary {
    /// Whether it could come from real passages.
    ///
    /// # Errors
    /// Names the first contradiction.
    pub fn check(&self) -> Result<(), SummaryError> {
        let entries = self.entries.len();
        let deltas = self.entries.iter().map(|entry| entry.deltas.len()).sum();
        if entries == 0 || entries > SUMMARY_ENTRIES_MAX || deltas > SUMMARY_DELTAS_MAX {
            return Err(SummaryError::Size { entries, deltas });
        }
        let mut seen = SeqSet::new();
        for entry in &self.entries {
            entry.check()?;
            if !seen.is_disjoint(&entry.seqs) {
                return Err(SummaryError::Overlap);
            }
            seen = seen.union(&entry.seqs);
        }
        Ok(())
    }
}

impl SummaryEntry {
    fn check(&self) -> Result<(), SummaryError> {
        if !self
            .deltas
            .windows(2)
            .all(|pair| pair[0].bucket < pair[1].bucket)
        {
            return Err(SummaryError::Order);
        }
        self.deltas.iter().try_for_each(WindowDelta::check)?;
        let passages = self.seqs.count();
        let counted = self
            .deltas
            .iter()
            .map(|delta| u64::from(delta.stats.n))
            .sum();
        if passages != counted || passages == 0 {
            return Err(SummaryError::Count { passages, counted });
        }
        Ok(())
    }
}
