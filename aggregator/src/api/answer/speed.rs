//! ● What the API says of one unit's speeds.
//!
//! Invariant: a range has an entry for every window that could have counted something: each window
//! with a row, and each window without that began after the centre first heard of the unit and
//! before now. Zero vehicles in a final window is a fact; before the first sign of the unit there is
//! no fact, and no entry.

use serde::Serialize;
use utoipa::ToSchema;

use super::super::range::TimeRange;
use super::super::utc::Utc;
use super::State;
use super::reason::{Reason, ReasonKinds, Reasons};
use super::window::{Entry, SpeedWindow};
use crate::store::reader::{Interval, SpeedRows};

/// Speed over a range of time: the whole, and each window.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SpeedAnswer {
    /// Name of the unit.
    #[schema(example = "KV12345")]
    pub kvfv_id: String,
    /// Beginning of the range, inclusive.
    #[schema(value_type = String, format = DateTime, example = "2025-04-05T10:00:00Z")]
    pub from: Utc,
    /// End of the range, exclusive.
    #[schema(value_type = String, format = DateTime, example = "2025-04-05T10:10:00Z")]
    pub to: Utc,
    /// Length of the windows.
    pub interval: Interval,
    /// The time as of which this is said; absent for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-06T10:00:00Z")]
    pub as_of: Option<Utc>,
    /// Time-mean speed over all windows in km/h, two decimals, halves upwards; null without speeds.
    #[schema(example = 84.37)]
    pub avg_speed: Option<f64>,
    /// Space-mean (harmonic) speed of the vehicles of at least 1 km/h, km/h.
    #[schema(example = 82.9)]
    pub space_mean_speed: Option<f64>,
    /// Vehicles counted, with or without a speed; null when that is not kept (`as_of`).
    #[schema(example = 60)]
    pub vehicles: Option<u64>,
    /// Median speed in km/h, from the merged histograms of 1 km/h bins.
    #[schema(example = 84.12)]
    pub p50: Option<f64>,
    /// Speed in km/h that 85 % of the vehicles do not exceed, from the merged histograms.
    #[schema(example = 95.5)]
    pub p85: Option<f64>,
    /// `partial` when any window is, or when the range reaches beyond what the unit has settled;
    /// else `revised` when any window is; else `final`.
    pub state: State,
    /// False when passages of this time are known to be lost. That holds no window back.
    pub complete: bool,
    /// How many times the windows were written; it rises when any of them changes. Null when that of
    /// one is not kept.
    #[schema(example = 9)]
    pub revision: Option<i64>,
    /// Windows that end by then are final; null before the unit has said so of any.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:05:00Z")]
    pub final_to: Option<Utc>,
    /// Why windows are partial; each kind once.
    pub reasons: Vec<Reason>,
    /// One entry for each window that starts in the range, by time. Left out: windows without
    /// vehicles that began before the centre first heard of the unit, and those yet to begin.
    #[schema(value_type = Vec<SpeedWindow>)]
    pub windows: Vec<Entry>,
}

impl SpeedAnswer {
    /// Answers for `range` at the time `now`.
    #[must_use]
    pub fn new(kvfv_id: &str, range: &TimeRange, rows: &SpeedRows, now: Utc) -> Self {
        let now_ms = now.as_millis();
        Self::at(
            kvfv_id,
            range,
            rows,
            now_ms,
            &Reasons::of(&rows.standing, now_ms),
        )
    }

    /// Answers for `range` as it was answered at the time `as_of`, from rows as they were then.
    #[must_use]
    pub fn past(kvfv_id: &str, range: &TimeRange, rows: &SpeedRows, as_of: Utc) -> Self {
        let reasons = Reasons::past(rows.standing.final_to_ms);
        Self {
            as_of: Some(as_of),
            ..Self::at(kvfv_id, range, rows, as_of.as_millis(), &reasons)
        }
    }

