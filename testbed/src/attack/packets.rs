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
