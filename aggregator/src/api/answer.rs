//! ● What the API says, and how it follows from what the database holds.
//!
//! Invariant: a range has an entry for every window that could have counted something: each window
//! with a row, and each window without that began after the centre first heard of the unit and
//! before now. Zero vehicles in a final window is a fact; before the first sign of the unit there is
//! no fact, and no entry.

use proto::passage::Speed;
use serde::Serialize;
use utoipa::ToSchema;

use super::range::TimeRange;
use super::utc::Utc;
use crate::store::reader::{DeviceRow, Interval, SpeedRows, Sums, WindowRow};

/// A unit is silent when it has not been heard of for this long, several heartbeats.
const SILENT_AFTER_MS: i64 = 5 * 60_000;
/// How long a name stays marked after two units spoke under it.
const CLONED_FOR_MS: i64 = 24 * 3_600_000;

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

/// Speed over a range of time: the whole, and each window.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
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
    /// Time-mean speed over all windows in km/h, two decimals, halves upwards; null without speeds.
    #[schema(example = 84.37)]
    pub avg_speed: Option<f64>,
    /// Space-mean (harmonic) speed of the vehicles of at least 1 km/h, km/h.
    #[schema(example = 82.9)]
    pub space_mean_speed: Option<f64>,
    /// Vehicles counted, with or without a speed.
    #[schema(example = 60)]
    pub vehicles: u64,
    /// Median speed in km/h, from the merged histograms of 1 km/h bins.
    #[schema(example = 84.12)]
    pub p50: Option<f64>,
    /// Speed in km/h that 85 % of the vehicles do not exceed, from the merged histograms.
    #[schema(example = 95.5)]
    pub p85: Option<f64>,
    /// `partial` when any window is, or when the range reaches beyond what the unit has settled;
    /// else `revised` when any window is; else `final`.
    pub state: State,
    /// One entry for each window that starts in the range, by time. Left out: windows without
    /// vehicles that began before the centre first heard of the unit, and those yet to begin.
    pub windows: Vec<SpeedWindow>,
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
    /// Vehicles counted.
    #[schema(example = 31)]
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
    /// Vehicles that the unit reported as violations.
    #[schema(example = 3)]
    pub violations: u64,
    /// How settled it is.
    pub state: State,
    /// How many times it was written; 0 for a window without vehicles.
    #[schema(example = 4)]
    pub revision: i32,
}

impl SpeedAnswer {
    /// Answers for `range` at the time `now`.
    #[must_use]
    pub fn new(kvfv_id: &str, range: &TimeRange, rows: &SpeedRows, now: Utc) -> Self {
        let interval = range.interval();
        let covered = range.covered_ms();
        let settled_to = rows.final_to_ms.unwrap_or(i64::MIN);
        let known_from = interval.floor(rows.first_seen_ms);
        let mut known = rows.windows.iter().peekable();
        let step = usize::try_from(interval.length_ms()).unwrap_or(usize::MAX);
        let windows: Vec<SpeedWindow> = covered
            .clone()
            .step_by(step)
            .filter_map(|start| {
                let settled = start + interval.length_ms() <= settled_to;
                match known.next_if(|row| row.start_ms == start) {
                    Some(row) => Some(SpeedWindow::new(interval, row, settled)),
                    None if known_from <= start && start < now.as_millis() => {
                        Some(SpeedWindow::without_vehicles(interval, start, settled))
                    }
                    None => None,
                }
            })
            .collect();
        let whole = if covered.end <= settled_to {
            State::Final
        } else {
            State::Partial
        };
        let state = windows
            .iter()
            .map(|window| window.state)
            .fold(whole, State::max);
        let totals = &rows.totals;
        Self {
            kvfv_id: kvfv_id.to_owned(),
            from: range.from(),
            to: range.to(),
            interval,
            avg_speed: totals.sums.time_mean_kmh(),
            space_mean_speed: totals.sums.space_mean_kmh(),
            vehicles: totals.sums.n,
            p50: totals.percentile_kmh(50),
            p85: totals.percentile_kmh(85),
            state,
            windows,
        }
    }
}

