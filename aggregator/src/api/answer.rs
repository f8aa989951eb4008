//! ● What the API says of one unit's speeds, and how it follows from what the database holds.
//!
//! Invariant: a range has an entry for every window that could have counted something: each window
//! with a row, and each window without that began after the centre first heard of the unit and
//! before now. Zero vehicles in a final window is a fact; before the first sign of the unit there is
//! no fact, and no entry.
//!
//! Of a time in the past the same is said as was said then. Where that is not known, there are no
//! numbers.

pub mod group;
pub mod ledger;
pub mod reason;
pub mod unit;

use std::ops::Range;
use std::sync::Arc;

use proto::passage::Speed;
use serde::{Serialize, Serializer, ser};
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

use self::reason::{Reason, ReasonKind, ReasonKinds, Reasons};
use super::range::TimeRange;
use super::utc::Utc;
use crate::store::reader::{Interval, KnownWindow, Manner, SpeedRows, Sums, WindowRow};

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
    fn of(revised: bool, settled: bool) -> Self {
        match (revised, settled) {
            (true, _) => Self::Revised,
            (false, true) => Self::Final,
            (false, false) => Self::Partial,
        }
    }
}

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

/// A window in an answer.
#[derive(Debug, Clone)]
pub enum Entry {
    /// One that has a row. Its text is kept with the row.
    Known(KnownEntry),
    /// Another.
    Other(SpeedWindow),
}

/// A window that has a row, and how it stands.
#[derive(Debug, Clone)]
pub struct KnownEntry {
    window: Arc<KnownWindow>,
    end: Utc,
    why: ReasonKinds,
    complete: bool,
}

/// Speed in one window.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SpeedWindow {
    /// First instant of the window.
    #[schema(value_type = String, format = DateTime, example = "2025-04-05T10:00:00Z")]
    pub start: Utc,
    /// First instant after it.
    #[schema(value_type = String, format = DateTime, example = "2025-04-05T10:05:00Z")]
    pub end: Utc,
    /// Time-mean speed, km/h.
    #[schema(example = 85.2)]
    pub avg_speed: Option<f64>,
    /// Space-mean (harmonic) speed, km/h.
    #[schema(example = 83.91)]
    pub space_mean_speed: Option<f64>,
    /// Vehicles counted; null, as all numbers, when that is not kept (`as_of`).
    #[schema(example = 31)]
    pub vehicles: Option<u64>,
    /// Median speed, km/h.
    #[schema(example = 85.0)]
    pub p50: Option<f64>,
    /// Speed that 85 % of the vehicles do not exceed, km/h.
    #[schema(example = 96.33)]
    pub p85: Option<f64>,
    /// Lowest speed, km/h.
    #[schema(example = 61.0)]
    pub min_speed: Option<f64>,
    /// Highest speed, km/h.
    #[schema(example = 112.4)]
    pub max_speed: Option<f64>,
    /// Sample standard deviation of the speeds, km/h; null below two speeds.
    #[schema(example = 10.84)]
    pub std_dev: Option<f64>,
    /// Vehicles that the unit reported as violations.
    #[schema(example = 3)]
    pub violations: Option<u64>,
    /// How settled it is.
    pub state: State,
    /// For a partial window, the kinds of the reasons why it is.
    #[serde(skip_serializing_if = "ReasonKinds::is_empty")]
    #[schema(value_type = Vec<ReasonKind>, required = false)]
    pub reasons: ReasonKinds,
    /// False when passages of this time are known to be lost.
    pub complete: bool,
    /// How many times it was written; 0 for a window without vehicles.
    #[schema(example = 4)]
    pub revision: Option<i32>,
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
            .fold(State::of(false, beyond.is_empty()), State::max);
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

impl Entry {
    fn known(window: &Arc<KnownWindow>, end_ms: i64, why: ReasonKinds, complete: bool) -> Self {
        Self::Known(KnownEntry {
            window: Arc::clone(window),
            end: Utc::from_millis(end_ms),
            why,
            complete,
        })
    }

