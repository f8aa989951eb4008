//! MQTT topics and the shard that stands in them.
//!
//! `verst/1/{shard:02x}/{device}/up` unit to centre, `…/down` centre to unit,
//! `verst/1/{shard:02x}/beacon` retained, centre to its shard.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::device::DeviceId;

/// One of 64 groups of devices: the unit of ownership at the centre. Always computed from the
/// authenticated device, never trusted from a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(u8);

impl Shard {
    /// How many there are.
    pub const COUNT: u8 = 64;

    /// The shard of a device.
    #[must_use]
    pub fn of(device: &DeviceId) -> Self {
        let hash = xxh3_64(device.as_str().as_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "a remainder of 64")]
        Self((hash % u64::from(Self::COUNT)) as u8)
    }

    /// The shard of a number; none from 64 on.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// 0 to 63.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// All shards.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT).map(Self)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// Where a device publishes.
#[must_use]
pub fn up(device: &DeviceId) -> String {
    format!("verst/1/{}/{device}/up", Shard::of(device))
}

/// Where a device listens.
#[must_use]
pub fn down(device: &DeviceId) -> String {
    format!("verst/1/{}/{device}/down", Shard::of(device))
}

/// Where the owner of a shard says that it is there.
#[must_use]
pub fn beacon(shard: Shard) -> String {
    format!("verst/1/{shard}/beacon")
}

/// The filter by which the centre hears all devices of a shard.
#[must_use]
pub fn up_filter(shard: Shard) -> String {
    format!("verst/1/{shard}/+/up")
}

/// A topic that Verst knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// Unit to centre.
    Up(DeviceId),
    /// Centre to unit.
    Down(DeviceId),
    /// Centre to all units of a shard.
    Beacon(Shard),
}

impl Topic {
    /// Reads a topic; none unless it is exactly one of Verst's, the shard that of the device.
    #[must_use]
    pub fn parse(topic: &str) -> Option<Self> {
        let rest = topic.strip_prefix("verst/1/")?;
        let (shard, rest) = rest.split_once('/')?;
        let number = u8::from_str_radix(shard, 16).ok()?;
        let shard = Shard::new(number).filter(|known| known.to_string() == shard)?;
        if rest == "beacon" {
            return Some(Self::Beacon(shard));
        }
        let (device, way) = rest.split_once('/')?;
        let device = DeviceId::new(device)
            .ok()
            .filter(|device| Shard::of(device) == shard)?;
        match way {
            "up" => Some(Self::Up(device)),
            "down" => Some(Self::Down(device)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_survive_being_read() {
        let device = DeviceId::new("KV12345").unwrap();
        assert_eq!(Topic::parse(&up(&device)), Some(Topic::Up(device.clone())));
        assert_eq!(Topic::parse(&down(&device)), Some(Topic::Down(device)));
        for shard in Shard::all() {
            assert_eq!(Topic::parse(&beacon(shard)), Some(Topic::Beacon(shard)));
        }
    }

    #[test]
    fn nothing_else_is_a_topic() {
        let device = DeviceId::new("KV12345").unwrap();
        let wrong_shard = Shard::new((Shard::of(&device).get() + 1) % Shard::COUNT).unwrap();
        for topic in [
            "",
            "verst/1/00/beacon/",
            "verst/1/0/beacon",
            "verst/1/40/beacon",
            "verst/1/+0/beacon",
            "verst/2/00/beacon",
            "$SYS/x",
            "é/x",
            &format!("{}/x", up(&device)),
            &format!("verst/1/{wrong_shard}/KV12345/up"),
        ] {
            assert_eq!(Topic::parse(topic), None, "{topic}");
        }
    }
}
