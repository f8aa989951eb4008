//! MQTT 3.1.1 packets as a server sees them: what clients send is read here, what they get is
//! written here.
//!
//! First stop of every byte that a client sends, before [`crate::session`] judges it. rumqttd's own
//! codec is not used: it accepts packets that only a server may send, and hides the packet
//! identifier of a publish.
//!
//! Invariants: no input panics; nothing is allocated for a packet before its length is known to be
//! within the limit; every reserved bit and every length is checked; a packet is read to its last
//! byte or refused.
//!
//! Pure. Source: OASIS MQTT Version 3.1.1, sections 2 and 3.

use bytes::{BufMut, BytesMut};

/// The longest fixed header: the first byte and a length of four.
const HEADER_BYTES_MAX: usize = 5;

/// How surely a message is to be delivered. Level 2 is not spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// At most once: no packet identifier, no acknowledgement.
    AtMostOnce,
    /// At least once: acknowledged with PUBACK.
    AtLeastOnce,
}

impl Qos {
    /// The two bits on the wire.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
        }
    }
}

/// A packet from a client, borrowed from the read buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// The first packet.
    Connect(Connect<'a>),
    /// A message.
    Publish(Publish<'a>),
    /// The client has the message of this packet identifier.
    PubAck(u16),
    /// Filters, each with the highest QoS asked for.
    Subscribe {
        /// Names the answer; not 0.
        pkid: u16,
        /// At least one.
        filters: Vec<(&'a str, Qos)>,
    },
    /// Filters no longer wanted.
    Unsubscribe {
        /// Names the answer; not 0.
        pkid: u16,
        /// At least one.
        filters: Vec<&'a str>,
    },
    /// Is the server there?
    PingReq,
    /// An orderly goodbye.
    Disconnect,
}

/// CONNECT of protocol "MQTT", level 4. What a user name, password or will say is not kept: their
/// presence decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Who the client says it is.
    pub client_id: &'a str,
    /// Whether the client wants nothing kept from before or for later.
    pub clean_session: bool,
    /// Seconds; 0 asks for none.
    pub keep_alive_s: u16,
    /// Whether it leaves a will.
    pub has_will: bool,
    /// Whether it sends a user name or a password.
    pub has_login: bool,
}

/// PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Not empty, no wildcards, no NUL.
    pub topic: &'a str,
    /// Anything, also nothing.
    pub payload: &'a [u8],
    /// Whether the server is asked to keep it for later subscribers.
    pub retain: bool,
    /// Present when it is to be acknowledged (QoS 1).
    pub pkid: Option<u16>,
}

/// Where a packet lies in the read buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    first: u8,
    body: usize,
    /// Bytes of the whole packet, fixed header included.
    pub len: usize,
}

/// Bytes that are no packet a client may send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Longer than the limit.
    #[error("packet of {bytes} bytes is above the limit of {limit}")]
    TooLarge {
        /// Its length with the fixed header.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// A length of more than four bytes.
    #[error("remaining length takes more than 4 bytes")]
    Length,
    /// A type that a client may not send: reserved, for servers, or of QoS 2.
    #[error("packet type {0} is not for clients of this broker")]
    Kind(u8),
    /// Reserved bits of the first byte or of CONNECT are not as the standard fixes them.
    #[error("reserved bits of packet type {0} are not as the standard fixes them")]
    Reserved(u8),
    /// It ends before its fields do, goes on after them, or lacks one.
    #[error("packet of type {0} does not have the form of its type")]
    Form(u8),
    /// A QoS that is not 0 or 1.
    #[error("QoS {0} is not spoken here, use 0 or 1")]
    Qos(u8),
    /// A packet identifier of 0.
    #[error("packet identifier is 0")]
    PacketId,
    /// A topic or a filter that MQTT forbids.
    #[error("topic is empty, not UTF-8, or has a NUL or a wildcard where none may be")]
    Topic,
    /// CONNECT of another protocol or level.
    #[error("protocol level is not 4 (MQTT 3.1.1)")]
    Protocol,
}

