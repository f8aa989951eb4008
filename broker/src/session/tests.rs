use std::time::Duration;

use proto::{DeviceId, Shard, topic};

use super::*;
use crate::identity::Role;
use crate::packet::{Connect, Publish, frame};

const LIMITS: SessionLimits = SessionLimits {
    subscriptions_max: 4,
    topics_max: 3,
    window: 2,
};

fn session(role: Role) -> Session {
    Session::new(&Identity::for_test("KV1", role), LIMITS)
}

fn connect(client_id: &str) -> Connect<'_> {
    Connect {
        client_id,
        clean_session: true,
        keep_alive_s: 30,
        has_will: false,
        has_login: false,
    }
}

fn publish(topic: &str) -> Packet<'_> {
    Packet::Publish(Publish {
        topic,
        payload: b"x",
        retain: false,
        pkid: Some(5),
    })
}

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

/// The packets in `out`, as their first bytes and packet identifiers.
fn written(out: &BytesMut) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &out[..];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let len = frame(rest, 10_000).unwrap().unwrap().len;
        found.push((rest[0], rest[2..len].to_vec()));
        rest = &rest[len..];
    }
    found
}

#[test]
fn a_connect_is_judged_against_the_certificate() {
    let unit = Identity::for_test("KV1", Role::Unit);
    let good = connect("KV1");
    let refused = |connect: &Connect<'_>| admit(connect, &unit).unwrap_err();
    assert_eq!(admit(&good, &unit), Ok(Duration::from_secs(30)));
    assert_eq!(refused(&connect("KV2")), ConnectRefusal::Identifier);
    assert_eq!(refused(&connect("")), ConnectRefusal::Identifier);
    assert_eq!(
        refused(&Connect {
            clean_session: false,
            ..good
        }),
        ConnectRefusal::KeptSession
    );
    assert_eq!(
        refused(&Connect {
            has_will: true,
            ..good
        }),
        ConnectRefusal::Will
    );
    assert_eq!(
        refused(&Connect {
            has_login: true,
            ..good
        }),
        ConnectRefusal::Login
    );
}

#[test]
fn the_keep_alive_lies_within_1_and_120_seconds() {
    let unit = Identity::for_test("KV1", Role::Unit);
    for (asked, given) in [(0, 120), (1, 1), (120, 120), (121, 120), (65_535, 120)] {
        let connect = Connect {
            keep_alive_s: asked,
            ..connect("KV1")
        };
        assert_eq!(
            admit(&connect, &unit),
            Ok(Duration::from_secs(given)),
            "{asked}"
        );
    }
}

#[test]
fn a_unit_publishes_its_own_topic_only() {
    let mut unit = session(Role::Unit);
    let own = topic::up(&device("KV1"));
    let step = unit.judge(publish(&own)).unwrap();
    let topic = Bytes::from(own.clone());
    assert_eq!(
        step,
        Step::Publish {
            topic,
            payload: b"x",
            retain: false,
            pkid: Some(5)
        }
    );
    let other = topic::up(&device("KV2"));
    assert_eq!(
        unit.judge(publish(&other)).unwrap_err().label(),
        "publish_topic"
    );
}

#[test]
fn a_topic_that_passed_once_is_not_thereby_free_to_be_retained() {
    let mut centre = session(Role::Centre);
    let down = topic::down(&device("KV2"));
    assert!(centre.judge(publish(&down)).is_ok());
    let retained = Publish {
        topic: &down,
        payload: b"x",
        retain: true,
        pkid: None,
    };
    let violation = centre.judge(Packet::Publish(retained)).unwrap_err();
    assert_eq!(violation.label(), "publish_retain");
}

#[test]
fn the_topics_of_one_connection_are_bounded() {
    let mut centre = session(Role::Centre);
    for name in ["A", "B", "C", "A"] {
        assert!(centre.judge(publish(&topic::down(&device(name)))).is_ok());
    }
    let fourth = topic::down(&device("D"));
    assert_eq!(centre.judge(publish(&fourth)), Err(Violation::Topics(3)));
}

#[test]
fn what_is_granted_is_answered_in_the_order_of_the_requests() {
    let mut unit = session(Role::Unit);
    let (down, beacon) = (
        topic::down(&device("KV1")),
        topic::beacon(Shard::of(&device("KV1"))),
    );
    let filters = vec![
        (down.as_str(), Qos::AtLeastOnce),
        (beacon.as_str(), Qos::AtMostOnce),
    ];
    let step = unit.judge(Packet::Subscribe { pkid: 7, filters }).unwrap();
    assert_eq!(step, Step::Subscribe(vec![&down, &beacon]));
    let leave = Packet::Unsubscribe {
        pkid: 8,
        filters: vec![&down, &beacon, "x"],
    };
    let step = unit.judge(leave).unwrap();
    assert_eq!(step, Step::Unsubscribe(vec![down.clone(), beacon.clone()]));
    let again = Packet::Unsubscribe {
        pkid: 9,
        filters: vec![&down],
    };
    assert_eq!(unit.judge(again), Ok(Step::NotSubscribed(9)));
    let mut out = BytesMut::new();
    unit.subscribed(&mut out);
    unit.unsubscribed(&mut out);
    assert_eq!(
        written(&out),
        [(0x90, vec![0, 7, 1, 0])],
        "one of two filters is gone"
    );
    unit.unsubscribed(&mut out);
    assert_eq!(written(&out)[1], (0xb0, vec![0, 8]));
}

