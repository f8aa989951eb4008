//! ● How a unit stands: what it said of itself last, as far as completeness depends on it.

use tokio_postgres::Row;

use super::instant::Instant;
use super::{ReadError, column};

/// A unit is silent when it has not been heard of for this long, several heartbeats.
const SILENT_AFTER_MS: i64 = 5 * 60_000;
/// How long a name stays marked after two units spoke under it; meanwhile nothing turns final.
const CLONED_FOR_MS: i64 = 24 * 3_600_000;

/// A unit's statements, as the database has them. Times in ms since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// When the centre first heard of it.
    pub first_seen_ms: i64,
    /// Windows that end by then are final.
    pub final_to_ms: Option<i64>,
    /// Its own statement: everything before this event time has been counted.
    pub frontier_ms: Option<i64>,
    /// When its last heartbeat arrived.
    pub heartbeat_ms: Option<i64>,
    /// When two units last spoke under its name by turns.
    pub cloned_ms: Option<i64>,
    /// Passages that waited for a receipt at that heartbeat.
    pub backlog_passages: Option<i64>,
    /// The oldest event time among them.
    pub backlog_oldest_ms: Option<i64>,
    /// The newest event time among them.
    pub backlog_newest_ms: Option<i64>,
}

/// Columns of `v_device`, in the order in which [`Standing::read`] takes them. Of the types
/// `timestamptz, timestamptz, int8, timestamptz[]`: few, since in a union each row has them.
pub(super) const COLUMNS: &str = "first_seen, final_to, backlog_passages, \
     ARRAY[frontier, heartbeat_at, cloned_at, backlog_oldest, backlog_newest]";

/// How many columns they are.
pub(super) const COLUMN_COUNT: usize = 4;

impl Standing {
    /// From [`COLUMNS`] that begin at `place`.
    pub(super) fn read(row: &Row, place: usize) -> Result<Self, ReadError> {
        let instant = |instant: Option<Instant>| instant.map(|instant| instant.0);
        let said: Vec<Option<Instant>> = column(row, place + 3)?;
        let said = |place: usize| said.get(place).copied().flatten().map(|instant| instant.0);
        Ok(Self {
            first_seen_ms: column::<Instant>(row, place)?.0,
            final_to_ms: instant(column(row, place + 1)?),
            frontier_ms: said(0),
            heartbeat_ms: said(1),
            cloned_ms: said(2),
            backlog_passages: column(row, place + 2)?,
            backlog_oldest_ms: said(3),
            backlog_newest_ms: said(4),
        })
    }

    /// Whether nothing was ever heard of it but its name: it has stated nothing at all.
    #[must_use]
    pub const fn is_unheard(&self) -> bool {
        self.heartbeat_ms.is_none() && self.frontier_ms.is_none() && self.final_to_ms.is_none()
    }

    /// When it was heard of last, if that is too long ago.
    #[must_use]
    pub fn silent_since_ms(&self, now_ms: i64) -> Option<i64> {
        self.heartbeat_ms
            .filter(|heard| now_ms.saturating_sub(*heard) >= SILENT_AFTER_MS)
    }

    /// Whether two units spoke under its name within the last day.
    #[must_use]
    pub fn is_cloned(&self, now_ms: i64) -> bool {
        self.cloned_ms
            .is_some_and(|at| now_ms.saturating_sub(at) < CLONED_FOR_MS)
    }

    /// Whether a window that ends then is final.
    #[must_use]
    pub fn is_final(&self, end_ms: i64) -> bool {
        self.final_to_ms.is_some_and(|to| end_ms <= to)
    }
}
