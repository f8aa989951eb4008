//! What a client with a good certificate may try, while a witness goes on undisturbed.

use broker::pki::Purpose::{self, Centre, Reader, Unit};
use proto::{DeviceId, Shard, topic};
use rumqttc::QoS;

use crate::fixture::Fixture;
use crate::raw::{self, puback, publish, retained, subscribe};
use crate::witness::{UNIT, Witness};

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

/// Sends bytes as each of the roles given, twice; each time the connection ends for `reason`.
async fn is_closed_for(reason: &str, attacks: &[(Purpose, Vec<u8>)]) {
    let fixture = Fixture::start().await;
    let mut witness = Witness::start(&fixture).await;
    for (purpose, bytes) in attacks {
        for _reconnect in 0..2 {
            let mut client = fixture.raw(&format!("mallory-{purpose:?}"), *purpose).await;
            client.send(bytes).await;
            client.is_closed().await;
            // Until its name is free: the next one shall not displace it.
            fixture.until("verst_broker_connections_open", 2).await;
        }
    }
    let count = 2 * attacks.len() as u64;
    let metric = format!("verst_broker_violations_total{{reason=\"{reason}\"}}");
    fixture.until(&metric, count).await;
    let closed = "verst_broker_connections_closed_total{reason=\"violation\"}";
    assert_eq!(fixture.metric(closed).await, count);
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn topics_of_others_and_of_nobody_are_refused() {
    let mut attacks = Vec::new();
    for purpose in [Unit, Centre, Reader] {
        let own_down = topic::down(&device("mallory-Unit"));
        for name in [
            "é/x",
            "é",
            "$SYS/broker",
            "verst.canary",
            "a",
            "/",
            &topic::up(&device(UNIT)),
        ] {
            attacks.push((purpose, publish(name, b"x", Some(1))));
            attacks.push((purpose, publish(name, b"x", None)));
        }
        if purpose != Centre {
            attacks.push((purpose, publish(&own_down, b"x", Some(1))));
            attacks.push((
                purpose,
                publish(&topic::beacon(Shard::of(&device(UNIT))), b"x", None),
            ));
        }
    }
    is_closed_for("publish_topic", &attacks).await;
}

/// One unit, and everything that is nearly its own topic.
#[tokio::test]
async fn what_is_nearly_its_own_topic_is_refused_to_a_unit() {
    let own = topic::up(&device("mallory-Unit"));
    let shard = Shard::of(&device("mallory-Unit"));
    let other = Shard::all().find(|one| *one != shard).unwrap();
    let name = |shard: Shard| topic::up_filter(shard).replace('+', "mallory-Unit");
    assert_eq!(name(shard), own);
    let mut attacks = Vec::new();
    for topic in [
        format!("{own}/"),
        format!("{own}/x"),
        format!("/{own}"),
        format!("$share/g/{own}"),
        format!("$SYS/{own}"),
        own.replace('/', "//"),
        own.replacen("/1/", "//1/", 1),
        own.replace("/1/", "/2/"),
        own.to_uppercase(),
        own.replace("mallory", "маllоrу"),
        own.replace("mallory-Unit", ""),
        own.replace("mallory-Unit", "mallory-Unit\u{301}"),
        own[..own.len() - 3].to_owned(),
        name(other),
        "x".repeat(usize::from(u16::MAX)),
    ] {
        attacks.push((Unit, publish(&topic, b"x", Some(1))));
    }
    is_closed_for("publish_topic", &attacks).await;
}

#[tokio::test]
async fn topics_that_are_none_are_refused() {
    let mut attacks = Vec::new();
    for topic in [
        &b"#"[..],
        b"+",
        b"",
        b"verst/1/+/mallory-Unit/up",
        b"verst/1/00/#",
        b"a\0b",
        b"\xff",
        b"\xed\xa0\x80",
        b"verst\xc0\xaf1",
        b"\xe2\x82",
    ] {
        attacks.push((Unit, publish(topic, b"x", Some(1))));
        attacks.push((Centre, publish(topic, b"x", None)));
    }
    is_closed_for("topic_form", &attacks).await;
}

#[tokio::test]
async fn only_beacons_are_retained_and_only_by_the_centre() {
    let up = topic::up(&device("mallory-Unit"));
    let down = topic::down(&device(UNIT));
    let attacks = [
        (Unit, retained(publish(&up, b"x", Some(1)))),
        (Unit, retained(publish(&up, b"", None))),
        (Centre, retained(publish(&down, b"x", Some(1)))),
    ];
    is_closed_for("publish_retain", &attacks).await;
}

#[tokio::test]
async fn filters_beyond_the_role_are_refused() {
    let (own, other) = (device("mallory-Unit"), device(UNIT));
    let share = format!("$share/g/{}", topic::down(&own));
    let mut attacks = Vec::new();
    for filter in [
        "#",
        "+",
        "+/#",
        "verst/#",
        "verst/1/+/+/up",
        "$SYS/#",
        "$share/g/#",
        "$share",
        "é",
        "",
        "verst.canary",
        "verst/1/00/+/down",
        &share,
    ] {
        attacks.push((Unit, subscribe(1, &[filter])));
        attacks.push((Centre, subscribe(1, &[filter])));
        attacks.push((Reader, subscribe(1, &[filter])));
    }
    attacks.push((
        Unit,
        subscribe(1, &[&topic::down(&own), &topic::down(&other)]),
    ));
    attacks.push((Unit, subscribe(1, &[&topic::up_filter(Shard::of(&own))])));
    attacks.push((Reader, subscribe(1, &[&topic::up_filter(Shard::of(&own))])));
    is_closed_for("subscribe", &attacks).await;
}

#[tokio::test]
async fn packets_that_only_a_server_sends_are_refused() {
    let mut attacks = Vec::new();
    for kind in [0x00, 0x20, 0x50, 0x62, 0x70, 0x90, 0xb0, 0xd0, 0xf0_u8] {
        attacks.push((Unit, vec![kind, 2, 0, 1]));
        attacks.push((Centre, vec![kind, 3, 0, 1, 0]));
    }
    is_closed_for("packet_kind", &attacks).await;
}

#[tokio::test]
async fn malformed_packets_are_refused() {
    let attacks = [
        b"\x82\x02\0\x01".to_vec(),
        b"\xa2\x01\0".to_vec(),
        b"\xa2\x05\0\x01\0\x09a".to_vec(),
        b"\x40\x00".to_vec(),
        b"\x40\x03\0\x01\0".to_vec(),
        b"\x32\x04\0\x09ab".to_vec(),
        b"\xc0\x01x".to_vec(),
        b"\xe0\x01x".to_vec(),
        b"\x30\x80\x80\x80\x80\x01".to_vec(),
        b"\x83\x02\0\x01".to_vec(),
        b"\x30\x00".to_vec(),
    ];
    is_closed_for("malformed", &attacks.map(|bytes| (Unit, bytes))).await;
}

#[tokio::test]
async fn garbage_after_a_good_connect_ends_only_its_sender() {
    let fixture = Fixture::start().await;
    let mut witness = Witness::start(&fixture).await;
    for seed in 0..40_u8 {
        let mut client = fixture.raw(&format!("mallory{seed}"), Unit).await;
        let garbage: Vec<u8> = (0..200_u8)
            .map(|at| seed.wrapping_mul(73) ^ at.wrapping_mul(151) ^ (at >> 3))
            .collect();
        client.send(&garbage).await;
        // Whatever it began with: a packet that is never finished is ended by the goodbye.
        client.stream.get_mut().0.set_zero_linger().unwrap();
        drop(client);
    }
    fixture.until("verst_broker_connections_open", 2).await;
    witness.is_undisturbed().await;
}

#[tokio::test]
async fn a_packet_above_the_limit_is_refused_by_its_header_alone() {
    let header = |bytes: usize| {
        let mut packet = vec![0x32];
        let mut left = bytes;
        while left > 0 {
            packet.push(u8::try_from(left & 0x7f).unwrap() | if left > 0x7f { 0x80 } else { 0 });
            left >>= 7;
        }
        packet
    };
    let limit = broker::config::PACKET_BYTES_MAX;
    let attacks = [(Unit, header(limit)), (Centre, header(268_435_455))];
    is_closed_for("packet_too_large", &attacks).await;
}

#[tokio::test]
async fn acknowledgements_that_nobody_asked_for_are_refused() {
    let attacks = [
        (Unit, puback(1)),
        (Centre, puback(65_535)),
        (Reader, puback(100)),
    ];
    is_closed_for("puback", &attacks).await;
}

#[tokio::test]
async fn a_second_connect_is_refused() {
    let attacks = [
        (Unit, raw::connect("mallory-Unit")),
        (Centre, raw::connect("mallory-Centre")),
    ];
    is_closed_for("connect_again", &attacks).await;
}

#[tokio::test]
async fn messages_of_qos_2_are_refused() {
    let mut publish = publish(&topic::up(&device("mallory-Unit")), b"x", Some(1));
    publish[0] = 0x34;
    is_closed_for("qos", &[(Unit, publish)]).await;
}

/// What killed the router: a subscriber for whom messages wait, and who leaves in whatever way.
#[tokio::test]
async fn a_subscriber_with_a_backlog_may_leave_in_any_way() {
    // The witness itself makes the backlog, faster than a unit may.
    let fixture = Fixture::with(|config| config.limits.bytes_per_s = u32::MAX).await;
    let mut witness = Witness::start(&fixture).await;
    let unit = device(UNIT);
    let (up, filter) = (topic::up(&unit), topic::up_filter(Shard::of(&unit)));
    let bad = publish("é/x", b"x", None);
    let farewells: [&[u8]; 5] = [b"\xe0\0", &bad, b"", b"\xb0\x02\0\x01", &puback(999)];
    for farewell in farewells {
        let mut slow = fixture.raw("slow-centre", Centre).await;
        slow.send(&subscribe(1, &[&filter])).await;
        assert_eq!(slow.packet().await, [0x90, 3, 0, 1, 1]);
        // More than the router keeps for one link, than the window, and than the socket takes.
        for _ in 0..400 {
            let payload = vec![7; 16 * 1024];
            witness
                .unit
                .client
                .publish(&up, QoS::AtLeastOnce, false, payload)
                .await
                .unwrap();
        }
        witness.is_undisturbed().await;
        slow.send(farewell).await;
        if farewell.is_empty() {
            slow.stream.get_mut().0.set_zero_linger().unwrap();
        }
        drop(slow);
        fixture.until("verst_broker_connections_open", 2).await;
        witness.is_undisturbed().await;
    }
}

#[tokio::test]
async fn a_client_that_floods_pings_and_reads_nothing_disturbs_nobody() {
    let fixture = Fixture::with(|config| config.limits.write_timeout_s = 3).await;
    let mut witness = Witness::start(&fixture).await;
    let mut client = fixture.deaf("mallory", Centre).await;
    let bytes = async |way: &str| {
        let name = format!("verst_broker_bytes_{way}_total");
        fixture.metric(&name).await
    };
    let (received, sent) = (bytes("received").await, bytes("sent").await);
    let pings = b"\xc0\0".repeat(50_000);
    let flood = async {
        use tokio::io::AsyncWriteExt as _;
        while client.stream.write_all(&pings).await.is_ok() {}
    };
    let check = async {
        fixture
            .until("verst_broker_connections_closed_total{reason=\"stuck\"}", 1)
            .await;
    };
    tokio::join!(flood, check);
    // Each ping is answered by as many bytes: the difference has waited.
    let received = bytes("received").await - received;
    let waited = received.saturating_sub(bytes("sent").await - sent);
    assert!(waited < 700_000, "{waited} bytes waited to be written");
    witness.is_undisturbed().await;
}
