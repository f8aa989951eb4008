//! The corner of MQTT 3.1.1 that a unit needs, as bytes: packets out, packets in.
//!
//! Pure. Lean on purpose: a thousand units share one process with what they measure, so a packet is
//! appended to a buffer that goes out in one write, and a payload that came in is a slice of the
//! buffer that it came in. Bytes from the network end in an error, never in a panic, and a packet
//! above [`PACKET_BYTES_MAX`] ends the connection before it is waited for.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use proto::limits::FRAME_BYTES_MAX;

/// The largest packet that is read: a frame, its topic and the packet's own header.
pub const PACKET_BYTES_MAX: usize = FRAME_BYTES_MAX + 1_024;

/// A remaining length takes at most this many bytes (section 2.2.3).
const LENGTH_BYTES_MAX: usize = 4;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
/// Type 8 with the flags that section 3.8.1 reserves.
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGREQ: u8 = 0xc0;
const PINGRESP: u8 = 0xd0;
const DISCONNECT: u8 = 0xe0;

const QOS_0: u8 = 0;
const PUBLISH_QOS_1: u8 = 1 << 1;
const CLEAN_SESSION: u8 = 0x02;
const PROTOCOL: &[u8] = b"MQTT";
const PROTOCOL_LEVEL: u8 = 4;

/// What a broker says to a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Answer to CONNECT; 0 is yes (section 3.2.2.3).
    ConnAck(u8),
    /// Answer to SUBSCRIBE: whether every filter was granted.
    SubAck(bool),
    /// The broker has the packet of this number; flow control, no proof of delivery.
    PubAck(u16),
    /// A message.
    Publish {
        /// Under which topic.
        topic: Bytes,
        /// The number to acknowledge, with QoS 1.
        acknowledge: Option<u16>,
        /// What it says.
        payload: Bytes,
    },
    /// Answer to PINGREQ.
    PingResp,
}

/// Bytes that are no packet for a unit; the connection is of no further use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MqttError {
    /// A packet type that a broker does not send to a unit.
    #[error("packet type 0x{0:02x} is not for a unit")]
    Type(u8),
    /// More than four bytes of length.
    #[error("remaining length is malformed")]
    Length,
    /// Too large.
    #[error("packet of {0} bytes is above the limit of {PACKET_BYTES_MAX}")]
    TooLong(usize),
    /// Ends before its own fields do.
    #[error("packet is cut short")]
    Short,
}

/// Takes the next whole packet out of `received`; none when more bytes are needed.
///
/// # Errors
/// When the bytes are no packet that a unit understands.
pub fn take_packet(received: &mut BytesMut) -> Result<Option<Packet>, MqttError> {
    let Some((header_bytes, body_bytes)) = packet_lengths(received)? else {
        return Ok(None);
    };
    if received.len() < header_bytes + body_bytes {
        received.reserve(header_bytes + body_bytes - received.len());
        return Ok(None);
    }
    let first = received[0];
    received.advance(header_bytes);
    let mut body = received.split_to(body_bytes).freeze();
    match first & 0xf0 {
        CONNACK => {
            take_u8(&mut body)?;
            Ok(Some(Packet::ConnAck(take_u8(&mut body)?)))
        }
        SUBACK => {
            take_u16(&mut body)?;
            Ok(Some(Packet::SubAck(
                body.iter().all(|granted| *granted <= 2),
            )))
        }
        PUBACK => Ok(Some(Packet::PubAck(take_u16(&mut body)?))),
        PUBLISH => {
            let topic_bytes = usize::from(take_u16(&mut body)?);
            if body.len() < topic_bytes {
                return Err(MqttError::Short);
            }
            let topic = body.split_to(topic_bytes);
            let acknowledge = match first & 0x06 {
                0 => None,
                _ => Some(take_u16(&mut body)?),
            };
            Ok(Some(Packet::Publish {
                topic,
                acknowledge,
                payload: body,
            }))
        }
        PINGRESP => Ok(Some(Packet::PingResp)),
        _ => Err(MqttError::Type(first)),
    }
}

