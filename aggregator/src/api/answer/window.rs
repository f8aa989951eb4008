//! ● What the API says of one window of one unit.

use std::ops::Range;
use std::sync::Arc;

use proto::passage::Speed;
use serde::{Serialize, Serializer, ser};
use serde_json::value::to_raw_value;
use utoipa::ToSchema;

use super::super::utc::Utc;
use super::State;
use super::reason::{ReasonKind, ReasonKinds};
use crate::store::reader::{KnownWindow, Manner, Sums, WindowRow};

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

impl Entry {
    pub(super) fn known(
        window: &Arc<KnownWindow>,
        end_ms: i64,
        why: ReasonKinds,
        complete: bool,
    ) -> Self {
        Self::Known(KnownEntry {
            window: Arc::clone(window),
            end: Utc::from_millis(end_ms),
            why,
            complete,
        })
    }

    pub(super) fn state(&self) -> State {
        match self {
            Self::Known(entry) => State::of(entry.why.is_empty(), entry.window.row.revised),
            Self::Other(window) => window.state,
        }
    }

    pub(super) fn reasons(&self) -> ReasonKinds {
        match self {
            Self::Known(entry) => entry.why,
            Self::Other(window) => window.reasons,
        }
    }

    pub(super) fn revision(&self) -> Option<i32> {
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
            state: State::of(why.is_empty(), row.revised),
            reasons: why,
            complete,
            revision: Some(row.revision),
        }
    }

    pub(super) fn not_kept(time_ms: &Range<i64>, complete: bool) -> Self {
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

    pub(super) fn without_vehicles(time_ms: Range<i64>, why: ReasonKinds, complete: bool) -> Self {
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
    use super::super::reason::Reasons;
    use super::*;
    use crate::store::reader::Standing;

    const MINUTE: i64 = 60_000;

    #[test]
    fn what_is_said_from_memory_is_what_would_be_said_anew() {
        let (start, end) = (5 * MINUTE, 10 * MINUTE);
        let open = Reasons::of(&Standing::default(), end).of_window(&(start..end));
        assert!(!open.is_empty());
        for revised in [false, true] {
            let window = KnownWindow::new(WindowRow {
                start_ms: start,
                sums: Sums {
                    n: 1,
                    ..Sums::default()
                },
                p50: None,
                p85: None,
                revised,
                revision: 1,
            });
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
}