impl SpeedWindow {
    fn new(interval: Interval, row: &WindowRow, settled: bool) -> Self {
        let state = match (row.revised, settled) {
            (true, _) => State::Revised,
            (false, true) => State::Final,
            (false, false) => State::Partial,
        };
        let Sums {
            n,
            violations,
            seen,
            ..
        } = row.sums;
        Self {
            start: Utc::from_millis(row.start_ms),
            end: Utc::from_millis(row.start_ms + interval.length_ms()),
            avg_speed: row.sums.time_mean_kmh(),
            space_mean_speed: row.sums.space_mean_kmh(),
            vehicles: n,
            p50: row.p50.map(Speed::kmh),
            p85: row.p85.map(Speed::kmh),
            min_speed: seen.map(|(min, _)| min.kmh()),
            max_speed: seen.map(|(_, max)| max.kmh()),
            std_dev: row.sums.standard_deviation_kmh(),
            violations,
            state,
            revision: row.revision,
        }
    }

    fn without_vehicles(interval: Interval, start_ms: i64, settled: bool) -> Self {
        let row = WindowRow {
            start_ms,
            sums: Sums::default(),
            p50: None,
            p85: None,
            revised: false,
            revision: 0,
        };
        Self::new(interval, &row, settled)
    }
}

/// Whether a unit is heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// A heartbeat arrived within the last 5 minutes.
    Online,
    /// The last heartbeat is older.
    Silent,
    /// It has delivered, but never sent a heartbeat.
    Unheard,
    /// Two units speak under its name: nothing turns final until an operator has looked.
    Cloned,
}

/// What a unit holds that has no receipt yet, as of its last heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Backlog {
    /// Passages.
    #[schema(example = 12)]
    pub passages: i64,
    /// Logical bytes.
    #[schema(example = 480)]
    pub bytes: Option<i64>,
    /// The oldest event time among them.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:15:29Z")]
    pub oldest: Option<Utc>,
}

/// The disk under a unit's buffer, as of its last heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Disk {
    /// Bytes that the buffer's files take.
    #[schema(example = 8_388_608)]
    pub used_bytes: Option<i64>,
    /// Logical bytes that the buffer may hold.
    #[schema(example = 1_073_741_824)]
    pub quota_bytes: Option<i64>,
    /// Bytes free.
    #[schema(example = 12_884_901_888_i64)]
    pub free_bytes: Option<i64>,
}

/// One unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Unit {
    /// Its name.
    #[schema(example = "KV12345")]
    pub kvfv_id: String,
    /// Whether it is heard of.
    pub state: UnitState,
    /// Group of units owned together by one aggregator, 0 to 63.
    #[schema(example = 17)]
    pub shard: i16,
    /// When the centre first heard of it.
    #[schema(value_type = String, format = DateTime, example = "2025-03-01T08:00:00Z")]
    pub first_seen: Utc,
    /// Start of the newest 5-minute window in which it counted a vehicle: its last passage lies in
    /// the 5 minutes from there.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:15:00Z")]
    pub last_passage_window: Option<Utc>,
    /// Windows that end by then are final.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:10:00Z")]
    pub final_to: Option<Utc>,
    /// The unit's own statement: everything of it before this event time has been counted.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:14:59.5Z")]
    pub frontier: Option<Utc>,
    /// When its last heartbeat arrived.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:15:30Z")]
    pub last_heartbeat: Option<Utc>,
    /// When the camera software last delivered to it, by the unit's clock.
    #[schema(value_type = Option<String>, format = DateTime, example = "2025-04-05T10:15:29Z")]
    pub camera_last_post: Option<Utc>,
    /// What waits for a receipt; null before the first heartbeat.
    pub backlog: Option<Backlog>,
    /// Its clock less true time in ms, where it knows.
    #[schema(example = -12)]
    pub clock_offset_ms: Option<i64>,
    /// Version of its agent.
    #[schema(example = "0.1.0")]
    pub version: Option<String>,
    /// Its disk; null before the first heartbeat.
    pub disk: Option<Disk>,
}

