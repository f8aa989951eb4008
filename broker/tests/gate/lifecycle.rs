//! Takeover, revocation, new certificates, the orderly stop.

use broker::pki::Purpose::{Centre, Unit};
use proto::{DeviceId, Shard, topic};
use tokio::time::timeout;

use crate::fixture::{Fixture, PATIENCE};
use crate::raw::{connect, puback, publish, subscribe};
use crate::witness::Witness;

#[tokio::test]
async fn a_second_connection_of_a_name_displaces_the_first() {
    let fixture = Fixture::start().await;
    let mut witness = Witness::start(&fixture).await;
    let device = DeviceId::new("KV1").unwrap();
    let mut first = fixture.raw("KV1", Unit).await;
    first.send(&subscribe(1, &[&topic::down(&device)])).await;
    assert_eq!(first.packet().await, [0x90, 3, 0, 1, 1]);
    let mut second = fixture.raw("KV1", Unit).await;
    first.is_closed().await;
    second.send(&subscribe(2, &[&topic::down(&device)])).await;
    assert_eq!(second.packet().await, [0x90, 3, 0, 2, 1]);
    second
        .send(&publish(&topic::up(&device), b"x", Some(1)))
        .await;
    assert_eq!(second.packet().await, puback(1));
    let mut centre = fixture.raw("centre", Centre).await;
    centre
        .send(&publish(&topic::down(&device), b"receipt", None))
        .await;
    assert!(second.packet().await.ends_with(b"receipt"));
    assert_eq!(fixture.metric("verst_broker_takeovers_total").await, 1);
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn two_devices_that_fight_for_a_name_are_slowed_down() {
    let fixture = Fixture::start().await;
    let mut held = fixture.raw("KV1", Unit).await;
    for _ in 0..5 {
        held = fixture.raw("KV1", Unit).await;
    }
    let mut refused = fixture.silent("KV1", Unit).await;
    refused.send(&connect("KV1")).await;
    assert_eq!(refused.packet().await, [0x20, 2, 0, 3]);
    held.send(b"\xc0\0").await;
    assert_eq!(held.packet().await, [0xd0, 0], "who is connected stays so");
}

#[tokio::test]
async fn a_revocation_closes_the_live_connection_and_no_other() {
    let fixture = Fixture::start().await;
    let mut witness = Witness::start(&fixture).await;
    let mut revoked = fixture.raw("KV1", Unit).await;
    fixture.revoke("KV1");
    revoked.is_closed().await;
    fixture
        .until(
            "verst_broker_connections_closed_total{reason=\"revoked\"}",
            1,
        )
        .await;
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn a_live_connection_ends_with_its_certificate() {
    let fixture = Fixture::start().await;
    fixture.issue_ending("KV1", 4_000);
    let mut unit = fixture.raw("KV1", Unit).await;
    unit.is_closed().await;
    let expired = "verst_broker_connections_closed_total{reason=\"expired\"}";
    fixture.until(expired, 1).await;
}

#[tokio::test]
async fn a_changed_list_is_noticed_without_being_told() {
    let fixture = Fixture::with(|config| config.listen.reload_interval_s = 1).await;
    let mut revoked = fixture.raw("KV1", Unit).await;
    fixture.revoke_quietly("KV1");
    revoked.is_closed().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_old_ones_in_force() {
    let fixture = Fixture::start().await;
    let mut witness = Witness::start(&fixture).await;
    fixture.damage_key();
    fixture.broker.reload.notify_one();
    fixture.until("verst_broker_reload_failures_total", 1).await;
    let _newcomer = fixture.raw("KV1", Unit).await;
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn the_stop_acknowledges_what_was_taken_and_closes_in_order() {
    let fixture = Fixture::start().await;
    let device = DeviceId::new("KV1").unwrap();
    let mut unit = fixture.raw("KV1", Unit).await;
    let mut centre = fixture.raw("centre", Centre).await;
    centre
        .send(&subscribe(1, &[&topic::up_filter(Shard::of(&device))]))
        .await;
    assert_eq!(centre.packet().await, [0x90, 3, 0, 1, 1]);
    unit.send(&publish(&topic::up(&device), b"x", Some(1)))
        .await;
    assert_eq!(unit.packet().await, puback(1));
    let address = fixture.broker.address;
    fixture.stop.cancel();
    unit.is_closed().await;
    let ended = timeout(PATIENCE, fixture.broker.join())
        .await
        .expect("the stop takes too long");
    assert_eq!(ended, Ok(()));
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "nobody listens any more"
    );
}

/// Its goodbye waits behind what it does not read.
#[tokio::test]
async fn a_connection_that_does_not_end_is_cut_with_the_process_after_the_grace() {
    const MESSAGES: u16 = 1_000;
    let fixture = Fixture::with(|config| {
        config.limits.grace_s = 0;
        config.limits.bytes_per_s = u32::MAX;
    })
    .await;
    let device = DeviceId::new("KV1").unwrap();
    let mut deaf = fixture.deaf("centre", Centre).await;
    deaf.send(&subscribe(1, &[&topic::up_filter(Shard::of(&device))]))
        .await;
    assert_eq!(deaf.packet().await, [0x90, 3, 0, 1, 1]);
    let mut unit = fixture.raw("KV1", Unit).await;
    for number in 1..=MESSAGES {
        let message = publish(&topic::up(&device), &[0; 16 * 1024], Some(number));
        unit.send(&message).await;
        assert_eq!(unit.packet().await, puback(number));
    }
    fixture.stop.cancel();
    let ended = timeout(PATIENCE, fixture.broker.join()).await;
    let stuck = ended.expect("the stop has an end").unwrap_err();
    assert!(stuck.names.contains(&"connection"), "{stuck}");
}
