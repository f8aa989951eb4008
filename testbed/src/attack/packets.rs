//! ● Fuzzed packets: mostly what a unit may send, some of it bent, some of it nothing at all.

use bytes::BytesMut;
use proto::{DeviceId, Shard, topic};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::fleet::mqtt;

/// Topics and filters of nobody, of others, and of forms that have killed routers.
const TRICKS: [&str; 22] = [
    "#",
    "+",
    "+/#",
    "$share",
    "$share/g/#",
    "$share/g/verst/1/00/+/up",
    "$SYS",
    "$SYS/#",
    "$SYS/broker",
    "é",
    "é/x",
    "\u{1F697}/up",
    "",
    "/",
    "//",
    "verst//1/00/x/up",
    "verst/1/00/sim-0001/up",
    "verst/1/00/sim-0001/down",
    "verst/1/00/beacon",
    "verst.canary",
    "verst/1/zz/x/up",
    "verst/2/00/x/up",
];

/// What no unit may send, one by one: each topic to publish to, retained or not, and to subscribe.
pub(super) fn forbidden(own: &DeviceId) -> Vec<(String, Vec<u8>)> {
    let up = topic::up(own);
    let nearly = [
        format!("{up}/x"),
        format!("{up}/"),
        format!("/{up}"),
        up.replace('/', "//"),
        up.replace(own.as_str(), &format!("{own}\u{301}")),
        topic::down(own),
        topic::beacon(Shard::of(own)),
    ];
    let tricks = TRICKS.iter().map(ToString::to_string).chain(nearly);
    let mut packets = Vec::new();
    for topic in tricks {
        // The two that it may hear.
        let own_filter = [topic::down(own), topic::beacon(Shard::of(own))].contains(&topic);
        let filter = format!("{topic}{}", if own_filter { "/#" } else { "" });
        let (mut publish, mut subscribe) = (BytesMut::new(), BytesMut::new());
        mqtt::put_publish(&mut publish, &topic, 1, b"x");
        mqtt::put_subscribe(&mut subscribe, 1, &[&filter]);
        packets.push((format!("publish to {topic:?}"), publish.to_vec()));
        packets.push((format!("subscribe {filter:?}"), subscribe.to_vec()));
    }
    let mut retained = BytesMut::new();
    mqtt::put_publish(&mut retained, &up, 1, b"x");
    retained[0] |= 1;
    packets.push(("retain in its own topic".to_owned(), retained.to_vec()));
    packets
}

/// CONNECTs with which nobody is let in, whatever the certificate of this unit.
pub(super) fn forbidden_connects(own: &DeviceId) -> Vec<(String, Vec<u8>)> {
    let mut packets = Vec::new();
    for name in [
        "sim-0001",
        "centre",
        "broker",
        "",
        "#",
        "+",
        "$SYS",
        "é",
        "verst.canary",
    ] {
        packets.push((format!("the name {name:?}"), connect(4, 2, name, b"")));
    }
    let own = own.as_str();
    for (what, level, flags, rest) in [
        ("a will", 4, 0x06, &b"\0\x01t\0\x01m"[..]),
        ("a retained will", 4, 0x26, b"\0\x01t\0\x01m"),
        ("a will of QoS 2", 4, 0x16, b"\0\x01t\0\x01m"),
        ("a will that is not there", 4, 0x06, b""),
        ("a login", 4, 0xc2, b"\0\x01u\0\x01p"),
        ("a kept session", 4, 0x00, b""),
        ("the reserved flag", 4, 0x03, b""),
        ("bytes behind it", 4, 0x02, b"xyz"),
        ("MQTT 3.1", 3, 0x02, b""),
        ("MQTT 5", 5, 0x02, b""),
        ("MQTT 255", 255, 0x02, b""),
    ] {
        packets.push((what.to_owned(), connect(level, flags, own, rest)));
    }
    packets
}

fn connect(level: u8, flags: u8, name: &str, rest: &[u8]) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let body = [
        &b"\0\x04MQTT"[..],
        &[level, flags, 0, 30, 0, length],
        name.as_bytes(),
        rest,
    ]
    .concat();
    let whole = u8::try_from(body.len()).unwrap_or(0x7f);
    [&[0x10, whole], &body[..]].concat()
}

/// Packets of one connection after its CONNECT. One in thirty or so is bent or none.
pub(super) fn after_connect(dice: &mut ChaCha8Rng, own: &DeviceId, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        let honest = honest(dice, own);
        match dice.random_range(0..100_u32) {
            0 => bytes.extend(bent(dice, honest)),
            1 => bytes.extend(tricky(dice, own)),
            2 => bytes.extend(noise(dice, 64)),
            _ => bytes.extend(honest),
        }
    }
    bytes
}