/// Bytes of the fixed header, bytes after it.
fn packet_lengths(received: &[u8]) -> Result<Option<(usize, usize)>, MqttError> {
    let mut length = 0;
    for place in 0..LENGTH_BYTES_MAX {
        let Some(byte) = received.get(1 + place) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return match length {
                0..=PACKET_BYTES_MAX => Ok(Some((2 + place, length))),
                _ => Err(MqttError::TooLong(length)),
            };
        }
    }
    Err(MqttError::Length)
}

fn take_u8(body: &mut Bytes) -> Result<u8, MqttError> {
    body.try_get_u8().map_err(|_| MqttError::Short)
}

fn take_u16(body: &mut Bytes) -> Result<u16, MqttError> {
    body.try_get_u16().map_err(|_| MqttError::Short)
}

/// CONNECT of a clean session; the broker ends the connection after 1.5 × `keep_alive_s` of silence.
pub fn put_connect(out: &mut BytesMut, client_id: &str, keep_alive_s: u16) {
    put_header(out, CONNECT, 2 + PROTOCOL.len() + 4 + 2 + client_id.len());
    put_string(out, PROTOCOL);
    out.put_u8(PROTOCOL_LEVEL);
    out.put_u8(CLEAN_SESSION);
    out.put_u16(keep_alive_s);
    put_string(out, client_id.as_bytes());
}

/// SUBSCRIBE to all filters at QoS 0, as the agent does.
pub fn put_subscribe(out: &mut BytesMut, packet_id: u16, filters: &[&str]) {
    let body: usize = filters.iter().map(|filter| 2 + filter.len() + 1).sum();
    put_header(out, SUBSCRIBE, 2 + body);
    out.put_u16(packet_id);
    for filter in filters {
        put_string(out, filter.as_bytes());
        out.put_u8(QOS_0);
    }
}

/// PUBLISH at QoS 1.
pub fn put_publish(out: &mut BytesMut, topic: &str, packet_id: u16, payload: &[u8]) {
    put_header(
        out,
        PUBLISH | PUBLISH_QOS_1,
        2 + topic.len() + 2 + payload.len(),
    );
    put_string(out, topic.as_bytes());
    out.put_u16(packet_id);
    out.put_slice(payload);
}

/// PUBACK.
pub fn put_puback(out: &mut BytesMut, packet_id: u16) {
    put_header(out, PUBACK, 2);
    out.put_u16(packet_id);
}

/// PINGREQ.
pub fn put_pingreq(out: &mut BytesMut) {
    put_header(out, PINGREQ, 0);
}

/// DISCONNECT.
pub fn put_disconnect(out: &mut BytesMut) {
    put_header(out, DISCONNECT, 0);
}

fn put_header(out: &mut BytesMut, first: u8, body_bytes: usize) {
    out.put_u8(first);
    let mut rest = body_bytes;
    loop {
        let low = u8::try_from(rest & 0x7f).unwrap_or(0);
        rest >>= 7;
        out.put_u8(if rest == 0 { low } else { low | 0x80 });
        if rest == 0 {
            return;
        }
    }
}

