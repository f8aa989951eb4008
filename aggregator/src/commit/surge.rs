//! The fuse against ourselves: a sudden rise of `never` is more likely a bug of this build than the
//! fault of many units at once, and `never` empties their buffers. Pure.
//!
//! When, within a quarter of an hour, many devices and a good part of the fleet had something refused
//! for ever, the fuse blows: intake closes until an operator has looked and restarted. The fleet is
//! what the database knows of the owned shards, not what was heard since the connection began: else
//! the few that come first would be many.

use std::collections::HashMap;

use proto::device::DeviceId;

/// How far back is counted.
const SPAN_MS: i64 = 15 * 60_000;

/// Fewer devices than this never blow the fuse.
const DEVICES_MIN: usize = 10;

/// One in so many devices of the fleet.
const ONE_IN: usize = 10;

/// Who was refused for ever lately.
#[derive(Debug, Default)]
pub struct Surge {
    refused: HashMap<DeviceId, i64>,
    blown: bool,
}

impl Surge {
    /// Takes note of a device with something refused for ever, of a fleet of so many.
    /// Says whether the fuse blew just now.
    pub fn never(&mut self, device: &DeviceId, fleet: usize, now_ms: i64) -> bool {
        self.refused.insert(device.clone(), now_ms);
        if self.blown || self.refused.len() < DEVICES_MIN {
            return false;
        }
        self.refused.retain(|_, at| now_ms - *at < SPAN_MS);
        self.blown = self.refused.len() >= DEVICES_MIN.max(fleet.div_ceil(ONE_IN));
        self.blown
    }

    /// Whether the fuse is blown: nothing more is refused for ever, nothing more is taken.
    #[must_use]
    pub const fn is_blown(&self) -> bool {
        self.blown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: usize) -> DeviceId {
        DeviceId::new(&format!("KV{n}")).unwrap()
    }

    #[test]
    fn one_broken_unit_never_blows_the_fuse() {
        let mut surge = Surge::default();
        assert!((0..1_000).all(|n| !surge.never(&device(0), 1_000, n)));
    }

    #[test]
    fn a_tenth_of_the_fleet_blows_it_once() {
        let mut surge = Surge::default();
        let blows = (0..200)
            .filter(|n| surge.never(&device(*n), 1_000, 0))
            .count();
        assert_eq!(blows, 1);
        assert!(surge.is_blown());
    }

    #[test]
    fn ten_devices_blow_the_fuse_of_a_small_fleet_and_nine_do_not() {
        let mut surge = Surge::default();
        let blown: Vec<bool> = (0..10).map(|n| surge.never(&device(n), 20, 0)).collect();
        assert_eq!(blown.iter().position(|blown| *blown), Some(9));
    }

    #[test]
    fn refusals_spread_over_days_do_not() {
        let mut surge = Surge::default();
        assert!((0..200).all(|n| !surge.never(&device(n), 1_000, n as i64 * SPAN_MS)));
    }
}
