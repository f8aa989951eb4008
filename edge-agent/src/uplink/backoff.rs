//! How long to wait before trying again: capped exponential with full jitter.
//!
//! Pure: chance comes from a [`Jitter`] that the shell seeds, so a test repeats a run exactly.
//! Full jitter (uniform from 0 to the capped bound) spreads a fleet that failed together better
//! than any fixed share of the bound (M. Brooker, "Exponential Backoff and Jitter", AWS, 2015).

/// Milliseconds on the monotonic clock, or a number of them.
pub type Millis = u64;

/// A bound that doubles with each failure up to a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The bound of the first wait.
    pub base_ms: Millis,
    /// The bound that is never exceeded.
    pub cap_ms: Millis,
}

impl Backoff {
    /// The greatest wait after this many failures in a row.
    #[must_use]
    pub fn bound_ms(self, failures: u32) -> Millis {
        let doubled = 1_u64
            .checked_shl(failures.saturating_sub(1))
            .unwrap_or(u64::MAX);
        self.base_ms.saturating_mul(doubled).min(self.cap_ms)
    }

    /// A wait drawn from 0 to the bound.
    #[must_use]
    pub fn wait_ms(self, failures: u32, jitter: &mut Jitter) -> Millis {
        jitter.up_to(self.bound_ms(failures))
    }
}

/// A stream of even chances (SplitMix64). It decides when, never what: no secret hangs on it.
#[derive(Debug, Clone)]
pub struct Jitter(u64);

impl Jitter {
    /// The stream of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number from 0 to `bound`, both included.
    pub fn up_to(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        bound.checked_add(1).map_or(mixed, |places| mixed % places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base_ms: 1_000,
        cap_ms: 60_000,
    };

    #[test]
    fn the_bound_doubles_up_to_the_cap() {
        let bounds =
            [0, 1, 2, 3, 6, 7, 64, 65, u32::MAX].map(|failures| BACKOFF.bound_ms(failures));
        let cap = 60_000;
        assert_eq!(
            bounds,
            [1_000, 1_000, 2_000, 4_000, 32_000, cap, cap, cap, cap]
        );
    }

    #[test]
    fn waits_fill_the_whole_span_and_never_leave_it() {
        let mut jitter = Jitter::new(7);
        let waits: Vec<_> = (0..1_000)
            .map(|_| BACKOFF.wait_ms(3, &mut jitter))
            .collect();
        assert!(waits.iter().all(|wait| *wait <= 4_000));
        assert!(waits.iter().any(|wait| *wait < 400) && waits.iter().any(|wait| *wait > 3_600));
    }

    #[test]
    fn two_seeds_draw_apart_and_one_seed_repeats_itself() {
        let draw = |seed| {
            let mut jitter = Jitter::new(seed);
            [(); 4].map(|()| jitter.up_to(u64::MAX))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
