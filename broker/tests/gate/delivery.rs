//! Messages on their way: acknowledgements, retained beacons, windows, rates.

use std::collections::HashSet;

use broker::pki::Purpose::{Centre, Reader, Unit};
use proto::frame::{Down, WIRE_VERSION, WIRE_VERSION_MIN};
use proto::receipt::{self, Beacon, Intake};
use proto::{CentreId, DeviceId, EventTime, Shard, topic};

use crate::fixture::Fixture;
use crate::raw::{Raw, pkid_of, puback, publish, retained, subscribe, unsubscribe};
use crate::witness::Witness;

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

async fn subscribed(client: &mut Raw, filters: &[&str]) {
    client.send(&subscribe(1, filters)).await;
    let granted = vec![1; filters.len()];
    let length = u8::try_from(2 + filters.len()).unwrap();
    assert_eq!(
        client.packet().await,
        [&[0x90, length, 0, 1], &granted[..]].concat()
    );
}

#[tokio::test]
async fn acknowledgements_come_in_the_order_of_the_messages() {
    let fixture = Fixture::start().await;
    let mut unit = fixture.raw("KV1", Unit).await;
    let up = topic::up(&device("KV1"));
    let messages: Vec<u8> = (1..=500)
        .flat_map(|pkid| publish(&up, &[0; 100], Some(pkid)))
        .collect();
    unit.send(&messages).await;
    for pkid in 1..=500_u16 {
        assert_eq!(unit.packet().await, puback(pkid));
    }
}

#[tokio::test]
async fn the_largest_frame_passes_and_arrives_unchanged() {
    let fixture = Fixture::start().await;
    let up = topic::up(&device("KV1"));
    let mut centre = fixture.raw("centre", Centre).await;
    subscribed(&mut centre, &[&topic::up_filter(Shard::of(&device("KV1")))]).await;
    let mut unit = fixture.raw("KV1", Unit).await;
    let payload: Vec<u8> = (0..proto::limits::FRAME_BYTES_MAX)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    unit.send(&publish(&up, &payload, Some(1))).await;
    let heard = centre.packet().await;
    assert_eq!(pkid_of(&heard), 1);
    assert!(heard.ends_with(&payload));
}

#[tokio::test]
async fn a_beacon_is_there_for_who_comes_later() {
    let fixture = Fixture::start().await;
    let beacon = topic::beacon(Shard::of(&device("KV1")));
    let mut centre = fixture.raw("centre", Centre).await;
    centre
        .send(&retained(publish(&beacon, b"open", Some(1))))
        .await;
    assert_eq!(centre.packet().await, puback(1));
    for (name, purpose) in [("KV1", Unit), ("reader", Reader)] {
        let mut client = fixture.raw(name, purpose).await;
        client.send(&subscribe(1, &[&beacon])).await;
        // The order of SUBACK and message is free.
        let both = [client.packet().await, client.packet().await];
        assert!(both.contains(&vec![0x90, 3, 0, 1, 1]));
        let message = both
            .iter()
            .find(|packet| packet[0] == 0x33)
            .expect("a retained message");
        assert!(message.ends_with(b"open"));
    }
}

/// An owner that was frozen and wakes up has no say, neither by what it had in its socket nor later.
#[tokio::test]
async fn a_former_owner_does_not_replace_the_beacon_of_a_newer_one() {
    let fixture = Fixture::start().await;
    let topic = topic::beacon(Shard::of(&device("KV1")));
    let of_owner = |token| {
        let beacon = Beacon {
            centre: receipt::Centre {
                id: CentreId::from_bytes([1; 16]),
                timeline: 1,
            },
            token,
            build: "1".to_owned(),
            wire_min: WIRE_VERSION_MIN,
            wire_max: WIRE_VERSION,
            intake: Intake::Open,
            sent_at: EventTime::from_millis(0),
            summaries_age_max_ms: 0,
        };
        Down::Beacon(beacon).encode()
    };
    let say = async |centre: &mut Raw, token| {
        let message = retained(publish(&topic, &of_owner(token), Some(1)));
        centre.send(&message).await;
        assert_eq!(centre.packet().await, puback(1));
    };
    let mut sleeper = fixture.raw("sleeper", Centre).await;
    let mut owner = fixture.raw("owner", Centre).await;
    say(&mut sleeper, 5).await;
    say(&mut owner, 6).await;
    say(&mut sleeper, 5).await;
    let mut unit = fixture.raw("KV1", Unit).await;
    unit.send(&subscribe(1, &[&topic])).await;
    let both = [unit.packet().await, unit.packet().await];
    assert!(both.iter().any(|packet| packet.ends_with(&of_owner(6))));
}

