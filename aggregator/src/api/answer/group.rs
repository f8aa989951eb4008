//! ● What is said of many units together.
//!
//! Sums and histograms of the units are added up before anything is divided: an average over units
//! weighs each vehicle alike. A *unit-window* is one window of one unit. It is expected from the
//! window in which the centre first heard of the unit until now, and before that where the unit
//! counted a vehicle; the share of those that are final says how complete the answer is.
//!
//! Invariant: each unit stands for itself. One that is silent lowers the share by its own windows.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proto::device::DeviceId;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::range::TimeRange;
use super::super::utc::Utc;
use super::State;
use super::reason::{Reason, ReasonKind, ReasonKinds, Reasons};
use crate::store::reader::{GroupRows, GroupUnit, GroupWindow as WindowRow, Interval, Totals};

/// Speed of many units together over a range of time: the whole, and each window.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GroupAnswer {
    /// The units of the question that the centre knows, by name.
    #[schema(example = json!(["KV12345", "KV12346"]))]
    pub kvfv: Vec<String>,
    /// Those of which it has never heard; they add nothing.
    #[schema(example = json!(["KV99999"]))]
    pub unknown: Vec<String>,
    /// Beginning of the range, inclusive.
    #[schema(value_type = String, format = DateTime, example = "2025-04-05T10:00:00Z")]
    pub from: Utc,
    /// End of the range, exclusive.
    #[schema(value_type = String, format = DateTime, example = "2025-04-05T10:10:00Z")]
    pub to: Utc,
    /// Length of the windows.
    pub interval: Interval,
    /// Time-mean speed over all vehicles of all units in km/h, two decimals, halves upwards; null
    /// without speeds.
    #[schema(example = 84.37)]
    pub avg_speed: Option<f64>,
    /// Space-mean (harmonic) speed of the vehicles of at least 1 km/h, km/h.
    #[schema(example = 82.9)]
    pub space_mean_speed: Option<f64>,
    /// Vehicles counted, with or without a speed.
    #[schema(example = 120)]
    pub vehicles: u64,
    /// Median speed in km/h, from the merged histograms of 1 km/h bins.
    #[schema(example = 84.12)]
    pub p50: Option<f64>,
    /// Speed in km/h that 85 % of the vehicles do not exceed, from the merged histograms.
    #[schema(example = 95.5)]
    pub p85: Option<f64>,
    /// `partial` when any window of any unit is, or when the range reaches beyond what a unit has
    /// settled; else `revised` when any is; else `final`.
    pub state: State,
    /// False when passages of this time are known to be lost at any of the units.
    pub complete: bool,
    /// How many times the windows were written; it rises when any of them changes.
    #[schema(example = 9)]
    pub revision: i64,
    /// Share of the expected unit-windows that are final, 0 to 1; null when none is expected.
    #[schema(example = 0.75)]
    pub final_share: Option<f64>,
    /// One for each unit and window since the centre first heard of the unit and until now, and
    /// earlier ones in which it counted a vehicle.
    #[schema(example = 4)]
    pub unit_windows: u64,
    /// Those that are final, revised ones among them.
    #[schema(example = 3)]
    pub unit_windows_final: u64,
    /// Units with partial windows for which there is more of a reason than that they are still
    /// open, by name.
    pub behind: Vec<UnitBehind>,
    /// One entry for each window that starts in the range, by time. Left out: windows without
    /// vehicles of which no unit-window is expected.
    pub windows: Vec<GroupWindow>,
}

/// A unit that is behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UnitBehind {
    /// Name of the unit.
    #[schema(example = "KV12346")]
    pub kvfv_id: String,
    /// Its windows that end by then are final.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T04:10:00Z")]
    pub final_to: Option<Utc>,
    /// Why its partial windows in the range are.
    pub reasons: Vec<Reason>,
}

/// Speed of many units together in one window.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GroupWindow {
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
    /// Vehicles counted.
    #[schema(example = 62)]
    pub vehicles: u64,
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
    /// Vehicles that the units reported as violations.
    #[schema(example = 3)]
    pub violations: u64,
    /// `partial` when that of any unit is, else `revised` when that of any is, else `final`.
    pub state: State,
    /// False when passages of this time are known to be lost at any of the units.
    pub complete: bool,
    /// How many times the units' windows were written.
    #[schema(example = 4)]
    pub revision: i64,
    /// Units of which this window is expected.
    #[schema(example = 2)]
    pub units: u64,
    /// Units of which it is final.
    #[schema(example = 1)]
    pub units_final: u64,
}

/// A unit, and from when on its windows are expected.
struct Member<'a> {
    unit: &'a GroupUnit,
    known_from_ms: i64,
    /// Starts of its windows from before that.
    early_ms: BTreeSet<i64>,
}

impl Member<'_> {
    fn is_expected(&self, start_ms: i64, now_ms: i64) -> bool {
        (self.known_from_ms <= start_ms && start_ms < now_ms) || self.early_ms.contains(&start_ms)
    }
}

