//! How few bytes a passage could take: the entropy of its fields, each counted by itself.
//!
//! Pure. A bound for coders that do not know how fields depend on each other (which lane is fast,
//! who follows whom); what is below it has been gained from that. Numbers that are drawn evenly
//! (serials and letters of plates, hashes) count with the logarithm of how many there are.

use std::collections::HashMap;
use std::hash::Hash;

use proto::{Passage, Plate};

/// Letters and digits of a civil plate: 12³ letters, 999 numbers.
const CIVIL_BODIES: f64 = 12.0 * 12.0 * 12.0 * 999.0;
/// A foreign plate: four digits, two letters, a region.
const FOREIGN_PLATES: f64 = 9_990.0 * 26.0 * 26.0 * 7.0;
const HASH_BITS: f64 = 64.0;

/// Bytes per passage; 0 without passages.
#[must_use]
pub fn bytes_per_passage(passages: &[Passage]) -> f64 {
    let gaps = passages
        .windows(2)
        .map(|pair| pair[1].event_time.as_millis() - pair[0].event_time.as_millis());
    let bits = of_values(gaps)
        + of_values(passages.iter().map(|p| p.speed))
        + of_values(passages.iter().map(|p| p.lane))
        + of_values(passages.iter().map(|p| p.vehicle_class))
        + of_values(passages.iter().map(|p| p.violation))
        + of_plates(passages);
    bits / 8.0
}

/// Bits per passage: which kind, which region, and what is drawn evenly.
fn of_plates(passages: &[Passage]) -> f64 {
    let kind = |passage: &Passage| match &passage.plate {
        Plate::Absent => (0, String::new()),
        Plate::Hash(_) => (1, String::new()),
        Plate::Text(text) if text.as_str().contains('-') => (2, String::new()),
        Plate::Text(text) => (3, text.as_str().chars().skip(6).collect()),
    };
    let drawn: f64 = passages
        .iter()
        .map(|passage| match kind(passage).0 {
            1 => HASH_BITS,
            2 => FOREIGN_PLATES.log2(),
            3 => CIVIL_BODIES.log2(),
            _ => 0.0,
        })
        .sum();
    of_values(passages.iter().map(kind)) + drawn / count(passages.len().max(1))
}

/// Shannon's entropy of the values, in bits per value.
fn of_values<T: Eq + Hash>(values: impl Iterator<Item = T>) -> f64 {
    let mut counts: HashMap<T, usize> = HashMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    let total = count(counts.values().sum());
    counts
        .values()
        .map(|&n| count(n) / total * (total / count(n)).log2())
        .sum()
}

#[expect(clippy::cast_precision_loss, reason = "counts below 2^52")]
const fn count(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_draws_cost_their_logarithm_and_constants_nothing() {
        assert!((of_values(0..256) - 8.0).abs() < 1e-9);
        assert!(of_values([5; 100].into_iter()).abs() < 1e-9);
        assert!(of_values(std::iter::empty::<u8>()).abs() < 1e-9);
        assert!(bytes_per_passage(&[]).abs() < 1e-9);
    }
}
