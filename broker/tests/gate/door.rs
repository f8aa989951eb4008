//! From the accept to CONNACK: who is let in.

use std::time::Duration;

use broker::pki::Purpose::{Centre, Reader, Unit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::fixture::{DAY_MS, Fixture, PATIENCE};
use crate::raw::{self, connect, connect_with};
use crate::witness::Witness;

#[tokio::test]
async fn each_role_is_welcomed_under_the_name_in_its_certificate() {
    let fixture = Fixture::start().await;
    let _kept = [
        fixture.raw("KV1", Unit).await,
        fixture.raw("centre", Centre).await,
        fixture.raw("reader", Reader).await,
    ];
    fixture.until("verst_broker_connections_open", 3).await;
}

#[tokio::test]
async fn tls_1_2_is_spoken_with_the_same_rules() {
    let fixture = Fixture::start().await;
    fixture.issue("KV1", Unit);
    let mut client = raw::Raw::new(fixture.tls(fixture.tls12_config("KV1")).await.unwrap());
    client.send(&connect("KV1")).await;
    assert_eq!(client.packet().await, raw::CONNACK_ACCEPTED);
    fixture.revoke("KV1");
    client.is_closed().await;
    assert!(fixture.tls(fixture.tls12_config("KV1")).await.is_err());
}

#[tokio::test]
async fn what_a_connect_may_not_ask_for_is_refused_with_its_code() {
    let fixture = Fixture::start().await;
    let mut witness = Witness::start(&fixture).await;
    let will = b"\0\x01t\0\x01m";
    let login = b"\0\x01u\0\x01p";
    let cases = [
        (
            "another name",
            connect("KV2"),
            2,
            "connects_refused_total{reason=\"identifier\"}",
        ),
        (
            "a kept session",
            connect_with(4, 0, 30, "KV1", b""),
            5,
            "connects_refused_total{reason=\"kept_session\"}",
        ),
        (
            "a will",
            connect_with(4, 0x06, 30, "KV1", will),
            5,
            "connects_refused_total{reason=\"will\"}",
        ),
        (
            "a login",
            connect_with(4, 0xc2, 30, "KV1", login),
            5,
            "connects_refused_total{reason=\"login\"}",
        ),
        (
            "MQTT 3.1",
            connect_with(3, 2, 30, "KV1", b""),
            1,
            "handshake_failures_total{reason=\"packet\"}",
        ),
    ];
    for (what, connect, code, metric) in cases {
        let mut client = fixture.silent("KV1", Unit).await;
        client.send(&connect).await;
        assert_eq!(client.packet().await, [0x20, 2, 0, code], "{what}");
        client.is_closed().await;
        fixture.until(&format!("verst_broker_{metric}"), 1).await;
    }
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn client_ids_that_the_router_stumbles_over_are_refused_again_and_again() {
    let fixture = Fixture::start().await;
    let mut witness = Witness::start(&fixture).await;
    for client_id in [
        "+",
        "$SYS",
        "#",
        "a/b",
        "+$#/",
        "é",
        "",
        "verst.canary",
        "verst.barrier",
    ] {
        for _retry in 0..2 {
            let mut client = fixture.silent("KV1", Unit).await;
            client.send(&connect(client_id)).await;
            assert_eq!(client.packet().await, [0x20, 2, 0, 2], "{client_id}");
            client.is_closed().await;
        }
    }
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn a_version_5_client_with_an_unsuback_and_a_reconnect_disturbs_nobody() {
    let fixture = Fixture::start().await;
    let mut witness = Witness::start(&fixture).await;
    for _reconnect in 0..2 {
        let mut client = fixture.silent("KV1", Unit).await;
        client.send(&connect_with(5, 0x02, 30, "KV1", b"")).await;
        client.send(b"\xb0\x04\0\x01\0\0").await;
        assert_eq!(client.packet().await, [0x20, 2, 0, 1]);
    }
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn anything_but_a_connect_first_is_closed() {
    let fixture = Fixture::start().await;
    let mut witness = Witness::start(&fixture).await;
    let long_name = connect(&"x".repeat(2_000));
    let cases: &[&[u8]] = &[
        b"\xc0\0",
        b"\xe0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 64],
        &raw::publish("a", b"x", None),
        &long_name,
        b"\x10\xff\xff\xff\x7f",
        b"\x10\x0e\0\x04MQTT\x04\x03\0\x1e\0\x03KV1",
    ];
    for bytes in cases {
        let mut client = fixture.silent("KV1", Unit).await;
        client.send(bytes).await;
        client.is_closed().await;
    }
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn nobody_enters_without_a_certificate_in_force() {
    let fixture = Fixture::start().await;
    let mut witness = Witness::start(&fixture).await;
    let mut anonymous = Vec::new();
    // Under TLS 1.3 the client learns of the refusal with its first read.
    if let Ok(mut stream) = fixture.tls(fixture.anonymous_config()).await {
        stream.read_to_end(&mut anonymous).await.ok();
    }
    assert!(anonymous.is_empty());
    fixture.issue_ending("KV-old", -DAY_MS);
    fixture.issue("KV-gone", Unit);
    fixture.revoke("KV-gone");
    fixture.until("verst_broker_reloads_total", 1).await;
    for name in ["KV-old", "KV-gone"] {
        let Ok(stream) = fixture.tls(fixture.client_config(name)).await else {
            continue;
        };
        let mut client = raw::Raw::new(stream);
        client.send(&connect(name)).await;
        client.is_closed().await;
    }
    fixture
        .until("verst_broker_handshake_failures_total{reason=\"tls\"}", 3)
        .await;
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn a_server_certificate_opens_no_door() {
    let fixture = Fixture::start().await;
    if let Ok(stream) = fixture.tls(fixture.client_config("broker")).await {
        let mut client = raw::Raw::new(stream);
        client.send(&connect("broker")).await;
        client.is_closed().await;
    }
    fixture
        .until("verst_broker_handshake_failures_total{reason=\"tls\"}", 1)
        .await;
}

#[tokio::test]
async fn silent_connections_hold_up_nobody() {
    let fixture = Fixture::start().await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(fixture.tcp().await);
    }
    fixture.until("verst_broker_handshakes_open", 50).await;
    let mut witness = Witness::start(&fixture).await;
    witness.is_undisturbed().await;
    assert_eq!(fixture.metric("verst_broker_handshakes_open").await, 50);
}

#[tokio::test]
async fn silent_connections_that_fill_every_place_give_way() {
    let fixture = Fixture::with(|config| {
        config.limits.handshakes = 4;
        config.limits.connect_timeout_s = 60;
    })
    .await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(fixture.tcp().await);
    }
    fixture.until("verst_broker_handshakes_open", 4).await;
    let mut witness = Witness::start(&fixture).await;
    witness.is_undisturbed().await;
    // As many as were in the way, not necessarily all.
    let crowded_out = "verst_broker_handshake_failures_total{reason=\"crowded\"}";
    assert!(fixture.metric(crowded_out).await > 0);
}

#[tokio::test]
async fn silence_before_and_after_the_handshake_has_a_deadline() {
    let fixture = Fixture::with(|config| config.limits.connect_timeout_s = 1).await;
    let mut tcp = fixture.tcp().await;
    let mut tls = fixture.silent("KV1", Unit).await;
    let mut nothing = Vec::new();
    timeout(PATIENCE, tcp.read_to_end(&mut nothing))
        .await
        .unwrap()
        .ok();
    assert!(nothing.is_empty());
    tls.is_closed().await;
    fixture
        .until(
            "verst_broker_handshake_failures_total{reason=\"timeout\"}",
            2,
        )
        .await;
}

/// A byte now and then is no progress: the deadline is that of the whole.
#[tokio::test]
async fn a_handshake_and_a_connect_that_drip_end_at_the_deadline() {
    let fixture = Fixture::with(|config| config.limits.connect_timeout_s = 1).await;
    let mut tcp = fixture.tcp().await;
    let mut tls = fixture.silent("KV1", Unit).await;
    // A record of 16 KiB with one long hello in it, and a name that is still within its limit.
    let mut hello = vec![0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb];
    hello.resize(900, 0);
    let drops = connect(&"x".repeat(850));
    let (mut hellos, mut connects) = (hello.iter(), drops.iter());
    let (mut tcp_ended, mut tls_ended) = (false, false);
    while !(tcp_ended && tls_ended) {
        let pause = Duration::from_millis(20);
        if !tcp_ended {
            let byte = *hellos.next().expect("the deadline comes first");
            tcp.write_all(&[byte]).await.ok();
            tcp_ended = timeout(pause, tcp.read_u8()).await.is_ok();
        }
        if !tls_ended {
            let byte = *connects.next().expect("the deadline comes first");
            tls.send(&[byte]).await;
            tls_ended = timeout(pause, tls.stream.read_u8()).await.is_ok();
        }
    }
    let timeouts = "verst_broker_handshake_failures_total{reason=\"timeout\"}";
    fixture.until(timeouts, 2).await;
}

#[tokio::test]
async fn more_newcomers_at_a_time_than_links_are_made_all_come_in() {
    let fixture = Fixture::start().await;
    let names: Vec<String> = (0..24).map(|number| format!("KV{number}")).collect();
    for name in &names {
        fixture.issue(name, Unit);
    }
    let coming = names.iter().map(|name| fixture.raw(name, Unit));
    let _kept = futures_util::future::join_all(coming).await;
    fixture.until("verst_broker_connections_open", 24).await;
}

#[tokio::test]
async fn a_full_broker_refuses_the_newcomer_and_takes_it_when_there_is_room() {
    let fixture = Fixture::with(|config| config.limits.connections = 3).await;
    let mut witness = Witness::start(&fixture).await;
    let mut third = fixture.raw("KV1", Unit).await;
    for _retry in 0..5 {
        let mut refused = fixture.silent("KV2", Unit).await;
        refused.send(&connect("KV2")).await;
        assert_eq!(refused.packet().await, [0x20, 2, 0, 3]);
    }
    third.send(b"\xe0\0").await;
    third.is_closed().await;
    fixture.until("verst_broker_connections_open", 2).await;
    let entered = async {
        loop {
            let mut client = fixture.silent("KV2", Unit).await;
            client.send(&connect("KV2")).await;
            if client.packet().await == raw::CONNACK_ACCEPTED {
                return client;
            }
        }
    };
    let _entered = timeout(PATIENCE, entered).await.expect("there is room");
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    let fixture = Fixture::start().await;
    let mut silent = fixture.silent("KV1", Unit).await;
    silent.send(&connect_with(4, 0x02, 1, "KV1", b"")).await;
    assert_eq!(silent.packet().await, raw::CONNACK_ACCEPTED);
    // A packet that never ends is silence, too.
    silent.send(b"\x30\x7f").await;
    timeout(Duration::from_secs(50), silent.is_closed())
        .await
        .unwrap();
    fixture
        .until("verst_broker_connections_closed_total{reason=\"idle\"}", 1)
        .await;
}