impl GroupAnswer {
    /// Answers for `range` at the time `now`, for `asked` units of which the centre knows some.
    #[must_use]
    pub fn new(asked: &[DeviceId], range: &TimeRange, rows: &GroupRows, now: Utc) -> Self {
        let interval = range.interval();
        let covered = range.covered_ms();
        let now_ms = now.as_millis();
        let members = members(rows, interval);
        let mut totals = Totals::default();
        let mut revision = 0;
        for row in rows.windows.values() {
            totals.merge(&row.totals);
            revision += row.revision;
        }
        let empty = WindowRow::default();
        let windows: Vec<GroupWindow> = starts(&covered, interval)
            .filter_map(|start| {
                let time = start..start + interval.length_ms();
                let expected = || {
                    members
                        .iter()
                        .filter(|member| member.is_expected(start, now_ms))
                };
                let is_final = |member: &&Member| member.unit.standing.is_final(time.end);
                let (units, units_final) =
                    (expected().count(), expected().filter(is_final).count());
                let row = rows.windows.get(&start);
                (row.is_some() || units > 0).then(|| {
                    let row = row.unwrap_or(&empty);
                    let settled = units == units_final && start < now_ms;
                    let complete = !rows.losses.touch(&time);
                    let state = match settled {
                        true => State::of(row.revised, true),
                        false => State::Partial,
                    };
                    GroupWindow {
                        units: units as u64,
                        units_final: units_final as u64,
                        ..GroupWindow::new(time, row, state, complete)
                    }
                })
            })
            .collect();
        let whole_is_final = members
            .iter()
            .filter(|member| member.known_from_ms < covered.end || !member.early_ms.is_empty())
            .all(|member| member.unit.standing.is_final(covered.end));
        let state = windows
            .iter()
            .map(|window| window.state)
            .fold(State::of(false, whole_is_final), State::max);
        let unit_windows = windows.iter().map(|window| window.units).sum();
        let unit_windows_final = windows.iter().map(|window| window.units_final).sum();
        Self {
            kvfv: rows.units.iter().map(|unit| unit.device.clone()).collect(),
            unknown: unknown(asked, &rows.units),
            from: range.from(),
            to: range.to(),
            interval,
            avg_speed: totals.sums.time_mean_kmh(),
            space_mean_speed: totals.sums.space_mean_kmh(),
            vehicles: totals.sums.n,
            p50: totals.percentile_kmh(50),
            p85: totals.percentile_kmh(85),
            state,
            complete: !rows.losses.touch(&covered),
            revision,
            final_share: share(unit_windows_final, unit_windows),
            unit_windows,
            unit_windows_final,
            behind: members
                .iter()
                .filter_map(|member| behind(member, &covered, interval, now_ms))
                .collect(),
            windows,
        }
    }
}

impl GroupWindow {
    fn new(time_ms: Range<i64>, row: &WindowRow, state: State, complete: bool) -> Self {
        let sums = &row.totals.sums;
        Self {
            start: Utc::from_millis(time_ms.start),
            end: Utc::from_millis(time_ms.end),
            avg_speed: sums.time_mean_kmh(),
            space_mean_speed: sums.space_mean_kmh(),
            vehicles: sums.n,
            p50: row.totals.percentile_kmh(50),
            p85: row.totals.percentile_kmh(85),
            min_speed: sums.seen.map(|(min, _)| min.kmh()),
            max_speed: sums.seen.map(|(_, max)| max.kmh()),
            std_dev: sums.standard_deviation_kmh(),
            violations: sums.violations,
            state,
            complete,
            revision: row.revision,
            units: 0,
            units_final: 0,
        }
    }
}

fn starts(covered: &Range<i64>, interval: Interval) -> impl Iterator<Item = i64> {
    let step = usize::try_from(interval.length_ms()).unwrap_or(usize::MAX);
    covered.clone().step_by(step)
}

fn members(rows: &GroupRows, interval: Interval) -> Vec<Member<'_>> {
    let mut early: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    for window in &rows.early {
        early
            .entry(&window.device)
            .or_default()
            .insert(window.start_ms);
    }
    rows.units
        .iter()
        .map(|unit| Member {
            unit,
            known_from_ms: interval.floor(unit.standing.first_seen_ms),
            early_ms: early.remove(unit.device.as_str()).unwrap_or_default(),
        })
        .collect()
}

fn unknown(asked: &[DeviceId], known: &[GroupUnit]) -> Vec<String> {
    let is_known = |name: &DeviceId| {
        known
            .binary_search_by(|unit| unit.device.as_str().cmp(name.as_str()))
            .is_ok()
    };
    asked
        .iter()
        .filter(|name| !is_known(name))
        .map(|name| name.as_str().to_owned())
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "fewer windows than 2^53")]
fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// The unit, if its partial windows have more of a reason than that they are open.
fn behind(
    member: &Member<'_>,
    covered: &Range<i64>,
    interval: Interval,
    now_ms: i64,
) -> Option<UnitBehind> {
    let standing = &member.unit.standing;
    let reasons = Reasons::of(standing, now_ms);
    let kinds = starts(covered, interval)
        .filter(|start| member.is_expected(*start, now_ms))
        .map(|start| reasons.of_window(&(start..start + interval.length_ms())))
        .fold(ReasonKinds::default(), ReasonKinds::and);
    let more = ReasonKind::ALL
        .into_iter()
        .any(|kind| kind != ReasonKind::Open && kinds.contains(kind));
    more.then(|| UnitBehind {
        kvfv_id: member.unit.device.clone(),
        final_to: standing.final_to_ms.map(Utc::from_millis),
        reasons: reasons.list(kinds),
    })
}

#[cfg(test)]
mod tests;
