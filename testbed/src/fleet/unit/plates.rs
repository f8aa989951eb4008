//! What a unit does with number plates before it keeps them.

use proto::Plate;

/// What a unit does with plates before it keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plates {
    /// Keeps them as read.
    Kept,
    /// Replaces them by eight bytes that look like a keyed hash: incompressible, equal for equal
    /// plates.
    Hashed,
    /// Drops them.
    Dropped,
}

impl Plates {
    /// The plate as it is kept.
    #[must_use]
    pub fn keep(self, read: Plate, key: u64) -> Plate {
        match (self, read) {
            (Self::Kept, read) => read,
            (Self::Hashed, Plate::Text(text)) => Plate::Hash(scramble(text.as_str(), key)),
            (Self::Hashed, read) => read,
            (Self::Dropped, _) => Plate::Absent,
        }
    }
}

/// Not a secret hash, only one with the statistics of it (FNV-1a, then a finaliser).
fn scramble(text: &str, key: u64) -> [u8; 8] {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325 ^ key, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    mix(hash).to_be_bytes()
}

/// The finaliser of SplitMix64: any pattern in, none out.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
