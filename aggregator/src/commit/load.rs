//! Committed state from the database into memory: one query per table, and only for what is missing.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use proto::device::{DeviceId, StreamId};
use proto::header::Frontier;
use proto::passage::{EventTime, Speed};
use proto::ranges::{Seq, SeqRange, SeqSet};
use proto::topic::Shard;
use proto::window::{Histogram, SpeedStats};
use tokio_postgres::{Client, Row};

use super::writer::Writer;
use crate::window::dedup::Cursor;
use crate::window::finality::Finality;
use crate::window::past::Past;
use crate::window::rollup::{Length, WindowId};
use crate::window::state::{AWAITING_CURSORS_KEPT, Day, DeviceState, Memory, Window};

/// Why committed state could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The database failed.
    #[error("cannot load committed state: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// A row holds what Verst never writes.
    #[error("{table} holds something that Verst never writes: {what}")]
    Foreign {
        /// Which table.
        table: &'static str,
        /// What is wrong.
        what: String,
    },
}

const CURSOR_COLUMNS: &str = "c.device_key, c.stream::text, c.stream_key, c.counted::text, \
    c.stored::text, c.lost::text, c.accepted_to, c.rev, c.presumed::text, \
    c.rowless::text, (extract(epoch FROM c.first_seen) * 1000)::int8";

/// Windows of a table, by unit and start.
pub(super) const READ_WINDOWS: &str = "
    SELECT w.device_key, (extract(epoch FROM w.bucket) * 1000)::int8,
        w.n, w.n_speed, w.n_moving, w.violations,
        w.sum_ckmh, w.sumsq_ckmh2, w.pace_sum_ms_per_km, w.min_ckmh, w.max_ckmh,
        w.hist_lo, w.hist, w.class_n, w.lane_n, w.lane_n_speed, w.lane_sum_ckmh,
        w.rev, w.revised
    FROM unnest($1::int4[], $2::timestamptz[]) AS u(device_key, bucket)
    JOIN TABLE w USING (device_key, bucket)";

