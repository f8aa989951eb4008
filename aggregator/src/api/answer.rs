//! ● What the API says, and how it follows from what the database holds.
//!
//! Of a time in the past the same is said as was said then. Where that is not known, there are no
//! numbers.

pub mod group;
pub mod ledger;
pub mod reason;
pub mod speed;
pub mod unit;
pub mod window;

use serde::Serialize;
use utoipa::ToSchema;

/// How settled a statistic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The unit has said that all passages of this time are counted.
    Final,
    /// Changed after it was final, by passages that came later still.
    Revised,
    /// Passages may still be on their way.
    Partial,
}

impl State {
    /// Of a window of one unit, or of the same window of many: `settled` when it is final for all of
    /// them, `revised` when it has changed for any of them since.
    ///
    /// What is final stays so and only what is final is revised, so of one unit these two say all.
    /// Of many, one that may still deliver weighs more than one whose past has changed.
    const fn of(settled: bool, revised: bool) -> Self {
        match (settled, revised) {
            (false, _) => Self::Partial,
            (true, true) => Self::Revised,
            (true, false) => Self::Final,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proto::device::DeviceId;

    use super::super::range::TimeRange;
    use super::super::utc::Utc;
    use super::group::GroupAnswer;
    use super::speed::SpeedAnswer;
    use super::*;
    use crate::store::reader::{
        GroupRows, GroupUnit, GroupWindow, Interval, SpeedRows, Standing, Sums, Totals, WindowRow,
    };

    const BUCKET_MS: i64 = 300_000;
    const NOW_MS: i64 = 10 * BUCKET_MS;

    /// A window with one vehicle that begins the day, of a unit that is final up to then, once alone
    /// and once as a group of one: what is said of it and of the time around it.
    fn said(final_to_ms: Option<i64>, revised: bool, past: bool) -> [(State, State); 2] {
        let device = DeviceId::new("KV1").unwrap();
        let to = Utc::from_millis(BUCKET_MS);
        let range = TimeRange::new(Utc::from_millis(0), to, Interval::FiveMinutes, 1).unwrap();
        let standing = Standing {
            final_to_ms,
            ..Standing::default()
        };
        let sums = Sums {
            n: 1,
            ..Sums::default()
        };
        let mut totals = Totals::default();
        totals.add(&sums, 0, &[]).unwrap();
        let row = WindowRow {
            start_ms: 0,
            sums,
            p50: None,
            p85: None,
            revised,
            revision: 2,
        };
        let alone = SpeedRows::of(standing, vec![row]);
        let window = GroupWindow {
            totals,
            revised,
            revision: 2,
        };
        let unit = GroupUnit {
            device: device.as_str().to_owned(),
            standing,
            lacks_windows: false,
        };
        let group = GroupRows {
            units: vec![unit],
            windows: BTreeMap::from([(0, window)]),
            ..GroupRows::default()
        };
        let (name, asked, now) = (device.as_str(), [device.clone()], Utc::from_millis(NOW_MS));
        let (alone, group) = match past {
            false => (
                SpeedAnswer::new(name, &range, &alone, now),
                GroupAnswer::new(&asked, &range, &group, now),
            ),
            true => (
                SpeedAnswer::past(name, &range, &alone, now),
                GroupAnswer::past(&asked, &range, &group, now),
            ),
        };
        let partial = alone.windows[0].state() == State::Partial;
        assert_eq!(alone.reasons.is_empty(), !partial, "{:?}", alone.reasons);
        [
            (alone.windows[0].state(), alone.state),
            (group.windows[0].state, group.state),
        ]
    }

    #[test]
    fn a_unit_alone_and_a_group_of_it_are_in_one_state_now_and_as_of_a_time() {
        for (final_to_ms, revised, state) in [
            (None, false, State::Partial),
            (Some(BUCKET_MS - 1), false, State::Partial),
            (Some(BUCKET_MS), false, State::Final),
            (Some(BUCKET_MS), true, State::Revised),
            // Rows that nobody writes: see `State::of`.
            (None, true, State::Partial),
            (Some(BUCKET_MS - 1), true, State::Partial),
        ] {
            for past in [false, true] {
                let said = said(final_to_ms, revised, past);
                assert_eq!(
                    said,
                    [(state, state); 2],
                    "{final_to_ms:?} {revised} {past}"
                );
            }
        }
    }
}
