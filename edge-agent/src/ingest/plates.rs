//! Number plates and privacy: what of a plate may reach the disk.
//!
//! Kept, dropped, or replaced by the first 8 bytes of HMAC-SHA256 under a key that never leaves the
//! unit. With rotation the key of a period is HMAC(key, period): the same vehicle can be followed
//! within a day or a month of event time, and not from one to the next.

use std::fmt;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proto::passage::EventTime;
use proto::plate::{Plate, PlateText};
use serde::Deserialize;
use sha2::Sha256;

type HmacSha256 = Hmac<Sha256>;

/// A shorter key could be found by trying.
pub const KEY_BYTES_MIN: usize = 32;

/// How long the same plate has the same hash, by event time in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// For as long as the key lives.
    #[default]
    Never,
    /// For a day.
    Daily,
    /// For a month.
    Monthly,
}

/// What becomes of plates.
#[derive(Debug, Clone)]
pub enum PlatePolicy {
    /// Stored as read.
    Kept,
    /// Not stored.
    Dropped,
    /// Stored as a keyed hash.
    Hashed(PlateKey),
}

/// The key of the hashes.
#[derive(Clone)]
pub struct PlateKey {
    mac: HmacSha256,
    rotation: Rotation,
}

impl fmt::Debug for PlateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlateKey")
            .field("rotation", &self.rotation)
            .finish_non_exhaustive()
    }
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PlateKeyError {
    /// Not there, or not for us.
    #[error("cannot read the plate key {path}: {source}")]
    Read {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Too short to keep anything secret.
    #[error("plate key has {0} bytes, at least {KEY_BYTES_MIN} are needed")]
    Short(usize),
}

impl PlateKey {
    /// From key material of any form.
    ///
    /// # Errors
    /// Below 32 bytes.
    pub fn new(key: &[u8], rotation: Rotation) -> Result<Self, PlateKeyError> {
        let mac = HmacSha256::new_from_slice(key)
            .ok()
            .filter(|_| key.len() >= KEY_BYTES_MIN);
        mac.map(|mac| Self { mac, rotation })
            .ok_or(PlateKeyError::Short(key.len()))
    }

    /// From a file; white space around the key does not belong to it.
    ///
    /// # Errors
    /// When the file cannot be read or the key is too short.
    pub fn read(path: &Path, rotation: Rotation) -> Result<Self, PlateKeyError> {
        let key = std::fs::read(path).map_err(|source| PlateKeyError::Read {
            path: path.display().to_string(),
            source,
        })?;
        service::private_file::warn_if_open("plate key", path);
        Self::new(key.trim_ascii(), rotation)
    }

    fn period(&self, time: EventTime) -> Option<String> {
        let format = match self.rotation {
            Rotation::Never => return None,
            Rotation::Daily => "day %Y-%m-%d",
            Rotation::Monthly => "month %Y-%m",
        };
        let time = Timestamp::from_millisecond(time.as_millis()).ok()?;
        Some(time.to_zoned(TimeZone::UTC).strftime(format).to_string())
    }
}

/// Applies a policy to plate after plate; remembers the key of the last period.
#[derive(Debug)]
pub(super) struct Plates<'a> {
    policy: &'a PlatePolicy,
    last: Option<(Option<String>, Keyed)>,
}

struct Keyed(HmacSha256);

impl fmt::Debug for Keyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<'a> Plates<'a> {
    pub(super) fn new(policy: &'a PlatePolicy) -> Self {
        Self { policy, last: None }
    }

    pub(super) fn apply(&mut self, plate: PlateText, time: EventTime) -> Plate {
        match self.policy {
            PlatePolicy::Kept => Plate::Text(plate),
            PlatePolicy::Dropped => Plate::Absent,
            PlatePolicy::Hashed(key) => {
                let period = key.period(time);
                let keyed = match self.last.take() {
                    Some((known, keyed)) if known == period => keyed,
                    _ => Keyed(key_of(key, period.as_deref())),
                };
                let hash = digest(keyed.0.clone(), plate.as_str().as_bytes());
                self.last = Some((period, keyed));
                Plate::Hash(std::array::from_fn(|place| hash[place]))
            }
        }
    }
}

fn key_of(key: &PlateKey, period: Option<&str>) -> HmacSha256 {
    let Some(period) = period else {
        return key.mac.clone();
    };
    // 32 bytes are a key of any HMAC.
    HmacSha256::new_from_slice(&digest(key.mac.clone(), period.as_bytes()))
        .unwrap_or_else(|_| key.mac.clone())
}

fn digest(mut mac: HmacSha256, message: &[u8]) -> [u8; 32] {
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    fn hashes(rotation: Rotation, times_ms: &[i64]) -> Vec<Plate> {
        let policy = PlatePolicy::Hashed(PlateKey::new(&[7; 32], rotation).unwrap());
        let mut plates = Plates::new(&policy);
        let plate = PlateText::new("A123БВ68").unwrap();
        times_ms
            .iter()
            .map(|ms| plates.apply(plate, EventTime::from_millis(*ms)))
            .collect()
    }

    #[test]
    fn the_hash_is_hmac_sha256_cut_to_8_bytes() {
        // RFC 4231, test case 2, with the key's short form refused and a long one made of it.
        assert!(matches!(
            PlateKey::new(b"Jefe", Rotation::Never),
            Err(PlateKeyError::Short(4))
        ));
        // Test case 3: key of 20 bytes 0xaa is short as well; case 6: 131 bytes 0xaa.
        let key = PlateKey::new(&[0xaa; 131], Rotation::Never).unwrap();
        let message = b"Test Using Larger Than Block-Size Key - Hash Key First";
        let hash = digest(key.mac, message);
        assert_eq!(hash[..8], [0x60, 0xe4, 0x31, 0x59, 0x1e, 0xe0, 0xb6, 0x7f]);
    }

    #[test]
    fn a_plate_has_one_hash_per_period_of_event_time() {
        let times = [5 * DAY_MS, 5 * DAY_MS + 1, 6 * DAY_MS, 40 * DAY_MS];
        let never = hashes(Rotation::Never, &times);
        assert!(never.iter().all(|hash| *hash == never[0]));
        let daily = hashes(Rotation::Daily, &times);
        assert_eq!(daily[0], daily[1]);
        assert!(daily[0] != daily[2] && daily[2] != daily[3]);
        let monthly = hashes(Rotation::Monthly, &times);
        assert!(monthly[0] == monthly[2] && monthly[0] != monthly[3]);
        assert!(never[0] != daily[0] && daily[0] != monthly[0]);
    }

    #[test]
    fn kept_is_kept_and_dropped_is_dropped() {
        let plate = PlateText::new("A123БВ68").unwrap();
        let time = EventTime::from_millis(0);
        assert_eq!(
            Plates::new(&PlatePolicy::Kept).apply(plate, time),
            Plate::Text(plate)
        );
        assert_eq!(
            Plates::new(&PlatePolicy::Dropped).apply(plate, time),
            Plate::Absent
        );
    }

    #[test]
    fn the_key_is_read_from_a_file_and_never_shown() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("key");
        std::fs::write(&path, format!("{}\n", "k".repeat(32))).unwrap();
        let key = PlateKey::read(&path, Rotation::Daily).unwrap();
        assert_eq!(format!("{key:?}"), "PlateKey { rotation: Daily, .. }");
        assert!(PlateKey::read(&place.path().join("none"), Rotation::Daily).is_err());
        std::fs::write(&path, "k".repeat(31)).unwrap();
        assert!(PlateKey::read(&path, Rotation::Daily).is_err());
    }
}
