//! How fast passages come and go. Pure.

use std::collections::VecDeque;

use crate::uplink::backoff::Millis;

/// Over how long the rates of now are taken.
const SPAN_MS: Millis = 60_000;

/// How often a sample is taken.
pub const SAMPLE_MS: Millis = 1_000;

/// The least time after which a rate is told to others.
const TOLD_AFTER_MS: Millis = 10_000;

/// Over how long the usual traffic is taken: day and night together.
const DAY_MS: Millis = 24 * 3_600_000;

/// How often a sample for that is taken.
const DAY_SAMPLE_MS: Millis = 600_000;

/// Two counters over the last minute, and one of them over the last day.
#[derive(Debug, Clone, Default)]
pub struct Rates {
    /// `(when, accepted, receipted)`, at most one a sample interval over the span.
    samples: VecDeque<(Millis, u64, u64)>,
    /// `(when, accepted)`, the same over a day.
    day: VecDeque<(Millis, u64)>,
}

/// Passages per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Flow {
    /// Made durable, over the last minute.
    pub in_per_s: f64,
    /// Receipted, over the last minute.
    pub out_per_s: f64,
    /// Made durable, over the last day, or since the start.
    pub usual_in_per_s: f64,
    /// Whether that was for long enough to tell others.
    pub known: bool,
}

impl Flow {
    /// Passages a minute by which what waits shrinks; none before that is known.
    #[must_use]
    pub fn drain_per_min(self) -> Option<i64> {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "casts of floats saturate, and passages a minute are far below"
        )]
        self.known
            .then(|| ((self.out_per_s - self.in_per_s) * 60.0).round() as i64)
    }
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
        if self
            .day
            .back()
            .is_none_or(|(at, _)| at + DAY_SAMPLE_MS <= now)
        {
            self.day.push_back((now, accepted));
        }
        while self.day.front().is_some_and(|(at, _)| at + DAY_MS < now) {
            self.day.pop_front();
        }
    }

    /// What follows from the samples; 0 before the second.
    #[must_use]
    pub fn flow(&self) -> Flow {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return Flow::default();
        };
        let span_ms = last.0 - first.0;
        let usual = self.day.front().map_or(0.0, |(at, accepted)| {
            per_second(last.1, *accepted, last.0 - at)
        });
        Flow {
            in_per_s: per_second(last.1, first.1, span_ms),
            out_per_s: per_second(last.2, first.2, span_ms),
            usual_in_per_s: usual,
            known: span_ms >= TOLD_AFTER_MS,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a day's passages are far below 2⁵²"
)]
fn per_second(after: u64, before: u64, span_ms: Millis) -> f64 {
    if span_ms == 0 {
        return 0.0;
    }
    after.saturating_sub(before) as f64 * 1_000.0 / span_ms as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_cover_the_last_minute_and_the_last_day_only() {
        let mut rates = Rates::default();
        assert_eq!(rates.flow(), Flow::default());
        // A burst that lies more than a day back, then 12 a second in and 6 out.
        rates.sample(0, 0, 0);
        for second in 1..=120_000 {
            rates.sample(second * SAMPLE_MS, 1_000_000 + second * 12, second * 6);
        }
        let flow = rates.flow();
        assert_eq!((flow.in_per_s, flow.out_per_s), (12.0, 6.0));
        assert_eq!(
            (flow.usual_in_per_s, flow.drain_per_min()),
            (12.0, Some(-360))
        );
        assert!(rates.samples.len() <= 61 && rates.day.len() <= 145);
    }

    #[test]
    fn nobody_is_told_a_rate_of_a_few_seconds() {
        let mut rates = Rates::default();
        rates.sample(0, 0, 0);
        rates.sample(9_000, 900, 0);
        assert_eq!(rates.flow().drain_per_min(), None);
        rates.sample(10_000, 1_000, 0);
        assert_eq!(rates.flow().drain_per_min(), Some(-6_000));
    }
}