/// Looks for a whole packet at the start of `bytes`.
///
/// `Ok(None)`: more bytes are needed.
///
/// # Errors
/// When the length is malformed or above `limit`: no further byte needs to be read to know.
pub fn frame(bytes: &[u8], limit: usize) -> Result<Option<Frame>, PacketError> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let mut remaining = 0_usize;
    for (at, byte) in rest.iter().take(HEADER_BYTES_MAX - 1).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let body = at + 2;
            let len = body + remaining;
            if len > limit {
                return Err(PacketError::TooLarge { bytes: len, limit });
            }
            return Ok((bytes.len() >= len).then_some(Frame { first, body, len }));
        }
    }
    if rest.len() >= HEADER_BYTES_MAX - 1 {
        Err(PacketError::Length)
    } else {
        Ok(None)
    }
}

impl Frame {
    /// Reads the packet that [`frame`] found at the start of `bytes`.
    ///
    /// # Errors
    /// When it is not exactly one packet that a client may send.
    pub fn read(self, bytes: &[u8]) -> Result<Packet<'_>, PacketError> {
        let kind = self.first >> 4;
        let flags = self.first & 0x0f;
        let mut body = Body {
            rest: bytes.get(self.body..self.len).unwrap_or_default(),
            kind,
        };
        let expected = match kind {
            1 | 4 | 12 | 14 => 0,
            8 | 10 => 2,
            3 => return body.publish(flags).map(Packet::Publish),
            other => return Err(PacketError::Kind(other)),
        };
        if flags != expected {
            return Err(PacketError::Reserved(kind));
        }
        let packet = match kind {
            1 => Packet::Connect(body.connect()?),
            4 => Packet::PubAck(body.packet_id()?),
            8 => Packet::Subscribe {
                pkid: body.packet_id()?,
                filters: body.filters()?,
            },
            10 => Packet::Unsubscribe {
                pkid: body.packet_id()?,
                filters: body.names()?,
            },
            12 => Packet::PingReq,
            _ => Packet::Disconnect,
        };
        if body.rest.is_empty() {
            Ok(packet)
        } else {
            Err(PacketError::Form(kind))
        }
    }
}

/// What is still unread of a packet.
struct Body<'a> {
    rest: &'a [u8],
    kind: u8,
}

impl<'a> Body<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], PacketError> {
        let (head, tail) = self
            .rest
            .split_at_checked(count)
            .ok_or(PacketError::Form(self.kind))?;
        self.rest = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, PacketError> {
        Ok(self.take(1)?.first().copied().unwrap_or_default())
    }

    fn u16(&mut self) -> Result<u16, PacketError> {
        let pair = self.take(2)?;
        Ok(pair
            .iter()
            .fold(0, |number, byte| (number << 8) | u16::from(*byte)))
    }

    fn packet_id(&mut self) -> Result<u16, PacketError> {
        match self.u16()? {
            0 => Err(PacketError::PacketId),
            id => Ok(id),
        }
    }

    fn binary(&mut self) -> Result<&'a [u8], PacketError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    fn text(&mut self) -> Result<&'a str, PacketError> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| PacketError::Topic)?;
        if text.contains('\0') {
            Err(PacketError::Topic)
        } else {
            Ok(text)
        }
    }

    fn publish(&mut self, flags: u8) -> Result<Publish<'a>, PacketError> {
        let qos = (flags >> 1) & 0b11;
        let topic = self.text()?;
        if topic.is_empty() || topic.contains(['+', '#']) {
            return Err(PacketError::Topic);
        }
        let pkid = match qos {
            // A duplicate of something that is never acknowledged cannot be.
            0 if flags & 0b1000 != 0 => return Err(PacketError::Reserved(self.kind)),
            0 => None,
            1 => Some(self.packet_id()?),
            more => return Err(PacketError::Qos(more)),
        };
        let payload = std::mem::take(&mut self.rest);
        Ok(Publish {
            topic,
            payload,
            retain: flags & 1 != 0,
            pkid,
        })
    }

    fn connect(&mut self) -> Result<Connect<'a>, PacketError> {
        if self.binary()? != b"MQTT" || self.byte()? != 4 {
            return Err(PacketError::Protocol);
        }
        let flags = self.byte()?;
        let keep_alive_s = self.u16()?;
        let client_id = self.text()?;
        let [has_will, has_password, has_name] = [0x04, 0x40, 0x80].map(|bit| flags & bit != 0);
        // Bit 0 is reserved; the will's QoS and retain bits need a will; a password needs a name.
        let will_bits = flags & 0x38;
        if flags & 1 != 0 || (!has_will && will_bits != 0) || will_bits & 0x18 == 0x18 {
            return Err(PacketError::Reserved(self.kind));
        }
        if has_password && !has_name {
            return Err(PacketError::Form(self.kind));
        }
        if has_will {
            self.text()?;
            self.binary()?;
        }
        for present in [has_name, has_password] {
            if present {
                self.binary()?;
            }
        }
        let clean_session = flags & 0x02 != 0;
        Ok(Connect {
            client_id,
            clean_session,
            keep_alive_s,
            has_will,
            has_login: has_name,
        })
    }

    fn filters(&mut self) -> Result<Vec<(&'a str, Qos)>, PacketError> {
        let mut filters = Vec::new();
        while !self.rest.is_empty() || filters.is_empty() {
            let filter = self.text()?;
            filters.push((
                filter,
                match self.byte()? {
                    0 => Qos::AtMostOnce,
                    // The server may grant less than is asked for: 2 becomes 1.
                    1 | 2 => Qos::AtLeastOnce,
                    more => return Err(PacketError::Qos(more)),
                },
            ));
        }
        Ok(filters)
    }

    fn names(&mut self) -> Result<Vec<&'a str>, PacketError> {
        let mut names = Vec::new();
        while !self.rest.is_empty() || names.is_empty() {
            names.push(self.text()?);
        }
        Ok(names)
    }
}