#[tokio::test]
async fn deliveries_stop_at_the_window_and_go_on_with_acknowledgements() {
    let fixture = Fixture::with(|config| config.limits.unacknowledged = 3).await;
    let up = topic::up(&device("KV1"));
    let mut centre = fixture.raw("centre", Centre).await;
    subscribed(&mut centre, &[&topic::up_filter(Shard::of(&device("KV1")))]).await;
    let mut unit = fixture.raw("KV1", Unit).await;
    for number in 1..=1_000_u16 {
        unit.send(&publish(&up, &number.to_be_bytes(), None)).await;
    }
    for number in 1..=1_000_u16 {
        let message = centre.packet().await;
        assert!(
            message.ends_with(&number.to_be_bytes()),
            "message {number} comes in its turn"
        );
        if number % 3 == 0 {
            // A ping overtakes nothing: its answer proves that no fourth message was on its way.
            centre.send(b"\xc0\0").await;
            assert_eq!(centre.packet().await, [0xd0, 0]);
            for pkid in number - 2..=number {
                centre.send(&puback(pkid)).await;
            }
        }
    }
}

#[tokio::test]
async fn an_unsubscribe_is_answered_once_whatever_it_names() {
    let fixture = Fixture::start().await;
    let mut centre = fixture.raw("centre", Centre).await;
    let filters: Vec<_> = Shard::all().take(3).map(topic::up_filter).collect();
    let filters: Vec<_> = filters.iter().map(String::as_str).collect();
    subscribed(&mut centre, &filters[..2]).await;
    centre.send(&unsubscribe(5, &filters)).await;
    centre.send(&unsubscribe(6, &filters)).await;
    let answers: HashSet<_> = [centre.packet().await, centre.packet().await].into();
    assert_eq!(
        answers,
        HashSet::from([vec![0xb0, 2, 0, 5], vec![0xb0, 2, 0, 6]])
    );
    centre.send(b"\xc0\0").await;
    assert_eq!(centre.packet().await, [0xd0, 0]);
    subscribed(&mut centre, &filters[..1]).await;
}

