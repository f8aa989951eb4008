//! The books of a unit's streams, and its single losses.

use proto::device::DeviceId;
use tokio_postgres::Row;

use super::instant::Instant;
use super::{ReadError, Reader, column};

/// Passages of one stream, by what became of them:
/// accepted = counted + held + lost + unexplained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Books {
    /// Accepted by the unit, as far as the centre knows.
    pub accepted: i64,
    /// In the windows or in the side table.
    pub counted: i64,
    /// With a raw row.
    pub stored: i64,
    /// Waiting at the unit, by its own word.
    pub held: i64,
    /// Neither counted, nor lost, nor known to be held.
    pub unexplained: i64,
    /// Lost: by [`LOSS_REASONS`].
    pub lost: [i64; LOSS_REASONS.len()],
    /// In the windows, but their raw rows will never come.
    pub raw_only: i64,
}

/// Why passages are lost, in the order of [`Books::lost`].
pub const LOSS_REASONS: [&str; 7] = [
    "quota",
    "corrupt",
    "refused",
    "operator",
    "vanished",
    "centre_lost",
    "rejected",
];

/// One stream. Times in ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamRow {
    /// Its name.
    pub stream: String,
    /// When the centre first heard of it.
    pub first_seen_ms: i64,
    /// When it last did.
    pub last_word_ms: i64,
    /// Its books.
    pub books: Books,
}

/// One entry of the ledger. Times in ms since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookedLoss {
    /// The stream's name.
    pub stream: String,
    /// First number of the range; of scope `rejected` the least of a day.
    pub first: i64,
    /// Last number of the range.
    pub last: i64,
    /// Passages of the range that are still lost.
    pub passages: i64,
    /// `all`, `raw_only` or `rejected`.
    pub scope: String,
    /// Why.
    pub reason: String,
    /// No lost passage is older.
    pub event_min_ms: Option<i64>,
    /// No lost passage is newer.
    pub event_max_ms: Option<i64>,
    /// When it was booked.
    pub booked_ms: i64,
}

/// What the ledger says of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerRows {
    /// Newest first.
    pub streams: Vec<StreamRow>,
    /// Their losses, those booked last first.
    pub losses: Vec<BookedLoss>,
}

/// Streams and their losses as rows of one form, so that both are of one snapshot.
const STATEMENT: &str = "
    WITH streams AS MATERIALIZED (
        SELECT * FROM v_ledger
        WHERE device = $1 AND first_seen < $3 AND last_word_at >= $2
        ORDER BY first_seen DESC, stream_key DESC LIMIT $4
    ), losses AS (
        SELECT s.stream, l.* FROM v_loss l JOIN streams s USING (stream_key)
        WHERE l.device = $1
        ORDER BY l.booked_at DESC, l.stream_key DESC, l.first_seq DESC LIMIT $5
    )
    SELECT stream, first_seen, last_word_at, NULL::timestamptz, NULL::text, NULL::text,
        ARRAY[accepted, counted, stored, held, unexplained, raw_only, lost_quota, lost_corrupt,
            lost_refused, lost_operator, lost_vanished, lost_centre_lost, lost_rejected]
    FROM streams
    UNION ALL
    SELECT stream, event_min, event_max, booked_at, scope, reason,
        ARRAY[first_seq, last_seq, passages]
    FROM losses";

impl Reader {
    /// The books of the unit's streams that were heard of in a time (ms since 1970), at most
    /// `streams_max`, and at most `losses_max` of their losses.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the views promise.
    pub async fn ledger(
        &self,
        device: &DeviceId,
        time_ms: std::ops::Range<i64>,
        streams_max: u32,
        losses_max: u32,
    ) -> Result<LedgerRows, ReadError> {
        let (from, to) = (Instant(time_ms.start), Instant(time_ms.end));
        let (streams_max, losses_max) = (i64::from(streams_max), i64::from(losses_max));
        let rows = self
            .query(
                STATEMENT,
                &[&device.as_str(), &from, &to, &streams_max, &losses_max],
            )
            .await?;
        let mut ledger = LedgerRows::default();
        for row in &rows {
            match column(row, 4)? {
                None => ledger.streams.push(stream(row)?),
                Some(scope) => ledger.losses.push(loss(row, scope)?),
            }
        }
        Ok(ledger)
    }
}

fn stream(row: &Row) -> Result<StreamRow, ReadError> {
    let [
        accepted,
        counted,
        stored,
        held,
        unexplained,
        raw_only,
        lost @ ..,
    ]: [i64; 6 + LOSS_REASONS.len()] = numbers(row)?;
    let (first_seen, last_word): (Instant, Instant) = (column(row, 1)?, column(row, 2)?);
    Ok(StreamRow {
        stream: column(row, 0)?,
        first_seen_ms: first_seen.0,
        last_word_ms: last_word.0,
        books: Books {
            accepted,
            counted,
            stored,
            held,
            unexplained,
            lost,
            raw_only,
        },
    })
}

fn loss(row: &Row, scope: String) -> Result<BookedLoss, ReadError> {
    let [first, last, passages] = numbers(row)?;
    let instant = |place| Ok(column::<Option<Instant>>(row, place)?.map(|instant| instant.0));
    Ok(BookedLoss {
        stream: column(row, 0)?,
        first,
        last,
        passages,
        scope,
        reason: column(row, 5)?,
        event_min_ms: instant(1)?,
        event_max_ms: instant(2)?,
        booked_ms: column::<Instant>(row, 3)?.0,
    })
}

fn numbers<const N: usize>(row: &Row) -> Result<[i64; N], ReadError> {
    let numbers: Vec<i64> = column(row, 6)?;
    numbers
        .try_into()
        .map_err(|other| ReadError::Fault(format!("{N} numbers are expected, not {other:?}")))
}
