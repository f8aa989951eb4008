//! Messages on their way: acknowledgements, retained beacons, windows, rates.

use std::collections::HashSet;

use broker::pki::Purpose::{Centre, Reader, Unit};
use proto::{DeviceId, Shard, topic};

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
