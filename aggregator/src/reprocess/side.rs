//! Rows of the side table, a day of event time at a time, in their order.

use proto::PassageBatch;
use proto::passage::EventTime;
use serde_json::{Map, Value};
use tokio_postgres::Client;

use super::{DAY_MS, ReprocessError, Request};
use crate::commit::load::time;
use crate::commit::side_table::{ForeignField, from_json};
use crate::window::state::TakenRow;

/// What stands in the side table and is no passage.
#[derive(Debug, thiserror::Error)]
pub enum ForeignRow {
    /// No JSON object.
    #[error("no JSON object: {0}")]
    Json(#[from] serde_json::Error),
    /// A field.
    #[error(transparent)]
    Field(#[from] ForeignField),
}

/// Passages of one device and one UTC day.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    /// The passages.
    pub(super) batch: PassageBatch,
    /// Their rows, place by place.
    pub(super) rows: Vec<TakenRow>,
}

/// Where a row stands in the order of event times.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) event_ms: i64,
    stream_key: i32,
    seq: i64,
}

impl Chunk {
    /// The place of the last row; none of an empty chunk.
    pub(super) fn last(&self) -> Option<Place> {
        self.rows.last().map(|row| Place {
            event_ms: row.event_time.as_millis(),
            stream_key: row.stream_key,
            seq: i64::try_from(row.seq).unwrap_or(i64::MAX),
        })
    }
}

/// The next rows after a place, at most `most`, all of one day; empty when there are no more. Of
/// passages from before the floor nobody knows any more whether they were counted once.
pub(super) async fn read(
    client: &Client,
    device_key: i32,
    request: &Request,
    after: Option<Place>,
    most: i64,
) -> Result<Chunk, ReprocessError> {
    let (from, to) = (request.from_ms.map(time), request.to_ms.map(time));
    let reason = request.reason.map(|reason| reason.word());
    let at = after.map(|place| time(place.event_ms));
    let rows = client
        .query(
            "SELECT stream_key, seq, (extract(epoch FROM event_time) * 1000)::int8, counted,
                    passage::text
             FROM rejected_passage
             WHERE device_key = $1
               AND event_time >= (SELECT floor FROM cursor_floor)
               AND event_time >= coalesce($2::timestamptz, '-infinity')
               AND event_time < coalesce($3::timestamptz, 'infinity')
               AND reason = coalesce($4::text, reason)
               AND (event_time, stream_key, seq)
                   > (coalesce($5::timestamptz, '-infinity'), $6::int4, $7::int8)
             ORDER BY event_time, stream_key, seq LIMIT $8",
            &[
                &device_key,
                &from,
                &to,
                &reason,
                &at,
                &after.map_or(0, |place| place.stream_key),
                &after.map_or(0, |place| place.seq),
                &most,
            ],
        )
        .await?;
    let mut chunk = Chunk::default();
    let mut day = None;
    for row in rows {
        let event_ms: i64 = row.get(2);
        if *day.get_or_insert(event_ms.div_euclid(DAY_MS)) != event_ms.div_euclid(DAY_MS) {
            break;
        }
        let (stream_key, seq): (i32, i64) = (row.get(0), row.get(1));
        let event_time = EventTime::from_millis(event_ms);
        let foreign = |source| ReprocessError::Foreign {
            stream_key,
            seq,
            source,
        };
        let fields: Map<String, Value> =
            serde_json::from_str(row.get(4)).map_err(|error| foreign(error.into()))?;
        let passage = from_json(event_time, &fields).map_err(|error| foreign(error.into()))?;
        chunk.batch.push(&passage);
        chunk.rows.push(TakenRow {
            stream_key,
            seq: seq.unsigned_abs(),
            event_time,
            counted: row.get(3),
        });
    }
    Ok(chunk)
}
