//! ● What a run has done, or would do.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::Request;
use crate::api::utc::Utc;
use crate::commit::draft::FoldedIn;
use crate::window::rollup::Length;
use crate::window::state::{DeviceChange, DeviceState};

const DAY_MS: i64 = 86_400_000;

/// Windows that a report in words lists for one transaction; JSON has all.
const WINDOWS_SHOWN_MAX: usize = 12;

/// What became of the passages that a request names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whose.
    pub kvfv_id: String,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Passages that entered their windows.
    pub counted: u64,
    /// Passages that a summary had counted before: they only left the side table.
    pub counted_before: u64,
    /// Raw rows written.
    pub raw_rows: u64,
    /// Passages that stay in the side table, by reason.
    pub left: BTreeMap<&'static str, u64>,
    /// One entry for each transaction.
    pub days: Vec<DayReport>,
}

/// One transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayReport {
    /// The UTC day of its event times.
    pub day: String,
    /// As in the whole.
    pub counted: u64,
    /// As in the whole.
    pub counted_before: u64,
    /// As in the whole.
    pub raw_rows: u64,
    /// As in the whole.
    pub left: BTreeMap<&'static str, u64>,
    /// Windows that it changes, all lengths.
    pub windows: Vec<WindowReport>,
}

/// A window before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WindowReport {
    /// 5m, 1h or 24h.
    pub interval: &'static str,
    /// Its first instant.
    pub start: Utc,
    /// Vehicles in it before.
    pub vehicles_before: u32,
    /// Vehicles in it now.
    pub vehicles: u32,
    /// Its revision now.
    pub revision: i32,
    /// Whether it changed after it was final.
    pub revised: bool,
}

impl WindowReport {
    /// The windows of a change, by length and time.
    pub(super) fn of(change: &DeviceChange, before: &DeviceState) -> Vec<Self> {
        let mut ids: Vec<_> = change.windows.keys().copied().collect();
        ids.sort_unstable();
        let report = |id| {
            let now = &change.windows[&id];
            let n = |(window, _): &(crate::window::state::Window, u64)| window.stats.n;
            Self {
                interval: id.length.word(),
                start: Utc::from_millis(id.start_ms),
                vehicles_before: before.windows.get(&id).map_or(0, n),
                vehicles: now.stats.n,
                revision: now.rev,
                revised: now.revised,
            }
        };
        ids.into_iter().map(report).collect()
    }
}

impl DayReport {
    pub(super) fn new(day: i64, folded: FoldedIn, windows: Vec<WindowReport>) -> Self {
        let mut date = Utc::from_millis(day * DAY_MS).to_string();
        date.truncate(date.find('T').unwrap_or(date.len()));
        Self {
            day: date,
            counted: folded.counted,
            counted_before: folded.counted_before,
            raw_rows: folded.raw_rows,
            left: folded
                .left
                .into_iter()
                .map(|(reason, passages)| (reason.word(), passages))
                .collect(),
            windows,
        }
    }
}

impl Report {
    pub(super) fn new(request: &Request) -> Self {
        Self {
            kvfv_id: request.device.to_string(),
            dry_run: request.dry_run,
            counted: 0,
            counted_before: 0,
            raw_rows: 0,
            left: BTreeMap::new(),
            days: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, day: DayReport) {
        self.counted += day.counted;
        self.counted_before += day.counted_before;
        self.raw_rows += day.raw_rows;
        for (reason, passages) in &day.left {
            *self.left.entry(reason).or_default() += passages;
        }
        self.days.push(day);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for day in &self.days {
            writeln!(
                f,
                "{}: {} counted, {} counted before, {} raw rows, {} left",
                day.day,
                day.counted,
                day.counted_before,
                day.raw_rows,
                day.left.values().sum::<u64>(),
            )?;
            let of_base = |window: &&WindowReport| window.interval == Length::Minutes5.word();
            let windows: Vec<_> = day.windows.iter().filter(of_base).collect();
            for window in windows.iter().take(WINDOWS_SHOWN_MAX) {
                writeln!(
                    f,
                    "  {}  {} → {} vehicles, revision {}{}",
                    window.start,
                    window.vehicles_before,
                    window.vehicles,
                    window.revision,
                    if window.revised { ", revised" } else { "" },
                )?;
            }
            if windows.len() > WINDOWS_SHOWN_MAX {
                let more = windows.len() - WINDOWS_SHOWN_MAX;
                writeln!(
                    f,
                    "  and {more} more windows of 5 minutes (--json names all)"
                )?;
            }
        }
        write!(
            f,
            "{}: {} passages {} into windows, {} had been counted before, {} stay in rejected_passage",
            self.kvfv_id,
            self.counted,
            if self.dry_run {
                "would be folded"
            } else {
                "folded"
            },
            self.counted_before,
            self.left.values().sum::<u64>(),
        )?;
        for (reason, passages) in &self.left {
            write!(f, " ({reason}: {passages})")?;
        }
        Ok(())
    }
}
