//! One column of whole numbers: patched frame of reference (Zukowski et al., "Super-Scalar RAM-CPU
//! Cache Compression", ICDE 2006).
//!
//! Each value is `base + step × q`. The `q` are packed with one width of bits; the few that need
//! more keep their upper bits in a list of patches. At 500 values this comes close to the entropy
//! of what units measure, at a nanosecond a value, and costs three bytes when all values are equal.

use serde::{Deserialize, Serialize};

/// The widest packing: a value at any bit offset can then be read with one load of 8 bytes.
const WIDTH_MAX: u32 = 56;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Column {
    /// Every value is this one.
    Constant(u64),
    /// See the module.
    Packed {
        base: u64,
        step: u64,
        width: u8,
        patches: Vec<Patch>,
        bits: Vec<u8>,
    },
}

/// The upper bits of one `q` that is wider than the packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Patch {
    /// Values between this patch and the one before.
    skip: u16,
    /// What stands above the packed bits.
    high: u64,
}

/// A column from the wire that does not hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ColumnError {
    #[error("is packed with {0} bits a value, the limit is {WIDTH_MAX}")]
    Width(u8),
    #[error("has {found} bytes of packed values where {wanted} are needed")]
    Length { found: usize, wanted: usize },
    #[error("has a value beyond {0}")]
    Value(u64),
    #[error("has a patch outside its values")]
    Patch,
}

impl Column {
    /// Packs the values, each below 2⁶⁰.
    pub(crate) fn pack(values: &[u64]) -> Self {
        let Some((&base, &top)) = values.iter().min().zip(values.iter().max()) else {
            return Self::Constant(0);
        };
        if base == top {
            return Self::Constant(base);
        }
        let step = common_step(values, base);
        let mut quotients: Vec<u64> = values.iter().map(|value| value - base).collect();
        if step > 1 {
            quotients.iter_mut().for_each(|quotient| *quotient /= step);
        }
        let width = cheapest_width(&quotients);
        let mut patches = Vec::new();
        let mut skip = 0_u16;
        let mut writer = BitWriter::with_capacity(packed_len(values.len(), width));
        for quotient in quotients {
            writer.write(quotient & low_mask(width), width);
            let high = quotient >> width;
            if high == 0 {
                skip += 1;
            } else {
                patches.push(Patch { skip, high });
                skip = 0;
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "a width is at most 56")]
        Self::Packed {
            base,
            step,
            width: width as u8,
            patches,
            bits: writer.finish(),
        }
    }

    /// Unpacks `count` values, each at most `max`, into `values` (cleared first).
    pub(crate) fn unpack(
        &self,
        count: usize,
        max: u64,
        values: &mut Vec<u64>,
    ) -> Result<(), ColumnError> {
        values.clear();
        match self {
            Self::Constant(value) if *value > max => Err(ColumnError::Value(max)),
            Self::Constant(value) => {
                values.resize(count, *value);
                Ok(())
            }
            Self::Packed {
                base,
                step,
                width,
                patches,
                bits,
            } => {
                let width_bits = u32::from(*width);
                if width_bits > WIDTH_MAX {
                    return Err(ColumnError::Width(*width));
                }
                let wanted = packed_len(count, width_bits);
                if bits.len() != wanted {
                    return Err(ColumnError::Length {
                        found: bits.len(),
                        wanted,
                    });
                }
                unpack_bits(bits, width_bits, count, values);
                apply_patches(patches, width_bits, values)?;
                scale(*base, *step, max, values)
            }
        }
    }
}