impl Unit {
    /// What is known of a unit at the time `now`.
    #[must_use]
    pub fn new(row: DeviceRow, now: Utc) -> Self {
        let utc = |ms: Option<i64>| ms.map(Utc::from_millis);
        let age = |ms: i64| now.as_millis().saturating_sub(ms);
        let state = match (row.cloned_ms, row.heartbeat_ms) {
            (Some(cloned), _) if age(cloned) < CLONED_FOR_MS => UnitState::Cloned,
            (_, None) => UnitState::Unheard,
            (_, Some(heard)) if age(heard) < SILENT_AFTER_MS => UnitState::Online,
            (_, Some(_)) => UnitState::Silent,
        };
        let backlog = row.backlog_passages.map(|passages| Backlog {
            passages,
            bytes: row.backlog_bytes,
            oldest: utc(row.backlog_oldest_ms),
        });
        let disk = row.heartbeat_ms.map(|_| Disk {
            used_bytes: row.disk_used_bytes,
            quota_bytes: row.disk_quota_bytes,
            free_bytes: row.disk_free_bytes,
        });
        Self {
            kvfv_id: row.device,
            state,
            shard: row.shard,
            first_seen: Utc::from_millis(row.first_seen_ms),
            last_passage_window: utc(row.last_window_ms),
            final_to: utc(row.final_to_ms),
            frontier: utc(row.frontier_ms),
            last_heartbeat: utc(row.heartbeat_ms),
            camera_last_post: utc(row.camera_last_post_ms),
            backlog,
            clock_offset_ms: row.clock_offset_ms,
            version: row.agent_version,
            disk,
        }
    }
}

/// A page of units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct UnitPage {
    /// By ascending name.
    pub units: Vec<Unit>,
    /// The `after` of the next page; null on the last.
    #[schema(example = "KV12345")]
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::reader::Totals;

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
        let rows = SpeedRows {
            first_seen_ms: seen * MINUTE,
            final_to_ms: final_to.map(|minutes| minutes * MINUTE),
            totals: Totals::default(),
            windows: rows,
        };
        SpeedAnswer::new("KV1", &range(4), &rows, Utc::from_millis(now * MINUTE))
    }

    fn shown(answer: &SpeedAnswer) -> Vec<(i64, u64, State)> {
        let entry = |window: &SpeedWindow| {
            (
                window.start.as_millis() / MINUTE,
                window.vehicles,
                window.state,
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

    #[test]
    fn a_units_state_follows_from_its_last_heartbeat() {
        let row = DeviceRow {
            device: "KV1".to_owned(),
            shard: 1,
            first_seen_ms: 0,
            last_window_ms: None,
            final_to_ms: None,
            frontier_ms: None,
            heartbeat_ms: None,
            cloned_ms: None,
            camera_last_post_ms: None,
            backlog_passages: None,
            backlog_bytes: None,
            backlog_oldest_ms: None,
            clock_offset_ms: None,
            agent_version: None,
            disk_used_bytes: None,
            disk_quota_bytes: None,
            disk_free_bytes: None,
        };
        let now = Utc::from_millis(2 * CLONED_FOR_MS);
        let state = |heartbeat_ms, cloned_ms| {
            Unit::new(
                DeviceRow {
                    heartbeat_ms,
                    cloned_ms,
                    ..row.clone()
                },
                now,
            )
            .state
        };
        let ago = |ms| Some(now.as_millis() - ms);
        assert_eq!(state(None, None), UnitState::Unheard);
        assert_eq!(state(ago(SILENT_AFTER_MS - 1), None), UnitState::Online);
        assert_eq!(state(ago(SILENT_AFTER_MS), None), UnitState::Silent);
        assert_eq!(state(ago(0), ago(CLONED_FOR_MS - 1)), UnitState::Cloned);
        assert_eq!(state(ago(0), ago(CLONED_FOR_MS)), UnitState::Online);
    }
}