    fn state(&self) -> State {
        match self {
            Self::Known(entry) => State::of(entry.window.row.revised, entry.why.is_empty()),
            Self::Other(window) => window.state,
        }
    }

    fn reasons(&self) -> ReasonKinds {
        match self {
            Self::Known(entry) if entry.window.row.revised => ReasonKinds::default(),
            Self::Known(entry) => entry.why,
            Self::Other(window) => window.reasons,
        }
    }

    fn revision(&self) -> Option<i32> {
        match self {
            Self::Known(entry) => Some(entry.window.row.revision),
            Self::Other(window) => window.revision,
        }
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(entry) => entry.serialize(serializer),
            Self::Other(window) => window.serialize(serializer),
        }
    }
}

impl Serialize for KnownEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let manner = Manner::from(self.why.bits()) << 1 | Manner::from(self.complete);
        let say = |row: &WindowRow| {
            let time_ms = row.start_ms..self.end.as_millis();
            to_raw_value(&SpeedWindow::new(time_ms, row, self.why, self.complete))
        };
        let said = self.window.said(manner, say).map_err(ser::Error::custom)?;
        said.serialize(serializer)
    }
}

impl SpeedWindow {
    fn new(time_ms: Range<i64>, row: &WindowRow, why: ReasonKinds, complete: bool) -> Self {
        let state = State::of(row.revised, why.is_empty());
        let Sums {
            n,
            violations,
            seen,
            ..
        } = row.sums;
        Self {
            start: Utc::from_millis(time_ms.start),
            end: Utc::from_millis(time_ms.end),
            avg_speed: row.sums.time_mean_kmh(),
            space_mean_speed: row.sums.space_mean_kmh(),
            vehicles: Some(n),
            p50: row.p50.map(Speed::kmh),
            p85: row.p85.map(Speed::kmh),
            min_speed: seen.map(|(min, _)| min.kmh()),
            max_speed: seen.map(|(_, max)| max.kmh()),
            std_dev: row.sums.standard_deviation_kmh(),
            violations: Some(violations),
            state,
            reasons: match state {
                State::Partial => why,
                State::Final | State::Revised => ReasonKinds::default(),
            },
            complete,
            revision: Some(row.revision),
        }
    }

    fn not_kept(time_ms: &Range<i64>, complete: bool) -> Self {
        Self {
            start: Utc::from_millis(time_ms.start),
            end: Utc::from_millis(time_ms.end),
            avg_speed: None,
            space_mean_speed: None,
            vehicles: None,
            p50: None,
            p85: None,
            min_speed: None,
            max_speed: None,
            std_dev: None,
            violations: None,
            state: State::Partial,
            reasons: ReasonKinds::not_kept(),
            complete,
            revision: None,
        }
    }

    fn without_vehicles(time_ms: Range<i64>, why: ReasonKinds, complete: bool) -> Self {
        let row = WindowRow {
            start_ms: time_ms.start,
            sums: Sums::default(),
            p50: None,
            p85: None,
            revised: false,
            revision: 0,
        };
        Self::new(time_ms, &row, why, complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::reader::Standing;

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
    fn what_is_said_from_memory_is_what_would_be_said_anew() {
        let (start, end) = (5 * MINUTE, 10 * MINUTE);
        let open = Reasons::of(&Standing::default(), end).of_window(&(start..end));
        assert!(!open.is_empty());
        for revised in [false, true] {
            let window = KnownWindow::new(row(start, revised));
            let ways = [(open, true), (open, false), (ReasonKinds::default(), true)];
            for (why, complete) in ways.into_iter().chain(ways) {
                let anew = SpeedWindow::new(start..end, &window.row, why, complete);
                let entry = Entry::known(&window, end, why, complete);
                assert_eq!((entry.state(), entry.reasons()), (anew.state, anew.reasons));
                let anew = serde_json::to_string(&anew).unwrap();
                for _ in 0..2 {
                    assert_eq!(serde_json::to_string(&entry).unwrap(), anew);
                }
            }
        }
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
