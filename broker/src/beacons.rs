//! Whose beacon is kept: of each shard, that of the owner with the highest token.
//!
//! Between [`crate::session`] and the router, in the order in which messages reach it. An aggregator
//! that was frozen for longer than its lease may have a beacon in its socket when it wakes up. A unit
//! that is connected knows a newer owner and does not hear it, but the router would keep it, and whoever
//! connects next would hear nothing else until the new owner has something new to say.
//!
//! What is no beacon of a form that this build knows passes: the broker need not be the newest part.
//!
//! Pure.

use std::collections::BTreeMap;

use proto::frame::Down;
use proto::receipt::Beacon;
use proto::topic::{Shard, Topic};
use proto::{CentreId, topic};

/// The owners that have spoken, since the broker's start: what the router keeps is no older.
#[derive(Debug, Default)]
pub struct Beacons {
    owners: BTreeMap<Shard, Owner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Owner {
    centre: CentreId,
    /// The life of the centre and the token in it: the greatest speaks the truth.
    rank: (u32, u64),
}

impl Beacons {
    /// Whether a message that is to be kept may be: not when it is the beacon of an owner after whom
    /// another of the same centre has spoken.
    pub fn admit(&mut self, topic: &[u8], payload: &[u8]) -> bool {
        let Some((shard, owner)) = read(topic, payload) else {
            return true;
        };
        let known = self.owners.entry(shard).or_insert(owner);
        let outdated = known.centre == owner.centre && owner.rank < known.rank;
        if !outdated {
            *known = owner;
        }
        !outdated
    }
}

fn read(name: &[u8], payload: &[u8]) -> Option<(Shard, Owner)> {
    let name = std::str::from_utf8(name).ok()?;
    let Topic::Beacon(shard) = topic::Topic::parse(name)? else {
        return None;
    };
    let Ok(Down::Beacon(Beacon { centre, token, .. })) = Down::decode(payload) else {
        return None;
    };
    let owner = Owner {
        centre: centre.id,
        rank: (centre.timeline, token),
    };
    Some((shard, owner))
}

#[cfg(test)]
mod tests {
    use proto::EventTime;
    use proto::frame::{WIRE_VERSION, WIRE_VERSION_MIN};
    use proto::receipt::{Centre, Intake};

    use super::*;

    fn beacon(id: u8, timeline: u32, token: u64) -> Vec<u8> {
        let beacon = Beacon {
            centre: Centre {
                id: CentreId::from_bytes([id; 16]),
                timeline,
            },
            token,
            build: "1".to_owned(),
            wire_min: WIRE_VERSION_MIN,
            wire_max: WIRE_VERSION,
            intake: Intake::Open,
            sent_at: EventTime::from_millis(0),
            summaries_age_max_ms: 0,
        };
        Down::Beacon(beacon).encode()
    }

    #[test]
    fn of_one_shard_and_centre_no_lower_token_is_kept_after_a_higher_one() {
        let mut beacons = Beacons::default();
        let mut admit = |shard: u8, payload: &[u8]| {
            let topic = topic::beacon(Shard::new(shard).unwrap());
            beacons.admit(topic.as_bytes(), payload)
        };
        for (shard, payload, kept) in [
            (0, beacon(1, 1, 5), true),
            // It opens and closes.
            (0, beacon(1, 1, 5), true),
            (0, beacon(1, 1, 6), true),
            (0, beacon(1, 1, 5), false),
            (0, beacon(1, 1, 6), true),
            (1, beacon(1, 1, 5), true),
            (63, beacon(1, 1, 5), true),
            // A later life counts from anew.
            (0, beacon(1, 2, 1), true),
            (0, beacon(1, 1, 9), false),
            // Another database has tokens of its own.
            (0, beacon(2, 1, 1), true),
            (0, beacon(1, 2, 1), true),
            (0, b"of a later build".to_vec(), true),
        ] {
            assert_eq!(admit(shard, &payload), kept, "shard {shard}: {payload:?}");
        }
    }

    #[test]
    fn other_topics_are_none_of_its_business() {
        let mut beacons = Beacons::default();
        assert!(beacons.admit(b"verst/1/00/KV1/down", &beacon(1, 1, 5)));
        assert!(beacons.admit(b"verst/1/00/KV1/down", &beacon(1, 1, 4)));
        assert!(beacons.admit(b"\xff", b""));
    }
}
