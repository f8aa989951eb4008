//! The packets that a client gets.

use bytes::{BufMut as _, BytesMut};

use super::Qos;

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

/// The length of a PUBACK.
pub const PUBACK_BYTES: usize = 4;

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
/// `topic` must be a topic that came through [`super::Frame::read`], hence at most 65,535 bytes.
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
