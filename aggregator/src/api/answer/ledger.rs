//! ● What the ledger says of a unit.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::super::utc::Utc;
use crate::store::reader::{BookedLoss, Books, LOSS_REASONS, LedgerRows};

/// Passages by what became of them: accepted = counted + held + lost + unexplained.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct BooksAnswer {
    /// Accepted by the unit, as far as the centre knows.
    #[schema(example = 260_000)]
    pub accepted: i64,
    /// In the windows, or in the side table of passages that no window takes.
    #[schema(example = 259_000)]
    pub counted: i64,
    /// With a raw row.
    #[schema(example = 258_000)]
    pub stored: i64,
    /// Waiting at the unit, by its own word.
    #[schema(example = 900)]
    pub held: i64,
    /// Neither counted, nor lost, nor known to be held: nobody has said anything of them for as long
    /// as the centre is set up to wait.
    #[schema(example = 0)]
    pub unexplained: i64,
    /// Lost, in no window and no table.
    #[schema(example = 100)]
    pub lost: i64,
    /// The same by reason: quota, corrupt, refused, operator, vanished, centre_lost, rejected.
    pub lost_by_reason: BTreeMap<&'static str, i64>,
    /// In the windows, but their raw rows will never come.
    #[schema(example = 1_000)]
    pub raw_only: i64,
}

impl From<Books> for BooksAnswer {
    fn from(books: Books) -> Self {
        Self {
            accepted: books.accepted,
            counted: books.counted,
            stored: books.stored,
            held: books.held,
            unexplained: books.unexplained,
            lost: books.lost.into_iter().fold(0, i64::saturating_add),
            lost_by_reason: LOSS_REASONS.into_iter().zip(books.lost).collect(),
            raw_only: books.raw_only,
        }
    }
}

/// What one run of the unit's agent accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StreamBooks {
    /// Its name, as the unit's own status shows it.
    #[schema(example = "00112233445566778899aabbccddeeff")]
    pub stream: String,
    /// When the centre first heard of it.
    #[schema(value_type = String, format = DateTime, example = "2025-04-05T10:00:00Z")]
    pub first_seen: Utc,
    /// When it last did.
    #[schema(value_type = String, format = DateTime, example = "2025-04-05T16:00:00Z")]
    pub last_word: Utc,
    /// Its books.
    #[serde(flatten)]
    pub books: BooksAnswer,
}

/// A range of passages that is known to be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LossAnswer {
    /// The stream.
    #[schema(example = "00112233445566778899aabbccddeeff")]
    pub stream: String,
    /// The first number of the range.
    #[schema(example = 501)]
    pub first: i64,
    /// The last one.
    #[schema(example = 600)]
    pub last: i64,
    /// Passages of the range that are lost; others were counted, or counted after all.
    #[schema(example = 100)]
    pub passages: i64,
    /// all: in no window and no table; raw_only: the windows have them; rejected: no window would take
    /// them, and the side table was full.
    #[schema(example = "all")]
    pub scope: String,
    /// quota, corrupt, refused, operator, vanished or centre_lost; of what was rejected too_old,
    /// too_new or window_full.
    #[schema(example = "corrupt")]
    pub reason: String,
    /// No lost passage is older; null when that is not known.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:10:00Z")]
    pub event_min: Option<Utc>,
    /// No lost passage is newer; null when that is not known.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:12:00Z")]
    pub event_max: Option<Utc>,
    /// When it was booked, by the clock of the database.
    #[schema(value_type = String, format = DateTime, example = "2025-04-05T16:00:00Z")]
    pub booked_at: Utc,
}

impl From<BookedLoss> for LossAnswer {
    fn from(loss: BookedLoss) -> Self {
        Self {
            stream: loss.stream,
            first: loss.first,
            last: loss.last,
            passages: loss.passages,
            scope: loss.scope,
            reason: loss.reason,
            event_min: loss.event_min_ms.map(Utc::from_millis),
            event_max: loss.event_max_ms.map(Utc::from_millis),
            booked_at: Utc::from_millis(loss.booked_ms),
        }
    }
}

/// The books of a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LedgerAnswer {
    /// Name of the unit.
    #[schema(example = "KV12345")]
    pub kvfv_id: String,
    /// The beginning as understood.
    #[schema(value_type = String, format = DateTime, example = "2025-04-05T00:00:00Z")]
    pub from: Utc,
    /// The end as understood.
    #[schema(value_type = String, format = DateTime, example = "2025-04-06T00:00:00Z")]
    pub to: Utc,
    /// Whether every accepted passage is counted, held or booked as lost.
    #[schema(example = true)]
    pub explained: bool,
    /// The sums over the streams.
    pub total: BooksAnswer,
    /// The streams, newest first.
    pub streams: Vec<StreamBooks>,
    /// Their losses, those booked last first.
    pub losses: Vec<LossAnswer>,
    /// Whether there are more losses than an answer lists; the sums know all of them.
    #[schema(example = false)]
    pub more_losses: bool,
}

impl LedgerAnswer {
    /// Of rows with at most one loss more than `losses_max`.
    #[must_use]
    pub fn new(kvfv_id: String, from: Utc, to: Utc, rows: LedgerRows, losses_max: u32) -> Self {
        let total = BooksAnswer::from(rows.streams.iter().fold(Books::default(), |sum, row| {
            let one = row.books;
            Books {
                accepted: sum.accepted.saturating_add(one.accepted),
                counted: sum.counted.saturating_add(one.counted),
                stored: sum.stored.saturating_add(one.stored),
                held: sum.held.saturating_add(one.held),
                unexplained: sum.unexplained.saturating_add(one.unexplained),
                lost: std::array::from_fn(|at| sum.lost[at].saturating_add(one.lost[at])),
                raw_only: sum.raw_only.saturating_add(one.raw_only),
            }
        }));
        let most = usize::try_from(losses_max).unwrap_or(usize::MAX);
        let more_losses = rows.losses.len() > most;
        Self {
            kvfv_id,
            from,
            to,
            explained: total.unexplained == 0,
            total,
            streams: rows
                .streams
                .into_iter()
                .map(|row| StreamBooks {
                    stream: row.stream,
                    first_seen: Utc::from_millis(row.first_seen_ms),
                    last_word: Utc::from_millis(row.last_word_ms),
                    books: row.books.into(),
                })
                .collect(),
            losses: rows
                .losses
                .into_iter()
                .take(most)
                .map(LossAnswer::from)
                .collect(),
            more_losses,
        }
    }
}
