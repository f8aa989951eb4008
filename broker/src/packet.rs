//! MQTT 3.1.1 packets as a server sees them: what clients send is read here, what they get is
//! written by `write`.
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

mod write;

pub use self::write::{
    ConnectCode, PUBACK_BYTES, put_connack, put_pingresp, put_puback, put_publish, put_suback,
    put_unsuback,
};

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

#[cfg(test)]
mod tests;
