//! ● When passages are known to be lost.
//!
//! Losses do not hold back what is final; they make the windows incomplete whose time they touch.

use std::ops::Range;

use tokio_postgres::Row;

use super::instant::Instant;
use super::{ReadError, column};

/// Stretches of event time in which passages are known to be lost, in whole 5-minute windows.
/// In ms since 1970, by time, apart from each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses(Vec<Range<i64>>);

impl Losses {
    /// Of stretches in any order that do not overlap.
    #[must_use]
    pub fn new(mut stretches_ms: Vec<Range<i64>>) -> Self {
        stretches_ms.sort_unstable_by_key(|stretch| stretch.start);
        Self(stretches_ms)
    }

    /// Whether any passage of this time is known to be lost.
    #[must_use]
    pub fn touch(&self, time_ms: &Range<i64>) -> bool {
        let next = self
            .0
            .partition_point(|stretch| stretch.end <= time_ms.start);
        self.0
            .get(next)
            .is_some_and(|stretch| stretch.start < time_ms.end)
    }
}

/// Whether a row of `v_loss` is a loss now.
pub(super) const LOST: &str = "passages > 0";

/// Whether it was one at the time `$4`.
pub(super) const LOST_THEN: &str = "booked_at <= $4 AND (passages > 0 OR recovered_at > $4)";

/// Selects begin and end of these stretches for `units` (a condition on `device`), of what is `lost`
/// ([`LOST`]), between two parameters, which must be whole windows. A loss whose time is not known is
/// of every time; one whose unit says that it ends before it begins reaches over both.
pub(super) fn stretches(units: &str, lost: &str, [from, to]: [&str; 2]) -> String {
    format!(
        "SELECT lower(stretch) AS begins, upper(stretch) AS ends \
         FROM (SELECT unnest(range_agg(tstzrange( \
                 greatest(least(begins, ends), {from}), \
                 least(greatest(begins, ends), {to})))) AS stretch \
             FROM (SELECT date_bin('5 minutes', coalesce(event_min, {from}), 'epoch') AS begins, \
                     date_bin('5 minutes', coalesce(event_max, {to}), 'epoch') \
                         + interval '5 minutes' AS ends \
                 FROM v_loss \
                 WHERE {units} AND scope = 'all' AND {lost} \
                     AND (event_max >= {from} OR event_max IS NULL) \
                     AND (event_min < {to} OR event_min IS NULL)) AS losses) AS stretches"
    )
}

/// A stretch from the columns that begin at `place`.
pub(super) fn read(row: &Row, place: usize) -> Result<Range<i64>, ReadError> {
    let begins: Instant = column(row, place)?;
    let ends: Instant = column(row, place + 1)?;
    Ok(begins.0..ends.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_stretch_is_found_just_when_it_overlaps(
            lengths in prop::collection::vec((1i64..4, 1i64..4), 0..8),
            start in 0i64..40,
            length in 1i64..6,
        ) {
            let mut end = 0;
            let mut stretches: Vec<Range<i64>> = lengths
                .into_iter()
                .map(|(gap, length)| {
                    let start = end + gap;
                    end = start + length;
                    start..end
                })
                .collect();
            stretches.reverse();
            let time = start..start + length;
            let overlaps = stretches
                .iter()
                .any(|stretch| stretch.start < time.end && time.start < stretch.end);
            prop_assert_eq!(Losses::new(stretches).touch(&time), overlaps);
        }
    }
}