#[tokio::test]
async fn a_unit_above_its_rate_is_slowed_down_and_loses_nothing() {
    let fixture = Fixture::with(|config| config.limits.messages_per_s = 200).await;
    let mut witness = Witness::start(&fixture).await;
    let up = topic::up(&device("KV1"));
    let mut centre = fixture.raw("centre", Centre).await;
    subscribed(&mut centre, &[&topic::up_filter(Shard::of(&device("KV1")))]).await;
    let mut unit = fixture.raw("KV1", Unit).await;
    for number in 0..500_u16 {
        unit.send(&publish(&up, &number.to_be_bytes(), None)).await;
    }
    for number in 0..500_u16 {
        let message = centre.packet().await;
        assert!(
            message.ends_with(&number.to_be_bytes()),
            "message {number} comes in its turn"
        );
        centre.send(&puback(pkid_of(&message))).await;
    }
    assert!(fixture.metric("verst_broker_throttled_total").await > 0);
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn a_unit_above_its_bytes_a_second_is_slowed_down_and_loses_nothing() {
    let fixture = Fixture::with(|config| config.limits.bytes_per_s = 500_000).await;
    let up = topic::up(&device("KV1"));
    let mut centre = fixture.raw("centre", Centre).await;
    subscribed(&mut centre, &[&topic::up_filter(Shard::of(&device("KV1")))]).await;
    let mut unit = fixture.raw("KV1", Unit).await;
    for number in 0..30_u8 {
        unit.send(&publish(&up, &[number; 50_000], None)).await;
    }
    for number in 0..30_u8 {
        let message = centre.packet().await;
        assert!(message.ends_with(&[number; 50_000]), "message {number}");
        centre.send(&puback(pkid_of(&message))).await;
    }
    assert!(fixture.metric("verst_broker_throttled_total").await > 0);
}

/// How many of the messages a subscriber hears that acknowledges one at a time, beginning when the
/// last was published, which is among them.
async fn heard_behind_a_ring(publisher: &mut Raw, subscriber: &mut Raw, topic: &str) -> u16 {
    const MESSAGES: u16 = 3_000;
    let payload = |number: u16| [&[0; 1_000][..], &number.to_be_bytes()].concat();
    for number in 1..=MESSAGES {
        let message = publish(topic, &payload(number), Some(number));
        publisher.send(&message).await;
    }
    for number in 1..=MESSAGES {
        assert_eq!(publisher.packet().await, puback(number));
    }
    let (mut heard, mut last) = (0, 0);
    while last < MESSAGES {
        let message = subscriber.packet().await;
        let number = message[message.len() - 2..].try_into().unwrap();
        let number = u16::from_be_bytes(number);
        assert!(number > last, "{number} comes after {last}");
        (heard, last) = (heard + 1, number);
        subscriber.send(&puback(pkid_of(&message))).await;
    }
    heard
}

#[tokio::test]
async fn who_lags_behind_a_ring_loses_the_oldest_and_hears_the_newest() {
    let fixture = Fixture::with(|config| {
        config.limits.unacknowledged = 1;
        config.limits.bytes_per_s = u32::MAX;
        config.limits.messages_per_s = u32::MAX;
        config.router.segment_bytes = 16 * 1024;
        config.router.segments = 4;
        config.router.down_segment_bytes = 16 * 1024;
        config.router.down_segments = 2;
    })
    .await;
    let (up, down) = (topic::up(&device("KV1")), topic::down(&device("KV1")));
    let mut centre = fixture.raw("centre", Centre).await;
    let mut unit = fixture.raw("KV1", Unit).await;
    subscribed(&mut centre, &[&topic::up_filter(Shard::of(&device("KV1")))]).await;
    subscribed(&mut unit, &[&down]).await;
    let up = heard_behind_a_ring(&mut unit, &mut centre, &up).await;
    let down = heard_behind_a_ring(&mut centre, &mut unit, &down).await;
    // The ring, what the router had handed on, and the window: far from 3,000.
    for (ring, heard) in [("shard", up), ("device", down)] {
        assert!((2..1_000).contains(&heard), "of a {ring}: {heard}");
    }
}

/// Without acknowledgements (QoS 0) nothing but the bytes that wait to be written bounds what the
/// gate fetches for a subscriber that does not read.
#[tokio::test]
async fn for_a_subscriber_that_does_not_read_no_more_is_fetched_than_may_wait() {
    const MESSAGES: usize = 2_000;
    let fixture = Fixture::with(|config| {
        config.limits.write_timeout_s = 600;
        config.limits.bytes_per_s = u32::MAX;
    })
    .await;
    let up = topic::up(&device("KV1"));
    let mut deaf = fixture.deaf("centre", Centre).await;
    let mut filter = subscribe(1, &[&topic::up_filter(Shard::of(&device("KV1")))]);
    *filter.last_mut().unwrap() = 0;
    deaf.send(&filter).await;
    assert_eq!(deaf.packet().await, [0x90, 3, 0, 1, 0]);
    let mut unit = fixture.raw("KV1", Unit).await;
    let mut payload = vec![0; 16 * 1024];
    for number in 1..=MESSAGES {
        payload[0] = u8::from(number == MESSAGES);
        unit.send(&publish(&up, &payload, Some(1))).await;
        assert_eq!(unit.packet().await, puback(1));
    }
    let mut heard = 1;
    while deaf.packet().await[payload_at(&up)] == 0 {
        heard += 1;
    }
    // What the kernel holds, what the router had handed on, the ring: a fraction of 32 MB.
    assert!(heard < MESSAGES * 3 / 4, "{heard} of {MESSAGES}");
}

/// Where the payload of a message of QoS 0 with three bytes of length begins.
fn payload_at(topic: &str) -> usize {
    1 + 3 + 2 + topic.len()
}
