//! ● What is said of many units together.
//!
//! Sums and histograms of the units are added up before anything is divided: an average over units
//! weighs each vehicle alike. A *unit-window* is one window of one unit. It is expected from the
//! window in which the centre first heard of the unit until now, and before that where the unit
//! counted a vehicle; the share of those that are final says how complete the answer is.
//!
//! Invariant: each unit stands for itself. One that is silent lowers the share by its own windows.

mod member;

use std::ops::Range;

use proto::device::DeviceId;
use serde::Serialize;
use utoipa::ToSchema;

use self::member::{Member, behind, members, starts};
use super::super::range::TimeRange;
use super::super::utc::Utc;
use super::State;
use super::reason::{Reason, Reasons};
use crate::store::reader::{
    GroupRows, GroupUnit, GroupWindow as WindowRow, Interval, Standing, Sums, Totals,
};

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
    /// The time as of which this is said; absent for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-06T10:00:00Z")]
    pub as_of: Option<Utc>,
    /// Time-mean speed over all vehicles of all units in km/h, two decimals, halves upwards; null
    /// without speeds.
    #[schema(example = 84.37)]
    pub avg_speed: Option<f64>,
    /// Space-mean (harmonic) speed of the vehicles of at least 1 km/h, km/h.
    #[schema(example = 82.9)]
    pub space_mean_speed: Option<f64>,
    /// Vehicles counted, with or without a speed; null when that of a unit is not kept (`as_of`).
    #[schema(example = 120)]
    pub vehicles: Option<u64>,
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
    /// How many times the windows were written; it rises when any of them changes. Null when that of
    /// one is not kept.
    #[schema(example = 9)]
    pub revision: Option<i64>,
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
    /// open, by name. Of the past, all units with partial windows: why they were is not recorded.
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
    /// Vehicles counted; null, as all numbers up to `violations`, when that of a unit is not kept
    /// (`as_of`).
    #[schema(example = 62)]
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
    /// Vehicles that the units reported as violations.
    #[schema(example = 3)]
    pub violations: Option<u64>,
    /// `partial` when that of any unit is, else `revised` when that of any is, else `final`.
    pub state: State,
    /// False when passages of this time are known to be lost at any of the units.
    pub complete: bool,
    /// How many times the units' windows were written; null when that of a unit is not kept.
    #[schema(example = 4)]
    pub revision: Option<i64>,
    /// Units of which this window is expected.
    #[schema(example = 2)]
    pub units: u64,
    /// Units of which it is final.
    #[schema(example = 1)]
    pub units_final: u64,
}

impl GroupAnswer {
    /// Answers for `range` at the time `now`, for `asked` units of which the centre knows some.
    #[must_use]
    pub fn new(asked: &[DeviceId], range: &TimeRange, rows: &GroupRows, now: Utc) -> Self {
        let now_ms = now.as_millis();
        let reasons = |standing: &Standing| Reasons::of(standing, now_ms);
        Self::at(asked, range, rows, now_ms, &reasons)
    }

    /// Answers as it was answered at the time `as_of`, from rows as they were then.
    #[must_use]
    pub fn past(asked: &[DeviceId], range: &TimeRange, rows: &GroupRows, as_of: Utc) -> Self {
        let reasons = |standing: &Standing| Reasons::past(standing.final_to_ms);
        Self {
            as_of: Some(as_of),
            ..Self::at(asked, range, rows, as_of.as_millis(), &reasons)
        }
    }

    fn at(
        asked: &[DeviceId],
        range: &TimeRange,
        rows: &GroupRows,
        now_ms: i64,
        reasons: &dyn Fn(&Standing) -> Reasons,
    ) -> Self {
        let interval = range.interval();
        let covered = range.covered_ms();
        let members = members(rows, interval);
        let totals = totals(rows);
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
                let is_kept = !rows.not_kept.contains(&start);
                (row.is_some() || !is_kept || units > 0).then(|| {
                    let row = row.unwrap_or(&empty);
                    let settled = is_kept && units == units_final && start < now_ms;
                    let state = State::of(settled, row.revised);
                    let complete = !rows.losses.touch(&time);
                    let row = is_kept.then_some(row);
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
            .fold(State::of(whole_is_final, false), State::max);
        let unit_windows = windows.iter().map(|window| window.units).sum();
        let unit_windows_final = windows.iter().map(|window| window.units_final).sum();
        Self {
            kvfv: rows.units.iter().map(|unit| unit.device.clone()).collect(),
            unknown: unknown(asked, &rows.units),
            from: range.from(),
            to: range.to(),
            interval,
            as_of: None,
            avg_speed: totals.as_ref().and_then(|all| all.sums.time_mean_kmh()),
            space_mean_speed: totals.as_ref().and_then(|all| all.sums.space_mean_kmh()),
            vehicles: totals.as_ref().map(|all| all.sums.n),
            p50: totals.as_ref().and_then(|all| all.percentile_kmh(50)),
            p85: totals.as_ref().and_then(|all| all.percentile_kmh(85)),
            state,
            complete: !rows.losses.touch(&covered),
            revision: (rows.not_kept.is_empty())
                .then(|| rows.windows.values().map(|row| row.revision).sum()),
            final_share: share(unit_windows_final, unit_windows),
            unit_windows,
            unit_windows_final,
            behind: members
                .iter()
                .filter_map(|member| {
                    let reasons = reasons(&member.unit.standing);
                    behind(member, &covered, interval, now_ms, &reasons)
                })
                .collect(),
            windows,
        }
    }
}

/// Over all windows; none when that of one is not kept and cannot be put together.
fn totals(rows: &GroupRows) -> Option<Totals> {
    let mut totals = Totals::default();
    if !rows.not_kept.is_empty() {
        totals.merge(rows.filled.as_ref()?);
    }
    rows.windows
        .values()
        .for_each(|row| totals.merge(&row.totals));
    Some(totals)
}

impl GroupWindow {
    /// Without numbers when no row is kept.
    fn new(time_ms: Range<i64>, row: Option<&WindowRow>, state: State, complete: bool) -> Self {
        let (sums, totals) = (row.map(|row| &row.totals.sums), row.map(|row| &row.totals));
        let seen = sums.and_then(|sums| sums.seen);
        Self {
            start: Utc::from_millis(time_ms.start),
            end: Utc::from_millis(time_ms.end),
            avg_speed: sums.and_then(Sums::time_mean_kmh),
            space_mean_speed: sums.and_then(Sums::space_mean_kmh),
            vehicles: sums.map(|sums| sums.n),
            p50: totals.and_then(|totals| totals.percentile_kmh(50)),
            p85: totals.and_then(|totals| totals.percentile_kmh(85)),
            min_speed: seen.map(|(min, _)| min.kmh()),
            max_speed: seen.map(|(_, max)| max.kmh()),
            std_dev: sums.and_then(Sums::standard_deviation_kmh),
            violations: sums.map(|sums| sums.violations),
            state,
            complete,
            revision: row.map(|row| row.revision),
            units: 0,
            units_final: 0,
        }
    }
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

#[cfg(test)]
mod tests;
