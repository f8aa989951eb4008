//! Passages per second over the last minute. Pure.

use std::collections::VecDeque;

use crate::uplink::backoff::Millis;

/// Over how long a rate is taken.
const SPAN_MS: Millis = 60_000;

/// How often a sample is taken.
pub const SAMPLE_MS: Millis = 1_000;

/// Two counters over the last minute.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// `(when, accepted, receipted)`, at most one a sample interval over the span.
    samples: VecDeque<(Millis, u64, u64)>,
}

impl Rates {
    /// Remembers what the counters say now.
    pub fn sample(&mut self, now: Millis, accepted: u64, receipted: u64) {
        self.samples.push_back((now, accepted, receipted));
        while self
            .samples
            .front()
            .is_some_and(|(at, ..)| at + SPAN_MS < now)
        {
            self.samples.pop_front();
        }
    }

    /// Passages per second in (accepted) and out (receipted); 0 before the second sample.
    #[must_use]
    pub fn per_second(&self) -> (f64, f64) {
        match (self.samples.front(), self.samples.back()) {
            (Some(first), Some(last)) if first.0 < last.0 => {
                let rate = |before, after| per_second(after, before, last.0 - first.0);
                (rate(first.1, last.1), rate(first.2, last.2))
            }
            _ => (0.0, 0.0),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a minute's passages are far below 2⁵²"
)]
fn per_second(after: u64, before: u64, span_ms: Millis) -> f64 {
    after.saturating_sub(before) as f64 * 1_000.0 / span_ms as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_cover_the_last_minute_only() {
        let mut rates = Rates::default();
        assert_eq!(rates.per_second(), (0.0, 0.0));
        // A burst that lies more than a minute back, then 12 a second in and 6 out.
        rates.sample(0, 0, 0);
        for second in 1..=120 {
            rates.sample(second * SAMPLE_MS, 1_000_000 + second * 12, second * 6);
        }
        assert_eq!(rates.per_second(), (12.0, 6.0));
        assert!(rates.samples.len() <= 61);
    }
}