    fn at(
        kvfv_id: &str,
        range: &TimeRange,
        rows: &SpeedRows,
        now_ms: i64,
        reasons: &Reasons,
    ) -> Self {
        let interval = range.interval();
        let covered = range.covered_ms();
        let known_from = interval.floor(rows.standing.first_seen_ms);
        let mut known = rows.windows.iter().peekable();
        let mut not_kept = rows.not_kept.iter().peekable();
        let step = usize::try_from(interval.length_ms()).unwrap_or(usize::MAX);
        let windows: Vec<Entry> = covered
            .clone()
            .step_by(step)
            .filter_map(|start| {
                let time = start..start + interval.length_ms();
                let (why, complete) = (reasons.of_window(&time), !rows.losses.touch(&time));
                match known.next_if(|window| window.row.start_ms == start) {
                    Some(window) => Some(Entry::known(window, time.end, why, complete)),
                    None if not_kept.next_if_eq(&&start).is_some() => {
                        Some(Entry::Other(SpeedWindow::not_kept(&time, complete)))
                    }
                    None if known_from <= start && start < now_ms => Some(Entry::Other(
                        SpeedWindow::without_vehicles(time, why, complete),
                    )),
                    None => None,
                }
            })
            .collect();
        // A range may reach beyond its last window.
        let beyond = reasons.of_window(&(covered.end - interval.length_ms()..covered.end));
        let why = windows
            .iter()
            .map(Entry::reasons)
            .fold(beyond, ReasonKinds::and);
        let state = windows
            .iter()
            .map(Entry::state)
            .fold(State::of(beyond.is_empty(), false), State::max);
        let totals = rows.totals.as_ref();
        Self {
            kvfv_id: kvfv_id.to_owned(),
            from: range.from(),
            to: range.to(),
            interval,
            as_of: None,
            avg_speed: totals.and_then(|totals| totals.sums.time_mean_kmh()),
            space_mean_speed: totals.and_then(|totals| totals.sums.space_mean_kmh()),
            vehicles: totals.map(|totals| totals.sums.n),
            p50: totals.and_then(|totals| totals.percentile_kmh(50)),
            p85: totals.and_then(|totals| totals.percentile_kmh(85)),
            state,
            complete: !rows.losses.touch(&covered),
            revision: windows
                .iter()
                .map(|window| window.revision().map(i64::from))
                .sum(),
            final_to: rows.standing.final_to_ms.map(Utc::from_millis),
            reasons: reasons.list(why),
            windows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::reader::{Standing, Sums, WindowRow};

    const MINUTE: i64 = 60_000;

    fn range(windows: i64) -> TimeRange {
        let to = Utc::from_millis(windows * 5 * MINUTE);
        TimeRange::new(Utc::from_millis(0), to, Interval::FiveMinutes, 100).unwrap()
    }

    fn row(start_ms: i64, revised: bool) -> WindowRow {
        let sums = Sums {
            n: 1,
            ..Sums::default()
        };
        WindowRow {
            start_ms,
            sums,
            p50: None,
            p85: None,
            revised,
            revision: 1,
        }
    }

    fn answer(rows: Vec<WindowRow>, seen: i64, final_to: Option<i64>, now: i64) -> SpeedAnswer {
        let standing = Standing {
            first_seen_ms: seen * MINUTE,
            final_to_ms: final_to.map(|minutes| minutes * MINUTE),
            ..Standing::default()
        };
        let rows = SpeedRows::of(standing, rows);
        SpeedAnswer::new("KV1", &range(4), &rows, Utc::from_millis(now * MINUTE))
    }

    fn shown(answer: &SpeedAnswer) -> Vec<(i64, u64, State)> {
        let entry = |entry: &Entry| {
            let json = serde_json::to_value(entry).unwrap();
            let start = Utc::parse(json["start"].as_str().unwrap()).unwrap();
            (
                start.as_millis() / MINUTE,
                json["vehicles"].as_u64().unwrap(),
                entry.state(),
            )
        };
        answer.windows.iter().map(entry).collect()
    }

    #[test]
    fn a_gap_is_zero_after_the_first_sign_and_absent_before() {
        let answer = answer(vec![row(10 * MINUTE, false)], 7, Some(20), 60);
        let expected = [
            (5, 0, State::Final),
            (10, 1, State::Final),
            (15, 0, State::Final),
        ];
        assert_eq!(shown(&answer), expected);
        assert_eq!(answer.state, State::Final);
    }

    #[test]
    fn windows_yet_to_begin_are_absent_and_leave_the_range_partial() {
        let answer = answer(vec![row(0, false)], 0, Some(10), 11);
        let expected = [
            (0, 1, State::Final),
            (5, 0, State::Final),
            (10, 0, State::Partial),
        ];
        assert_eq!(shown(&answer), expected);
        assert_eq!(answer.state, State::Partial);
    }

    #[test]
    fn history_older_than_the_first_sign_is_shown() {
        let answer = answer(vec![row(5 * MINUTE, false)], 1_000, None, 2_000);
        assert_eq!(shown(&answer), [(5, 1, State::Partial)]);
    }

    #[test]
    fn one_revised_window_makes_a_settled_range_revised() {
        let revised = answer(vec![row(5 * MINUTE, true)], 0, Some(20), 60);
        assert_eq!(revised.state, State::Revised);
        let partial = answer(vec![row(5 * MINUTE, true)], 0, Some(15), 60);
        assert_eq!(partial.state, State::Partial);
    }
}