/// What comes instead of a CONNECT, after TLS.
pub(super) fn instead_of_connect(dice: &mut ChaCha8Rng, own: &DeviceId) -> Vec<u8> {
    let mut connect = BytesMut::new();
    mqtt::put_connect(&mut connect, own.as_str(), 30);
    match dice.random_range(0..4_u32) {
        0 => bent(dice, connect.to_vec()),
        1 => noise(dice, 200),
        2 => honest(dice, own),
        _ => {
            // Flags, level and lengths as they come.
            let place = dice.random_range(0..connect.len());
            connect[place] = dice.random();
            connect.to_vec()
        }
    }
}

/// What comes instead of TLS: noise, or the beginning of a record with noise in it.
pub(super) fn instead_of_tls(dice: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = noise(dice, 300);
    if dice.random() {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
        bytes.splice(0..0, [0x16, 3, 1, length[0], length[1]]);
    }
    bytes
}

fn honest(dice: &mut ChaCha8Rng, own: &DeviceId) -> Vec<u8> {
    let mut out = BytesMut::new();
    let (down, beacon) = (topic::down(own), topic::beacon(Shard::of(own)));
    match dice.random_range(0..10_u32) {
        0 => mqtt::put_pingreq(&mut out),
        1 => mqtt::put_subscribe(&mut out, dice.random_range(1..=u16::MAX), &[&down, &beacon]),
        2 => out.extend_from_slice(&named(0xa2, &down, None)),
        _ => {
            let id = dice.random_range(1..=u16::MAX);
            mqtt::put_publish(&mut out, &topic::up(own), id, &noise(dice, 200));
        }
    }
    out.to_vec()
}

fn tricky(dice: &mut ChaCha8Rng, own: &DeviceId) -> Vec<u8> {
    let sub_topic = format!("{}/x", topic::up(own));
    let topic = match dice.random_range(0..=TRICKS.len()) {
        place if place < TRICKS.len() => TRICKS[place],
        _ => &sub_topic,
    };
    let mut out = BytesMut::new();
    match dice.random_range(0..4_u32) {
        0 => mqtt::put_publish(&mut out, topic, 1, b"x"),
        1 => {
            // Retained.
            mqtt::put_publish(&mut out, topic, 1, b"x");
            out[0] |= 1;
        }
        2 => out.extend_from_slice(&named(0xa2, topic, None)),
        _ => mqtt::put_subscribe(&mut out, 1, &[topic]),
    }
    out.to_vec()
}

/// A packet with one name in it.
fn named(first: u8, name: &str, level: Option<u8>) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or(100);
    let mut packet = vec![
        first,
        4 + length + u8::from(level.is_some()),
        0,
        1,
        0,
        length,
    ];
    packet.extend_from_slice(name.as_bytes());
    packet.extend(level);
    packet
}

/// Some bytes changed, or the end cut off, or bytes after it.
fn bent(dice: &mut ChaCha8Rng, mut packet: Vec<u8>) -> Vec<u8> {
    match dice.random_range(0..4_u32) {
        0 => packet.truncate(dice.random_range(0..=packet.len())),
        1 => packet.extend(noise(dice, 8)),
        _ => {
            for _ in 0..dice.random_range(1..4_u32) {
                let place = dice.random_range(0..packet.len());
                packet[place] ^= 1 << dice.random_range(0..8_u32);
            }
        }
    }
    packet
}

fn noise(dice: &mut ChaCha8Rng, most: usize) -> Vec<u8> {
    (0..dice.random_range(1..=most))
        .map(|_| dice.random())
        .collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn what_is_forbidden_has_one_byte_of_length() {
        let own = DeviceId::new("mallory-0001").unwrap();
        let all = [forbidden(&own), forbidden_connects(&own)].concat();
        for (what, bytes) in all {
            assert_eq!(usize::from(bytes[1]) + 2, bytes.len(), "{what}");
        }
    }

    #[test]
    fn the_same_seed_sends_the_same_bytes() {
        let own = DeviceId::new("mallory").unwrap();
        let all = |seed| {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            [
                after_connect(&mut dice, &own, 100),
                instead_of_connect(&mut dice, &own),
                instead_of_tls(&mut dice),
            ]
            .concat()
        };
        assert_eq!(all(7), all(7));
        assert_ne!(all(7), all(8));
    }
}