/// What all distances from the base are multiples of.
fn common_step(values: &[u64], base: u64) -> u64 {
    let mut step = 0;
    for value in values {
        step = gcd(value - base, step);
        if step == 1 {
            break;
        }
    }
    step
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

const fn low_mask(width: u32) -> u64 {
    (1 << width) - 1
}

const fn packed_len(count: usize, width: u32) -> usize {
    (count * width as usize).div_ceil(8)
}

/// The width with the fewest bytes for packed bits and patches together; of several the least.
fn cheapest_width(quotients: &[u64]) -> u32 {
    let mut of_len = [0_usize; 65];
    let mut longest = 0;
    for quotient in quotients {
        let len = u64::BITS - quotient.leading_zeros();
        of_len[len as usize] += 1;
        longest = longest.max(len);
    }
    let cost = |width: u32| {
        let patches: usize = (width + 1..=longest)
            .map(|len| of_len[len as usize] * (1 + (len - width).div_ceil(7) as usize))
            .sum();
        packed_len(quotients.len(), width) + patches
    };
    // Wider than the longest value costs more and gains nothing.
    let widest = longest.min(WIDTH_MAX);
    (0..=widest)
        .min_by_key(|width| cost(*width))
        .unwrap_or(widest)
}

fn unpack_bits(bits: &[u8], width: u32, count: usize, values: &mut Vec<u64>) {
    let mask = low_mask(width);
    let width = width as usize;
    // Values whose 8-byte load stays inside the slice are read without a branch.
    let fast = if bits.len() < 8 || width == 0 {
        0
    } else {
        (((bits.len() - 8) * 8) / width + 1).min(count)
    };
    values.extend((0..fast).map(|place| {
        let bit = place * width;
        let at = bit / 8;
        let word: [u8; 8] = bits[at..at + 8].try_into().unwrap_or_default();
        (u64::from_le_bytes(word) >> (bit % 8)) & mask
    }));
    values.extend((fast..count).map(|place| {
        let bit = place * width;
        let at = (bit / 8).min(bits.len());
        let tail = &bits[at..(at + 8).min(bits.len())];
        let mut word = [0; 8];
        word[..tail.len()].copy_from_slice(tail);
        (u64::from_le_bytes(word) >> (bit % 8)) & mask
    }));
}

fn apply_patches(patches: &[Patch], width: u32, values: &mut [u64]) -> Result<(), ColumnError> {
    let mut place = 0_usize;
    for patch in patches {
        place += usize::from(patch.skip);
        let value = values.get_mut(place).ok_or(ColumnError::Patch)?;
        if patch.high.leading_zeros() < width {
            return Err(ColumnError::Patch);
        }
        *value |= patch.high << width;
        place += 1;
    }
    Ok(())
}

fn scale(base: u64, step: u64, max: u64, values: &mut [u64]) -> Result<(), ColumnError> {
    let top = values.iter().copied().max().unwrap_or(0);
    let fits = top
        .checked_mul(step)
        .and_then(|top| top.checked_add(base))
        .is_some_and(|t| t <= max);
    if !fits {
        return Err(ColumnError::Value(max));
    }
    values
        .iter_mut()
        .for_each(|value| *value = base + *value * step);
    Ok(())
}

/// Writes a word at a time: what of it is not yet whole bytes is written over by the next.
struct BitWriter {
    bytes: Vec<u8>,
    at: usize,
    pending: u64,
    pending_bits: u32,
}

/// Bytes of a word.
const WORD_BYTES: usize = 8;

impl BitWriter {
    fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes + WORD_BYTES],
            at: 0,
            pending: 0,
            pending_bits: 0,
        }
    }

    fn write(&mut self, value: u64, width: u32) {
        // At most 7 bits wait and a value has at most 56, so the word never overflows.
        self.pending |= value << self.pending_bits;
        self.pending_bits += width;
        self.bytes[self.at..self.at + WORD_BYTES].copy_from_slice(&self.pending.to_le_bytes());
        let whole = self.pending_bits / 8;
        self.at += whole as usize;
        self.pending >>= whole * 8;
        self.pending_bits %= 8;
    }

    fn finish(mut self) -> Vec<u8> {
        let started = usize::from(self.pending_bits > 0);
        self.bytes.truncate(self.at + started);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn values_survive_packing(
            values in prop::collection::vec(
                prop_oneof![0_u64..2, 0_u64..1_000, (0_u64..50).prop_map(|v| v * 1_000), 0_u64..1 << 60],
                0..600,
            )
        ) {
            let column = Column::pack(&values);
            let bytes = postcard::to_stdvec(&column).unwrap();
            let column: Column = postcard::from_bytes(&bytes).unwrap();
            let mut unpacked = Vec::new();
            column.unpack(values.len(), 1 << 60, &mut unpacked).unwrap();
            prop_assert_eq!(unpacked, values);
        }

        #[test]
        fn no_column_from_the_wire_panics(bytes in prop::collection::vec(any::<u8>(), 0..64), count in 0_usize..4_096) {
            if let Ok(column) = postcard::from_bytes::<Column>(&bytes) {
                let mut values = Vec::new();
                if column.unpack(count, 40_000, &mut values).is_ok() {
                    prop_assert_eq!(values.len(), count);
                    prop_assert!(values.iter().all(|value| *value <= 40_000));
                }
            }
        }
    }

    #[test]
    fn a_rare_outlier_does_not_widen_all_the_others() {
        let mut values = vec![3; 499];
        values[7] = 1;
        values.push(1 << 40);
        let bytes = postcard::to_stdvec(&Column::pack(&values)).unwrap();
        // Two bits for each of the 500, against 40 without patches.
        assert!(bytes.len() < 125 + 20, "{}", bytes.len());
    }
}
