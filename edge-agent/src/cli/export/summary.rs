//! What an export says of itself when it is done, for people and as JSON. Pure.

use proto::{Seq, StreamId};
use serde_json::{Value, json};

use super::line::timestamp;
use super::whose;
use crate::buffer::export::{StoreFiles, StreamTally, Tally};
use crate::status::text::{bytes, grouped, utc};

/// Streams that are shown, those that reach farthest first.
const STREAMS_SHOWN: usize = 8;

/// As one line of JSON.
pub(super) fn json(stores: &[StoreFiles], tally: &Tally) -> String {
    let streams = latest_first(tally).into_iter().map(|(id, stream)| {
        json!({
            "stream": id.to_string(),
            "passages": stream.seqs.count(),
            "first": first(stream),
            "last": last(stream),
            "from": timestamp(stream.from),
            "to": timestamp(stream.to),
        })
    });
    let stores = stores.iter().map(|store| {
        json!({
            "store": store.place.display().to_string(),
            "kvfv_id": store.device,
        })
    });
    let summary = json!({
        "passages": tally.passages,
        "streams": Value::from_iter(streams),
        "stores": Value::from_iter(stores),
        "bytes": tally.bytes,
        "unread_bytes": tally.unread_bytes,
        "broken": tally.broken,
        "perhaps_twice": tally.unremembered,
    });
    format!("{summary}\n")
}

/// A line a subject.
pub(super) fn text(stores: &[StoreFiles], tally: &Tally) -> String {
    let mut text = format!("{} passages", grouped(tally.passages));
    if let (Some(from), Some(to)) = (
        tally.streams.values().map(|stream| stream.from).min(),
        tally.streams.values().map(|stream| stream.to).max(),
    ) {
        let (from, to) = (utc(from.as_millis()), utc(to.as_millis()));
        text.push_str(&format!(", from {from} to {to}"));
    }
    text.push_str(&format!("; {} looked through\n", bytes(tally.bytes)));
    for store in stores {
        let whose = whose(store.device.as_ref());
        line(
            &mut text,
            "store",
            &format!("{}, {whose}", store.place.display()),
        );
    }
    let streams = latest_first(tally);
    for (id, stream) in streams.iter().take(STREAMS_SHOWN) {
        let said = format!(
            "{id}: {} passages, numbers {} to {}, from {} to {}",
            grouped(stream.seqs.count()),
            grouped(first(stream)),
            grouped(last(stream)),
            utc(stream.from.as_millis()),
            utc(stream.to.as_millis()),
        );
        line(&mut text, "stream", &said);
    }
    if streams.len() > STREAMS_SHOWN {
        let more = streams.len() - STREAMS_SHOWN;
        line(
            &mut text,
            "stream",
            &format!("and {more} older ones (--json)"),
        );
    }
    for (count, what) in [
        (
            tally.unread_bytes,
            "bytes could not be read from the disk: what lay there is missing",
        ),
        (
            tally.broken,
            "places begin like passages and cannot be read: damaged, or written over; whole copies of them may be among those above",
        ),
        (
            tally.unremembered,
            "passages may stand there twice: there were too many gaps between the numbers to remember",
        ),
    ] {
        if count > 0 {
            line(&mut text, "!", &format!("{} {what}", grouped(count)));
        }
    }
    text
}

fn line(text: &mut String, subject: &str, said: &str) {
    text.push_str(&format!("  {subject:<8}{said}\n"));
}

fn latest_first(tally: &Tally) -> Vec<(&StreamId, &StreamTally)> {
    let mut streams: Vec<_> = tally.streams.iter().collect();
    streams.sort_by_key(|(_, stream)| std::cmp::Reverse(stream.to));
    streams
}

fn first(stream: &StreamTally) -> u64 {
    let first = stream.seqs.ranges().first();
    first.map_or(0, |range| range.first().get())
}

fn last(stream: &StreamTally) -> u64 {
    stream.seqs.last().map_or(0, Seq::get)
}