fn put_string(out: &mut BytesMut, text: &[u8]) {
    out.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    out.put_slice(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `rumqttc`'s codec, another implementation, reads in our bytes.
    fn read_by_another(out: BytesMut) -> rumqttc::mqttbytes::v4::Packet {
        let mut out = out;
        let packet = rumqttc::mqttbytes::v4::Packet::read(&mut out, PACKET_BYTES_MAX).unwrap();
        assert!(out.is_empty());
        packet
    }

    fn written_by_another(packet: &rumqttc::mqttbytes::v4::Packet) -> BytesMut {
        let mut out = BytesMut::new();
        packet.write(&mut out, PACKET_BYTES_MAX).unwrap();
        out
    }

    #[test]
    fn another_implementation_reads_what_a_unit_writes() {
        use rumqttc::mqttbytes::v4::Packet as Theirs;

        let mut out = BytesMut::new();
        put_connect(&mut out, "KV1", 30);
        let Theirs::Connect(connect) = read_by_another(out) else {
            panic!("no connect")
        };
        assert_eq!(
            (connect.client_id.as_str(), connect.keep_alive),
            ("KV1", 30)
        );
        assert!(connect.clean_session);

        let mut out = BytesMut::new();
        put_subscribe(&mut out, 7, &["a/b", "c"]);
        let Theirs::Subscribe(subscribe) = read_by_another(out) else {
            panic!("no subscribe")
        };
        let paths: Vec<_> = subscribe
            .filters
            .iter()
            .map(|filter| filter.path.as_str())
            .collect();
        assert_eq!((subscribe.pkid, paths), (7, vec!["a/b", "c"]));

        for payload in [0, 100, 127, 128, 20_000, FRAME_BYTES_MAX] {
            let mut out = BytesMut::new();
            put_publish(&mut out, "t/up", 9, &vec![5; payload]);
            let Theirs::Publish(publish) = read_by_another(out) else {
                panic!("no publish")
            };
            assert_eq!((publish.topic.as_str(), publish.pkid), ("t/up", 9));
            assert_eq!(publish.payload, vec![5; payload]);
        }

        let mut out = BytesMut::new();
        put_puback(&mut out, 3);
        assert!(matches!(read_by_another(out), Theirs::PubAck(ack) if ack.pkid == 3));
        let mut out = BytesMut::new();
        put_pingreq(&mut out);
        assert!(matches!(read_by_another(out), Theirs::PingReq));
        let mut out = BytesMut::new();
        put_disconnect(&mut out);
        assert!(matches!(read_by_another(out), Theirs::Disconnect));
    }

    #[test]
    fn a_unit_reads_what_another_implementation_writes_byte_by_byte() {
        use rumqttc::mqttbytes::QoS;
        use rumqttc::mqttbytes::v4 as theirs;

        let mut publish = theirs::Publish::new("t/down", QoS::AtLeastOnce, vec![1; 300]);
        publish.pkid = 11;
        let packets = [
            (
                theirs::Packet::ConnAck(theirs::ConnAck::new(
                    theirs::ConnectReturnCode::NotAuthorized,
                    false,
                )),
                Packet::ConnAck(5),
            ),
            (
                theirs::Packet::SubAck(theirs::SubAck::new(
                    1,
                    vec![theirs::SubscribeReasonCode::Success(QoS::AtLeastOnce)],
                )),
                Packet::SubAck(true),
            ),
            (
                theirs::Packet::SubAck(theirs::SubAck::new(
                    1,
                    vec![theirs::SubscribeReasonCode::Failure],
                )),
                Packet::SubAck(false),
            ),
            (
                theirs::Packet::PubAck(theirs::PubAck::new(513)),
                Packet::PubAck(513),
            ),
            (
                theirs::Packet::Publish(publish),
                Packet::Publish {
                    topic: Bytes::from_static(b"t/down"),
                    acknowledge: Some(11),
                    payload: vec![1; 300].into(),
                },
            ),
            (
                theirs::Packet::Publish(theirs::Publish::new("t", QoS::AtMostOnce, vec![])),
                Packet::Publish {
                    topic: Bytes::from_static(b"t"),
                    acknowledge: None,
                    payload: Bytes::new(),
                },
            ),
            (theirs::Packet::PingResp, Packet::PingResp),
        ];
        for (packet, expected) in packets {
            let bytes = written_by_another(&packet);
            let mut received = BytesMut::new();
            let (last, before) = bytes.split_last().unwrap();
            for byte in before {
                received.put_u8(*byte);
                assert_eq!(take_packet(&mut received), Ok(None), "{packet:?}");
            }
            received.put_u8(*last);
            assert_eq!(take_packet(&mut received), Ok(Some(expected)));
            assert!(received.is_empty());
        }
    }

    #[test]
    fn bytes_that_are_no_packet_end_the_connection() {
        let cases: [(&[u8], MqttError); 6] = [
            (&[0xff, 0], MqttError::Type(0xff)),
            (&[0x30, 0xff, 0xff, 0xff, 0xff], MqttError::Length),
            (&[0x30, 0xff, 0xff, 0x7f], MqttError::TooLong(0x1f_ffff)),
            (&[0x20, 1, 0], MqttError::Short),
            (&[0x40, 1, 0], MqttError::Short),
            (&[0x32, 3, 0, 5, b'a'], MqttError::Short),
        ];
        for (bytes, error) in cases {
            assert_eq!(
                take_packet(&mut BytesMut::from(bytes)),
                Err(error),
                "{bytes:?}"
            );
        }
    }
}