/// Brings devices into memory, and enters those that the database does not know.
///
/// # Errors
/// When the database fails or holds something foreign.
pub async fn devices(
    client: &Client,
    memory: &mut Memory,
    devices: &[DeviceId],
    today: i64,
) -> Result<(), LoadError> {
    if devices.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = devices.iter().map(DeviceId::as_str).collect();
    let shards: Vec<i16> = devices
        .iter()
        .map(|device| Shard::of(device).get().into())
        .collect();
    client
        .execute(
            "INSERT INTO device (device, shard)
             SELECT w.device, w.shard FROM unnest($1::text[], $2::int2[]) AS w(device, shard)
             WHERE NOT EXISTS (SELECT FROM device d WHERE d.device = w.device)
             ON CONFLICT (device) DO NOTHING",
            &[&names, &shards],
        )
        .await?;
    let rows = client
        .query(
            "SELECT d.device, d.device_key,
                    (extract(epoch FROM s.final_to) * 1000)::int8,
                    (extract(epoch FROM s.frontier) * 1000)::int8,
                    s.frontier_run, s.frontier_counter,
                    (extract(epoch FROM s.cloned_at) * 1000)::int8,
                    coalesce(r.passages, 0), coalesce(r.kept, 0),
                    (extract(epoch FROM s.past_to) * 1000)::int8, coalesce(s.past_changes, 0)
             FROM device d
             LEFT JOIN device_status s USING (device_key)
             LEFT JOIN rejected_day r ON r.device_key = d.device_key
                 AND r.day = 'epoch'::date + $2::int4
             WHERE d.device = ANY($1)",
            &[&names, &i32::try_from(today).unwrap_or(i32::MAX)],
        )
        .await?;
    let mut by_key = HashMap::new();
    for row in rows {
        let name: &str = row.get(0);
        let device = DeviceId::new(name).map_err(|error| foreign("device", &error))?;
        let frontier = row.get::<_, Option<i64>>(3).map(|before_ms| Frontier {
            before: EventTime::from_millis(before_ms),
            run: u32::try_from(row.get::<_, i64>(4)).unwrap_or(u32::MAX),
            counter: row.get::<_, i64>(5).unsigned_abs(),
        });
        let state = DeviceState {
            key: row.get(1),
            finality: Finality::restored(row.get(2), frontier, row.get(6)),
            past: Past {
                to_ms: row.get(9),
                changes: row.get(10),
            },
            today: Day {
                day: today,
                rejected: row.get(7),
                rejected_kept: row.get(8),
                ..Day::default()
            },
            ..DeviceState::default()
        };
        by_key.insert(state.key, (device, state));
    }
    let keys: Vec<i32> = by_key.keys().copied().collect();
    // Those that are not settled, and the newest of those whose raw rows are to come.
    let open = format!(
        "SELECT {CURSOR_COLUMNS} FROM (
             SELECT *, row_number() OVER (PARTITION BY device_key, settled ORDER BY stream_key DESC)
                 AS place
             FROM stream_cursor
             WHERE device_key = ANY($1) AND (NOT settled OR stored + rowless <> counted)
         ) c WHERE NOT c.settled OR c.place <= {AWAITING_CURSORS_KEPT}"
    );
    for row in client.query(&open, &[&keys]).await? {
        let (key, stream, cursor) = cursor(&row)?;
        if let Some((_, state)) = by_key.get_mut(&key) {
            state.cursors.insert(stream, cursor);
        }
    }
    let begun = client
        .query(
            "SELECT device_key, count(*) FROM stream_cursor
             WHERE device_key = ANY($1)
               AND first_seen >= ('epoch'::date + $2::int4)::timestamp AT TIME ZONE 'UTC'
             GROUP BY device_key",
            &[&keys, &i32::try_from(today).unwrap_or(i32::MAX)],
        )
        .await?;
    for row in begun {
        if let Some((_, state)) = by_key.get_mut(&row.get(0)) {
            state.today.new_streams = usize::try_from(row.get::<_, i64>(1)).unwrap_or(usize::MAX);
        }
    }
    for (device, state) in by_key.into_values() {
        memory.learn_device(device, state);
    }
    Ok(())
}

/// Brings cursors into memory; those that the database does not know are empty, with revision 0.
///
/// # Errors
/// When the database fails or holds something foreign.
pub async fn cursors(
    client: &Client,
    memory: &mut Memory,
    wanted: &[(DeviceId, StreamId)],
) -> Result<(), LoadError> {
    if wanted.is_empty() {
        return Ok(());
    }
    let key = |device| memory.device(device).map_or(0, |state| state.key);
    let keys: Vec<i32> = wanted.iter().map(|(device, _)| key(device)).collect();
    let streams: Vec<String> = wanted
        .iter()
        .map(|(_, stream)| stream.to_string())
        .collect();
    let query = format!(
        "SELECT {CURSOR_COLUMNS} FROM unnest($1::int4[], $2::text[]::uuid[]) AS w(device_key, stream)
         JOIN stream_cursor c USING (device_key, stream)"
    );
    let mut found = HashMap::new();
    for row in client.query(&query, &[&keys, &streams]).await? {
        let (key, stream, cursor) = cursor(&row)?;
        found.insert((key, stream), cursor);
    }
    for ((device, stream), key) in wanted.iter().zip(keys) {
        let cursor = found.remove(&(key, *stream)).unwrap_or_default();
        memory.learn_cursor(device, *stream, cursor);
    }
    Ok(())
}