/// The answer to CONNECT (section 3.2.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectCode {
    /// Welcome.
    Accepted = 0,
    /// Another protocol level.
    Protocol = 1,
    /// The client identifier is not the name in the certificate.
    Identifier = 2,
    /// No room, or stopping: try again later.
    Unavailable = 3,
    /// Asks for what it may not have: a kept session, a will, a login.
    NotAuthorized = 5,
}

/// Appends a CONNACK; there never is a session from before.
pub fn put_connack(out: &mut BytesMut, code: ConnectCode) {
    out.put_slice(&[0x20, 2, 0, code as u8]);
}

/// Appends a PUBACK.
pub fn put_puback(out: &mut BytesMut, pkid: u16) {
    out.put_slice(&[0x40, 2]);
    out.put_u16(pkid);
}

/// Appends a SUBACK that grants the given levels.
pub fn put_suback(out: &mut BytesMut, pkid: u16, granted: &[Qos]) {
    out.put_u8(0x90);
    put_length(out, 2 + granted.len());
    out.put_u16(pkid);
    out.extend(granted.iter().map(|qos| qos.bits()));
}

/// Appends an UNSUBACK.
pub fn put_unsuback(out: &mut BytesMut, pkid: u16) {
    out.put_slice(&[0xb0, 2]);
    out.put_u16(pkid);
}

/// Appends a PINGRESP.
pub fn put_pingresp(out: &mut BytesMut) {
    out.put_slice(&[0xd0, 0]);
}

/// Appends a PUBLISH; with a packet identifier it is QoS 1, without one QoS 0.
///
/// `topic` must be a topic that came through [`Frame::read`], hence at most 65,535 bytes.
pub fn put_publish(
    out: &mut BytesMut,
    topic: &[u8],
    payload: &[u8],
    retain: bool,
    pkid: Option<u16>,
) {
    let topic_len = u16::try_from(topic.len()).expect("a topic was read with a 16-bit length");
    out.put_u8(0x30 | (u8::from(pkid.is_some()) << 1) | u8::from(retain));
    let id_len = if pkid.is_some() { 2 } else { 0 };
    put_length(out, 2 + topic.len() + id_len + payload.len());
    out.put_u16(topic_len);
    out.put_slice(topic);
    if let Some(pkid) = pkid {
        out.put_u16(pkid);
    }
    out.put_slice(payload);
}

fn put_length(out: &mut BytesMut, mut len: usize) {
    loop {
        let low = u8::try_from(len & 0x7f).unwrap_or_default();
        len >>= 7;
        if len == 0 {
            return out.put_u8(low);
        }
        out.put_u8(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
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
}