#[test]
fn one_forbidden_filter_refuses_the_whole_subscribe() {
    let mut unit = session(Role::Unit);
    let down = topic::down(&device("KV1"));
    let filters = vec![(down.as_str(), Qos::AtLeastOnce), ("#", Qos::AtLeastOnce)];
    let violation = unit
        .judge(Packet::Subscribe { pkid: 7, filters })
        .unwrap_err();
    assert_eq!(violation, Violation::Subscribe("#".into()));
}

#[test]
fn subscriptions_and_open_requests_are_bounded() {
    let filters: Vec<_> = Shard::all().map(topic::up_filter).collect();
    let mut centre = session(Role::Centre);
    for filter in filters.iter().take(LIMITS.subscriptions_max) {
        let filters = vec![(filter.as_str(), Qos::AtLeastOnce)];
        assert!(centre.judge(Packet::Subscribe { pkid: 1, filters }).is_ok());
    }
    let fifth = vec![(filters[4].as_str(), Qos::AtLeastOnce)];
    let refused = centre.judge(Packet::Subscribe {
        pkid: 1,
        filters: fifth,
    });
    assert_eq!(refused, Err(Violation::Subscriptions(4)));

    let mut centre = session(Role::Centre);
    let same = || vec![(filters[0].as_str(), Qos::AtLeastOnce)];
    for _ in 0..REQUESTS_OPEN_MAX {
        assert!(
            centre
                .judge(Packet::Subscribe {
                    pkid: 1,
                    filters: same()
                })
                .is_ok()
        );
    }
    let refused = centre.judge(Packet::Subscribe {
        pkid: 1,
        filters: same(),
    });
    assert_eq!(refused, Err(Violation::Requests));
}

#[test]
fn messages_come_at_the_level_of_their_subscription() {
    let mut unit = session(Role::Unit);
    let (down, beacon) = (
        topic::down(&device("KV1")),
        topic::beacon(Shard::of(&device("KV1"))),
    );
    let filters = vec![
        (down.as_str(), Qos::AtLeastOnce),
        (beacon.as_str(), Qos::AtMostOnce),
    ];
    unit.judge(Packet::Subscribe { pkid: 1, filters }).unwrap();
    let mut out = BytesMut::new();
    assert!(unit.deliver(down.as_bytes(), b"r", false, &mut out));
    assert!(unit.deliver(beacon.as_bytes(), b"b", true, &mut out));
    let kinds: Vec<_> = written(&out).into_iter().map(|(first, _)| first).collect();
    assert_eq!(kinds, [0x32, 0x31]);
    unit.judge(Packet::Unsubscribe {
        pkid: 2,
        filters: vec![&down],
    })
    .unwrap();
    assert!(unit.deliver(beacon.as_bytes(), b"b", false, &mut out));
    assert_eq!(written(&out)[2].0, 0x30);
}

#[test]
fn nothing_is_delivered_without_a_subscription() {
    let mut unit = session(Role::Unit);
    let mut out = BytesMut::new();
    assert!(!unit.deliver(
        topic::down(&device("KV1")).as_bytes(),
        b"r",
        false,
        &mut out
    ));
    assert!(out.is_empty());
}

#[test]
fn deliveries_wait_for_acknowledgements_and_unasked_ones_end_the_session() {
    let mut unit = session(Role::Unit);
    let down = topic::down(&device("KV1"));
    let filters = vec![(down.as_str(), Qos::AtLeastOnce)];
    unit.judge(Packet::Subscribe { pkid: 1, filters }).unwrap();
    let mut out = BytesMut::new();
    for _ in 0..2 {
        assert!(unit.may_deliver());
        unit.deliver(down.as_bytes(), b"r", false, &mut out);
    }
    assert!(!unit.may_deliver());
    assert_eq!(unit.judge(Packet::PubAck(1)), Ok(Step::Taken));
    assert!(unit.may_deliver());
    assert_eq!(unit.judge(Packet::PubAck(1)), Err(Violation::PubAck(1)));
}

#[test]
fn connect_is_the_first_packet_only() {
    let violation = session(Role::Unit).judge(Packet::Connect(connect("KV1")));
    assert_eq!(violation, Err(Violation::ConnectAgain));
}
