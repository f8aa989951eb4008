//! ● Somebody with a valid certificate of a unit who tries what he must not.
//!
//! Whatever he sends beyond his own topic must never pass the gate; whatever he sends on his own
//! topic must change nothing of others.

use bytes::Bytes;
use proto::frame::{Down, Up};
use proto::header::{Frontier, UpHeader};
use proto::loss::{Loss, LossReason, LossScope, Losses};
use proto::receipt::{Receipt, StreamReceipt};
use proto::topic::{Shard, beacon, down, up, up_filter};
use proto::{DeviceId, EventTime, Passage, Seq, SeqRange, StreamId};

use super::database::Database;
use super::net::{Client, ToBroker};
use super::queue::wall_ms;
use super::stage::{Event, Stage};
use super::unit::{device, name};

/// His own name.
pub(super) fn own_name() -> DeviceId {
    device("KV-stolen")
}

/// Connects anew and tries one thing.
pub(super) fn intrude(stage: &mut Stage, db: &Database) {
    let again = stage.dice.between(1_000, 30_000);
    if stage.weather.calm || !stage.weather.broker_up {
        return stage.queue.after(again, Event::Intrusion);
    }
    stage.queue.after(again, Event::Intrusion);
    let own = own_name();
    let units = stage.scenario.units.len();
    let place = stage.dice.index(units);
    let victim = name(stage.scenario.identity(place));
    let id = stage.connect(Client::Intruder);
    let attempt = stage.dice.between(0, 9);
    stage.say(format_args!("intruder: attempt {attempt} against {victim}"));
    let who = if attempt == 0 { &victim } else { &own };
    let client_id = who.as_str().to_owned();
    stage.send_up(id, ToBroker::Connect { client_id });
    let packet = match attempt {
        0 | 1 => ToBroker::Subscribe(vec![down(&victim)]),
        2 => ToBroker::Subscribe(vec!["#".to_owned()]),
        3 => ToBroker::Subscribe(vec![up_filter(Shard::of(&victim))]),
        4 => publish(up(&victim), lie(stage, &victim), false),
        5 => publish(down(&victim), forged(stage, db), false),
        6 => publish(beacon(Shard::of(&own)), forged(stage, db), true),
        7 => publish(up(&own), lie(stage, &victim), true),
        _ => publish(up(&own), lie(stage, &victim), false),
    };
    stage.send_up(id, packet);
}

fn publish(topic: String, payload: Vec<u8>, retain: bool) -> ToBroker {
    ToBroker::Publish {
        topic,
        payload: Bytes::from(payload),
        retain,
        pkid: Some(1),
    }
}

/// A receipt that would free everything.
fn forged(stage: &mut Stage, db: &Database) -> Vec<u8> {
    let stream = foreign(stage);
    let all = SeqRange::from_count(Seq::FIRST, 1 << 40).map(Into::into);
    let all: proto::SeqSet = all.unwrap_or_default();
    let receipt = StreamReceipt {
        stream,
        counted: all.clone(),
        stored: all,
        lost: proto::SeqSet::new(),
        afresh: false,
    };
    let receipt = Receipt {
        centre: db.centre(),
        streams: vec![receipt],
        correction: None,
    };
    Down::Receipt(receipt).encode()
}

/// A stream of somebody else's.
fn foreign(stage: &mut Stage) -> StreamId {
    let streams = stage.oracle.known_streams();
    if streams.is_empty() {
        return StreamId::from_bytes(stage.dice.name());
    }
    stage.dice.pick(&streams)
}

/// A frame that says what is not so.
fn lie(stage: &mut Stage, _victim: &DeviceId) -> Vec<u8> {
    let stream = foreign(stage);
    let now = wall_ms(stage.now());
    let kind = stage.dice.between(0, 3);
    let count = stage.dice.between(1, 30);
    let first = stage.dice.pick(&[1, 5, 1 << 40]);
    let header = UpHeader {
        stream,
        first: Seq::new(first).unwrap_or(Seq::FIRST),
        count: u32::try_from(count).unwrap_or(1),
        accepted_to: stage.dice.pick(&[0, 10, 1 << 50]),
        frontier: Frontier {
            before: EventTime::from_millis(now + 86_400_000),
            run: u32::MAX,
            counter: u64::MAX,
        },
        sent_at: EventTime::from_millis(now),
    };
    let passages = (0..count).map(|n| Passage {
        event_time: EventTime::from_millis(now.saturating_sub_unsigned(n * 1_000)),
        ..Passage::default()
    });
    match kind {
        0 => (0..count * 7)
            .map(|_| u8::try_from(stage.dice.between(0, 255)).unwrap_or(0))
            .collect(),
        1 => {
            let range = SeqRange::from_count(header.first, 1 << 41);
            let loss = range.map(|range| Loss {
                range,
                scope: LossScope::All,
                reason: LossReason::Operator,
                event_min: None,
                event_max: None,
            });
            let losses = loss.into_iter().collect();
            Up::Loss(Losses { losses }).encode(&header)
        }
        _ => Up::Passages(passages.collect()).encode(&header),
    }
}