/// Brings windows into memory; those that the database does not know are empty, with revision 0.
///
/// # Errors
/// When the database fails or holds something foreign.
pub async fn windows(
    writer: &Writer,
    memory: &mut Memory,
    wanted: &[(DeviceId, WindowId)],
) -> Result<(), LoadError> {
    let mut by_length: BTreeMap<Length, Vec<&(DeviceId, WindowId)>> = BTreeMap::new();
    for one in wanted {
        by_length.entry(one.1.length).or_default().push(one);
    }
    let key = |device| memory.device(device).map_or(0, |state| state.key);
    let reads = by_length.iter().map(|(length, wanted)| {
        let keys: Vec<i32> = wanted.iter().map(|(device, _)| key(device)).collect();
        let starts: Vec<SystemTime> = wanted.iter().map(|(_, id)| time(id.start_ms)).collect();
        async move {
            let statement = writer.reading(*length);
            let rows = writer.client().query(statement, &[&keys, &starts]).await?;
            Ok::<_, LoadError>((keys, rows))
        }
    });
    // All are sent before the first is answered.
    let read = try_join_all(reads).await?;
    for ((length, wanted), (keys, rows)) in by_length.into_iter().zip(read) {
        let table = length.table();
        let mut found = HashMap::new();
        for row in rows {
            let id = (row.get::<_, i32>(0), row.get::<_, i64>(1));
            let window = window(&row)
                .ok_or_else(|| foreign(table, &format!("device {} at {} ms", id.0, id.1)))?;
            found.insert(id, window);
        }
        for ((device, id), key) in wanted.into_iter().zip(keys) {
            let window = found.remove(&(key, id.start_ms)).unwrap_or_default();
            memory.learn_window(device, *id, window);
        }
    }
    Ok(())
}

/// Before this time, ms since 1970, nobody knows any more what was settled.
///
/// # Errors
/// When the database fails.
pub async fn floor_ms(client: &Client) -> Result<i64, LoadError> {
    let floor = "SELECT ceil(extract(epoch FROM floor) * 1000)::int8 FROM cursor_floor";
    Ok(client.query_one(floor, &[]).await?.get(0))
}

/// How many devices of these shards are known.
///
/// # Errors
/// When the database fails.
pub async fn fleet(
    client: &Client,
    shards: impl Iterator<Item = Shard>,
) -> Result<usize, LoadError> {
    let shards: Vec<i16> = shards.map(|shard| shard.get().into()).collect();
    let count = "SELECT count(*) FROM device WHERE shard = ANY($1)";
    let devices: i64 = client.query_one(count, &[&shards]).await?.get(0);
    Ok(usize::try_from(devices).unwrap_or(0))
}

