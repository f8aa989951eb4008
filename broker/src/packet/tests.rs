use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

const LIMIT: usize = 4_096;

fn read(bytes: &[u8]) -> Result<Packet<'_>, PacketError> {
    let found = frame(bytes, LIMIT)?.expect("a whole packet");
    assert_eq!(found.len, bytes.len());
    found.read(bytes)
}

#[test]
fn packets_of_a_good_client_are_read() {
    assert_eq!(
        read(b"\x10\x0e\0\x04MQTT\x04\x02\0\x1e\0\x02KV"),
        Ok(Packet::Connect(Connect {
            client_id: "KV",
            clean_session: true,
            keep_alive_s: 30,
            has_will: false,
            has_login: false,
        }))
    );
    assert_eq!(
        read(b"\x33\x08\0\x02a/\0\x07xy"),
        Ok(Packet::Publish(Publish {
            topic: "a/",
            payload: b"xy",
            retain: true,
            pkid: Some(7)
        }))
    );
    assert_eq!(
        read(b"\x30\x03\0\x01a"),
        Ok(Packet::Publish(Publish {
            topic: "a",
            payload: b"",
            retain: false,
            pkid: None
        }))
    );
    assert_eq!(read(b"\x40\x02\0\x09"), Ok(Packet::PubAck(9)));
    assert_eq!(
        read(b"\x82\x0a\0\x01\0\x01a\x01\0\x01b\x02"),
        Ok(Packet::Subscribe {
            pkid: 1,
            filters: vec![("a", Qos::AtLeastOnce), ("b", Qos::AtLeastOnce)]
        })
    );
    assert_eq!(
        read(b"\xa2\x05\0\x01\0\x01a"),
        Ok(Packet::Unsubscribe {
            pkid: 1,
            filters: vec!["a"]
        })
    );
    assert_eq!(read(b"\xc0\0"), Ok(Packet::PingReq));
    assert_eq!(read(b"\xe0\0"), Ok(Packet::Disconnect));
}

#[test]
fn packets_that_no_client_may_send_are_refused() {
    let cases: &[(&[u8], PacketError)] = &[
        (b"\x00\0", PacketError::Kind(0)),
        (b"\x20\x02\0\0", PacketError::Kind(2)),
        (b"\x50\x02\0\x01", PacketError::Kind(5)),
        (b"\x62\x02\0\x01", PacketError::Kind(6)),
        (b"\x70\x02\0\x01", PacketError::Kind(7)),
        (b"\x90\x03\0\x01\0", PacketError::Kind(9)),
        (b"\xb0\x02\0\x01", PacketError::Kind(11)),
        (b"\xd0\0", PacketError::Kind(13)),
        (b"\xf0\0", PacketError::Kind(15)),
        (b"\x80\x06\0\x01\0\x01a\0", PacketError::Reserved(8)),
        (b"\xc1\0", PacketError::Reserved(12)),
        (b"\xc0\x01x", PacketError::Form(12)),
        (b"\xe0\x02\0\0", PacketError::Form(14)),
        (b"\x40\x02\0\0", PacketError::PacketId),
        (b"\x40\x03\0\x01x", PacketError::Form(4)),
        (b"\x40\x01\0", PacketError::Form(4)),
        (b"\x32\x05\0\x01a\0\0", PacketError::PacketId),
        (b"\x34\x05\0\x01a\0\x01", PacketError::Qos(2)),
        (b"\x36\x05\0\x01a\0\x01", PacketError::Qos(3)),
        (b"\x38\x03\0\x01a", PacketError::Reserved(3)),
        (b"\x30\x02\0\0", PacketError::Topic),
        (b"\x30\x03\0\x01#", PacketError::Topic),
        (b"\x30\x03\0\x01\0", PacketError::Topic),
        (b"\x30\x03\0\x01\xff", PacketError::Topic),
        (b"\x30\x03\0\x09a", PacketError::Form(3)),
        (b"\x82\x02\0\x01", PacketError::Form(8)),
        (b"\x82\x06\0\x01\0\x01a\x03", PacketError::Qos(3)),
        (b"\xa2\x02\0\x01", PacketError::Form(10)),
        (
            b"\x10\x0e\0\x04MQTT\x05\x02\0\x1e\0\x02KV",
            PacketError::Protocol,
        ),
        (
            b"\x10\x0e\0\x04MQTT\x04\x03\0\x1e\0\x02KV",
            PacketError::Reserved(1),
        ),
        (
            b"\x10\x0e\0\x04MQTT\x04\x22\0\x1e\0\x02KV",
            PacketError::Reserved(1),
        ),
        (
            b"\x10\x0e\0\x04MQTT\x04\x42\0\x1e\0\x02KV",
            PacketError::Form(1),
        ),
    ];
    for (bytes, expected) in cases {
        assert_eq!(read(bytes), Err(expected.clone()), "{bytes:02x?}");
    }
}

#[test]
fn a_length_is_judged_before_the_body_arrives() {
    assert_eq!(frame(b"", LIMIT), Ok(None));
    assert_eq!(frame(b"\x30", LIMIT), Ok(None));
    assert_eq!(frame(b"\x30\xff\xff", LIMIT), Ok(None));
    assert_eq!(
        frame(b"\x30\xff\xff\xff\x7f", LIMIT),
        Err(PacketError::TooLarge {
            bytes: 268_435_460,
            limit: LIMIT
        })
    );
    assert_eq!(
        frame(b"\x30\xff\xff\xff\xff", LIMIT),
        Err(PacketError::Length)
    );
    assert_eq!(
        frame(&[0x30, 0x81, 0x20], LIMIT),
        Err(PacketError::TooLarge {
            bytes: LIMIT + 4,
            limit: LIMIT
        })
    );
}

#[test]
fn answers_have_the_form_of_the_standard() {
    let mut out = BytesMut::new();
    put_connack(&mut out, ConnectCode::NotAuthorized);
    put_puback(&mut out, 0x0102);
    put_suback(&mut out, 3, &[Qos::AtMostOnce, Qos::AtLeastOnce]);
    put_unsuback(&mut out, 4);
    put_pingresp(&mut out);
    assert_eq!(
        &out[..],
        b"\x20\x02\0\x05\x40\x02\x01\x02\x90\x04\0\x03\0\x01\xb0\x02\0\x04\xd0\0"
    );
}

proptest! {
    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(Some(found)) = frame(&bytes, LIMIT) {
            found.read(&bytes).ok();
        }
    }

    #[test]
    fn a_body_of_any_bytes_is_read_whole_or_refused(
        kind in 0_u8..=255,
        body in proptest::collection::vec(any::<u8>(), 0..127),
    ) {
        let mut bytes = vec![kind, u8::try_from(body.len()).unwrap()];
        bytes.extend(&body);
        read(&bytes).ok();
    }

    #[test]
    fn a_publish_survives_being_written(
        topic in "[a-z/]{1,200}",
        payload in proptest::collection::vec(any::<u8>(), 0..600),
        retain: bool,
        pkid in proptest::option::of(1_u16..),
    ) {
        let mut out = BytesMut::new();
        put_publish(&mut out, topic.as_bytes(), &payload, retain, pkid);
        let expected = Publish { topic: &topic, payload: &payload, retain, pkid };
        prop_assert_eq!(read(&out), Ok(Packet::Publish(expected)));
    }
}
