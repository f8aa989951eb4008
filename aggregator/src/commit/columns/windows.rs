//! The columns of windows of one length.

use std::time::SystemTime;

use proto::passage::Speed;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::{Part, signed};
use crate::commit::load::time;
use crate::window::rollup::WindowId;
use crate::window::state::Window;

/// Windows of one length. `lists` holds, row after row, histogram, classes, lanes, lanes with speed.
#[derive(Default)]
pub(super) struct WindowColumns {
    lists: Vec<i32>,
    sums: Vec<i64>,
    device_key: Vec<i32>,
    bucket: Vec<SystemTime>,
    counts: [Vec<i32>; 4],
    totals: [Vec<i64>; 3],
    /// Least, greatest, and the four percentiles.
    speeds: [Vec<Option<i32>>; 6],
    hist_lo: Vec<i16>,
    /// Where each list of the row begins, and where the last one ends; counted from 1.
    places: [Vec<i32>; 5],
    sums_places: [Vec<i32>; 2],
    rev: Vec<i32>,
    revised: Vec<bool>,
}

const PERCENTILES: [u8; 4] = [15, 50, 85, 95];

impl WindowColumns {
    pub(super) fn push(&mut self, device_key: i32, id: WindowId, window: &Window) {
        let stats = &window.stats;
        self.device_key.push(device_key);
        self.bucket.push(time(id.start_ms));
        let counts = [stats.n, stats.n_speed, stats.n_moving, stats.violations];
        push_each(&mut self.counts, counts.map(count));
        let totals = [stats.sum_ckmh, stats.sumsq_ckmh2, stats.pace_sum_ms_per_km];
        push_each(&mut self.totals, totals.map(signed));
        let [p15, p50, p85, p95] = PERCENTILES.map(|percent| stats.percentile(percent));
        let speeds = [stats.min, stats.max, p15, p50, p85, p95];
        push_each(
            &mut self.speeds,
            speeds.map(|speed| speed.map(|s: Speed| s.centi_kmh().into())),
        );
        self.hist_lo
            .push(i16::try_from(stats.histogram.lowest_kmh()).unwrap_or(i16::MAX));
        let lists = [
            stats.histogram.counts(),
            trimmed(&stats.class_n),
            trimmed(&stats.lane_n),
            trimmed(&stats.lane_n_speed),
        ];
        for (place, list) in lists.into_iter().enumerate() {
            self.places[place].push(next_place(&self.lists));
            self.lists.extend(list.iter().map(|n| count(*n)));
        }
        self.places[4].push(next_place(&self.lists));
        self.sums_places[0].push(next_place(&self.sums));
        self.sums
            .extend(trimmed(&stats.lane_sum_ckmh).iter().map(|sum| signed(*sum)));
        self.sums_places[1].push(next_place(&self.sums));
        self.rev.push(window.rev);
        self.revised.push(window.revised);
    }

    pub(super) fn part<'a>(&'a self, table: &'static str, statement: &'a Statement) -> Part<'a> {
        let mut parameters: Vec<&(dyn ToSql + Sync)> =
            vec![&self.lists, &self.sums, &self.device_key, &self.bucket];
        parameters.extend(each(&self.counts));
        parameters.extend(each(&self.totals));
        parameters.extend(each(&self.speeds));
        parameters.push(&self.hist_lo);
        parameters.extend(each(&self.places));
        parameters.extend(each(&self.sums_places));
        parameters.push(&self.rev);
        parameters.push(&self.revised);
        Part {
            table,
            statement,
            parameters,
            planned: Some(self.device_key.len() as u64),
        }
    }
}

fn each<T: ToSql + Sync>(columns: &[T]) -> impl Iterator<Item = &(dyn ToSql + Sync)> {
    columns.iter().map(|column| column as &(dyn ToSql + Sync))
}

fn push_each<T, const N: usize>(columns: &mut [Vec<T>; N], values: [T; N]) {
    columns
        .iter_mut()
        .zip(values)
        .for_each(|(column, value)| column.push(value));
}

/// PostgreSQL counts array elements from 1.
fn next_place<T>(list: &[T]) -> i32 {
    i32::try_from(list.len() + 1).unwrap_or(i32::MAX)
}

fn trimmed<T: PartialEq + Default>(counts: &[T]) -> &[T] {
    let used = counts.iter().rposition(|count| *count != T::default());
    &counts[..used.map_or(0, |last| last + 1)]
}

/// Counts fit: a day of full windows holds 288 × 2²⁰ passages.
fn count(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