/// Fresh keys for streams.
///
/// # Errors
/// When the database fails.
pub async fn stream_keys(client: &Client, count: usize) -> Result<Vec<i32>, LoadError> {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    let rows = client
        .query(
            "SELECT nextval('stream_key')::int4 FROM generate_series(1, $1)",
            &[&count],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// A time of the database's type. Times before 1970 do not occur.
#[must_use]
pub fn time(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms.max(0).unsigned_abs())
}

fn foreign(table: &'static str, what: &dyn std::fmt::Display) -> LoadError {
    LoadError::Foreign {
        table,
        what: what.to_string(),
    }
}

fn cursor(row: &Row) -> Result<(i32, StreamId, Cursor), LoadError> {
    let set = |column: usize| {
        let text: &str = row.get(column);
        parse_multirange(text).ok_or_else(|| foreign("stream_cursor", &text))
    };
    let stream: &str = row.get(1);
    let stored = set(4)?;
    let cursor = Cursor {
        stream_key: row.get(2),
        counted: set(3)?,
        lost: set(5)?,
        accepted_to: row.get::<_, i64>(6).unsigned_abs(),
        rev: row.get(7),
        presumed: set(8)?,
        // An aggregator of an earlier version stores without knowing of it.
        rowless: set(9)?.difference(&stored),
        stored,
        since_ms: row.get(10),
    };
    let id = parse_uuid(stream).ok_or_else(|| foreign("stream_cursor", &stream))?;
    Ok((row.get(0), id, cursor))
}

fn window(row: &Row) -> Option<Window> {
    let count = |column: usize| u32::try_from(row.get::<_, i32>(column)).ok();
    let sum = |column: usize| u64::try_from(row.get::<_, i64>(column)).ok();
    let speed = |column: usize| {
        let speed: Option<i32> = row.get(column);
        speed.map(|ckmh| u16::try_from(ckmh).ok().and_then(Speed::from_centi_kmh))
    };
    let bins = counts(&row.get::<_, Vec<i32>>(12))?;
    let lowest = u16::try_from(row.get::<_, i16>(11)).ok()?;
    let sums: Vec<i64> = row.get(16);
    let sums: Option<Vec<u64>> = sums
        .into_iter()
        .map(|sum| u64::try_from(sum).ok())
        .collect();
    let stats = SpeedStats {
        n: count(2)?,
        n_speed: count(3)?,
        n_moving: count(4)?,
        violations: count(5)?,
        sum_ckmh: sum(6)?,
        sumsq_ckmh2: sum(7)?,
        pace_sum_ms_per_km: sum(8)?,
        min: speed(9).map_or(Some(None), |speed| speed.map(Some))?,
        max: speed(10).map_or(Some(None), |speed| speed.map(Some))?,
        histogram: Histogram::from_parts(lowest, bins)?,
        class_n: padded(&counts(&row.get::<_, Vec<i32>>(13))?)?,
        lane_n: padded(&counts(&row.get::<_, Vec<i32>>(14))?)?,
        lane_n_speed: padded(&counts(&row.get::<_, Vec<i32>>(15))?)?,
        lane_sum_ckmh: padded(&sums?)?,
    };
    Some(Window {
        stats,
        rev: row.get(17),
        revised: row.get(18),
    })
}

fn counts(column: &[i32]) -> Option<Vec<u32>> {
    column
        .iter()
        .map(|count| u32::try_from(*count).ok())
        .collect()
}

fn padded<T: Copy + Default, const N: usize>(trimmed: &[T]) -> Option<[T; N]> {
    let mut full = [T::default(); N];
    full.get_mut(..trimmed.len())?.copy_from_slice(trimmed);
    Some(full)
}

/// A set as the text of an `int8multirange`.
#[must_use]
pub fn multirange(set: &SeqSet) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("{");
    for (place, range) in set.ranges().iter().enumerate() {
        let comma = if place > 0 { "," } else { "" };
        // Writing to a String cannot fail.
        write!(
            text,
            "{comma}[{},{})",
            range.first(),
            range.last().get() + 1
        )
        .ok();
    }
    text.push('}');
    text
}

fn parse_multirange(text: &str) -> Option<SeqSet> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    if inner.is_empty() {
        return Some(SeqSet::new());
    }
    inner
        .strip_prefix('[')?
        .strip_suffix(')')?
        .split("),[")
        .map(parse_range)
        .collect()
}

fn parse_range(text: &str) -> Option<SeqRange> {
    let (first, end) = text.split_once(',')?;
    let last = end.parse::<u64>().ok()?.checked_sub(1)?;
    SeqRange::new(Seq::new(first.parse().ok()?).ok()?, Seq::new(last).ok()?)
}

fn parse_uuid(text: &str) -> Option<StreamId> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (digits.len() == 32).then(|| StreamId::from_bytes(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_survive_being_text() {
        for (text, ranges) in [
            ("{}", 0),
            ("{[1,2)}", 1),
            ("{[1,501),[600,9223372036854775807)}", 2),
        ] {
            let set = parse_multirange(text).unwrap();
            assert_eq!(set.range_count(), ranges);
            assert_eq!(multirange(&set), text);
        }
        for bad in [
            "", "{", "{[1,1)}", "{[0,2)}", "{(1,2)}", "{[2,1)}", "{[1,2),}",
        ] {
            assert_eq!(parse_multirange(bad), None, "{bad}");
        }
    }

    #[test]
    fn streams_are_read_as_postgresql_writes_uuids() {
        let stream = parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!(stream.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(parse_uuid("00112233"), None);
    }
}
