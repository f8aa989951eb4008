//! A client that sends whatever bytes it is given.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::fixture::PATIENCE;

pub(crate) const CONNACK_ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];

pub(crate) struct Raw {
    pub(crate) stream: TlsStream<TcpStream>,
}

impl Raw {
    pub(crate) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream }
    }

    /// Sends; a broker that has closed already is no failure here, reading will tell.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let sent = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, sent)
            .await
            .expect("the broker does not read")
            .ok();
    }

    /// The next packet; empty when the broker has closed.
    pub(crate) async fn packet(&mut self) -> Vec<u8> {
        timeout(PATIENCE, self.read_packet())
            .await
            .expect("the broker says nothing")
    }

    async fn read_packet(&mut self) -> Vec<u8> {
        let mut packet = Vec::new();
        let (mut length, mut shift) = (0_usize, 0);
        loop {
            let Ok(byte) = self.stream.read_u8().await else {
                return Vec::new();
            };
            packet.push(byte);
            if packet.len() == 1 {
                continue;
            }
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        match self.stream.read_exact(&mut body).await {
            Ok(_) => packet.extend(body),
            Err(_) => packet.clear(),
        }
        packet
    }

    /// Asserts that the broker closes without another packet.
    pub(crate) async fn is_closed(&mut self) {
        assert_eq!(
            self.packet().await,
            [0_u8; 0],
            "the broker closes the connection"
        );
    }
}

fn packet(first: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut packet = vec![first];
    let mut left = body.len();
    loop {
        let low = u8::try_from(left & 0x7f).unwrap();
        left >>= 7;
        packet.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

fn text(text: &[u8]) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap();
    [&len.to_be_bytes()[..], text].concat()
}

pub(crate) fn connect(client_id: &str) -> Vec<u8> {
    connect_with(4, 0x02, 30, client_id, b"")
}

pub(crate) fn connect_with(
    level: u8,
    flags: u8,
    keep_alive: u16,
    client_id: &str,
    rest: &[u8],
) -> Vec<u8> {
    let id = text(client_id.as_bytes());
    packet(
        0x10,
        &[
            b"\0\x04MQTT",
            &[level, flags],
            &keep_alive.to_be_bytes(),
            &id,
            rest,
        ],
    )
}

/// QoS 1 with an identifier, QoS 0 without.
pub(crate) fn publish<T: AsRef<[u8]> + ?Sized>(
    topic: &T,
    payload: &[u8],
    pkid: Option<u16>,
) -> Vec<u8> {
    let id = pkid
        .map(|pkid| pkid.to_be_bytes().to_vec())
        .unwrap_or_default();
    let first = if pkid.is_some() { 0x32 } else { 0x30 };
    packet(first, &[&text(topic.as_ref()), &id, payload])
}

pub(crate) fn retained(mut publish: Vec<u8>) -> Vec<u8> {
    publish[0] |= 1;
    publish
}

pub(crate) fn subscribe(pkid: u16, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<_> = filters
        .iter()
        .map(|filter| [text(filter.as_bytes()), vec![1]].concat())
        .collect();
    packet(0x82, &[&pkid.to_be_bytes(), &filters.concat()])
}

pub(crate) fn unsubscribe(pkid: u16, filters: &[&str]) -> Vec<u8> {
    let filters: Vec<_> = filters
        .iter()
        .map(|filter| text(filter.as_bytes()))
        .collect();
    packet(0xa2, &[&pkid.to_be_bytes(), &filters.concat()])
}

pub(crate) fn puback(pkid: u16) -> Vec<u8> {
    packet(0x40, &[&pkid.to_be_bytes()])
}

pub(crate) fn pkid_of(publish: &[u8]) -> u16 {
    assert_eq!(publish[0] & 0xf6, 0x32, "a publish of QoS 1");
    let header = 1
        + publish[1..]
            .iter()
            .take_while(|byte| **byte & 0x80 != 0)
            .count()
        + 1;
    let topic = usize::from(u16::from_be_bytes([publish[header], publish[header + 1]]));
    let at = header + 2 + topic;
    u16::from_be_bytes([publish[at], publish[at + 1]])
}
