//! The question behind `avg-speed`: windows, their totals, and how far the unit is final.
//!
//! A day of a unit is 288 rows, each in a page of its own, for rows of all units are written side by
//! side. So the past is kept in memory ([`super::past`]) and only what is younger is read, with the
//! number that says whether the copy is still true.

use std::ops::Range;

use proto::device::DeviceId;
use proto::passage::Speed;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::instant::Instant;
use super::loss::{self, Losses};
use super::standing::{self, Standing};
use super::{Cover, Interval, ReadError, Reader, Sums, Totals, column};

/// One window of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowRow {
    /// Its first instant, ms since 1970.
    pub start_ms: i64,
    /// Its sums.
    pub sums: Sums,
    /// The median speed.
    pub p50: Option<Speed>,
    /// The speed that 85 % do not exceed.
    pub p85: Option<Speed>,
    /// Changed after it was final.
    pub revised: bool,
    /// How many times it was written.
    pub revision: i32,
}

/// All that is known of one unit and one stretch of time, in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpeedRows {
    /// How the unit stands.
    pub standing: Standing,
    /// When passages of it are known to be lost.
    pub losses: Losses,
    /// Over the whole stretch; none, of a time in the past, when that is not kept.
    pub totals: Option<Totals>,
    /// Windows in which a vehicle was counted, by ascending start.
    pub windows: Vec<WindowRow>,
    /// Starts of further such windows, ascending, of which is not kept what they held.
    pub not_kept: Vec<i64>,
    /// How many times the past has changed.
    past_changes: i64,
}

impl SpeedRows {
    /// As they were at another time; such rows are not kept in memory.
    pub(super) fn then(
        standing: Standing,
        losses: Losses,
        totals: Option<Totals>,
        (windows, not_kept): (Vec<WindowRow>, Vec<i64>),
    ) -> Self {
        Self {
            standing,
            losses,
            totals,
            windows,
            not_kept,
            past_changes: 0,
        }
    }

    /// What there is with nothing counted.
    #[cfg(test)]
    pub(crate) fn of(standing: Standing, windows: Vec<WindowRow>) -> Self {
        Self {
            standing,
            losses: Losses::default(),
            totals: Some(Totals::default()),
            windows,
            not_kept: Vec::new(),
            past_changes: 0,
        }
    }

    /// Puts the past in front. None when it has changed since it was read. How the unit stands and
    /// what it lost changes without the past: that is taken from the younger reading alone.
    fn after(self, past: &Self) -> Option<Self> {
        if past.past_changes != self.past_changes {
            return None;
        }
        let mut totals = past.totals.clone()?;
        totals.merge(self.totals.as_ref()?);
        let mut windows = Vec::with_capacity(past.windows.len() + self.windows.len());
        windows.extend_from_slice(&past.windows);
        windows.extend(self.windows);
        Some(Self {
            totals: Some(totals),
            windows,
            ..self
        })
    }

    /// About how much memory it takes.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&self.windows[..]) + Totals::HISTOGRAM_BYTES
    }
}

/// What a row of a statement is: the first column.
const UNIT: i16 = 0;
const COVER: i16 = 1;
const WINDOW: i16 = 2;
const LOSS: i16 = 3;

/// Where things stand in a row.
const TIMES: usize = 1;
const STATISTICS: usize = TIMES + standing::COLUMN_COUNT;
const PAST_CHANGES: usize = STATISTICS + 4;
const WINDOW_ONLY: usize = STATISTICS + 9;
const COVER_ONLY: usize = WINDOW_ONLY + 4;

/// The columns that [`sums`] reads.
pub(super) const SUMS: &str = "vehicles, vehicles_with_speed, vehicles_moving, violations, speed_sum_ckmh, \
     speed_sumsq_ckmh2, pace_sum_ms_per_km, min_speed_ckmh, max_speed_ckmh";
/// Of their types, with how often the past has changed.
const PAST: &str = "NULL::int4, NULL::int4, NULL::int4, NULL::int4, past_changes, NULL::int8, \
                    NULL::int8, NULL::int4, NULL::int4";
/// Of their types, for rows of a union that have none of them.
pub(super) const NO_SUMS: &str = "NULL::int4, NULL::int4, NULL::int4, NULL::int4, NULL::int8, \
                                  NULL::int8, NULL::int8, NULL::int4, NULL::int4";
/// A window that stands for itself in the totals.
const BOTH: i16 = 4;

/// Up to so many windows bring their histograms along, instead of longer windows for the totals.
const FEW: i64 = 12;

/// The statements for windows of one length. Columns that a kind of row lacks are NULL.
///
/// Parameters: the unit; begin and end of the windows; begin and end of the time whose losses are
/// asked for; for many windows, begins and ends of the cover's five parts.
pub(super) struct Statements {
    few: String,
    many: String,
}

impl Statements {
    pub(super) fn new(interval: Interval) -> Self {
        let suffix = interval.word();
        let standing = standing::COLUMNS;
        let losses = loss::stretches("device = $1", loss::LOST, ["$4", "$5"]);
        let no_window = "NULL::int4, NULL::int4, NULL::boolean, NULL::int4";
        let no_cover = "NULL::int2, NULL::int4[]";
        let windows = |kind: i16, histogram: &str| {
            format!(
                "SELECT {UNIT}::int2, {standing}, {PAST}, {no_window}, {no_cover} \
                 FROM v_device WHERE device = $1 \
                 UNION ALL \
                 SELECT {kind}::int2, window_start, NULL, NULL, NULL, {SUMS}, \
                 v50_ckmh, v85_ckmh, revised, revision, {histogram} \
                 FROM v_speed_{suffix} \
                 WHERE device = $1 AND window_start >= $2 AND window_start < $3 \
                 UNION ALL \
                 SELECT {LOSS}::int2, begins, ends, NULL, NULL, {NO_SUMS}, {no_window}, {no_cover} \
                 FROM ({losses}) AS losses"
            )
        };
        let mut many = windows(WINDOW, no_cover);
        for (part, suffix) in ["24h", "1h", "1h", "5m", "5m"].into_iter().enumerate() {
            let (begin, end) = (6 + 2 * part, 7 + 2 * part);
            many.push_str(&format!(
                " UNION ALL SELECT {COVER}::int2, NULL, NULL, NULL, NULL, {SUMS}, \
                 {no_window}, hist_from_kmh, hist_counts \
                 FROM v_speed_{suffix} \
                 WHERE device = $1 AND window_start >= ${begin} AND window_start < ${end}"
            ));
        }
        Self {
            few: windows(BOTH, "hist_from_kmh, hist_counts"),
            many,
        }
    }
}

impl Reader {
    /// Windows of `interval` that start in `covered_ms`, which begins and ends with one. None for a
    /// unit that the centre does not know.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the views promise.
    pub async fn speed(
        &self,
        device: &DeviceId,
        interval: Interval,
        covered_ms: Range<i64>,
    ) -> Result<Option<SpeedRows>, ReadError> {
        let past = self.past(device, interval, covered_ms.clone()).await?;
        if let Some(past) = past {
            let young = past.to_ms..covered_ms.end;
            let asked = covered_ms.clone();
            let Some(young) = self.read_speed(device, interval, young, asked).await? else {
                return Ok(None);
            };
            if let Some(rows) = young.after(&past.rows) {
                return Ok(Some(rows));
            }
        }
        let asked = covered_ms.clone();
        self.read_speed(device, interval, covered_ms, asked).await
    }

    /// The same without what is in memory, with the losses of `lost_in_ms`.
    pub(super) async fn read_speed(
        &self,
        device: &DeviceId,
        interval: Interval,
        covered_ms: Range<i64>,
        lost_in_ms: Range<i64>,
    ) -> Result<Option<SpeedRows>, ReadError> {
        let few = covered_ms.end - covered_ms.start <= FEW * interval.length_ms();
        let cover = Cover::of(covered_ms.clone());
        let [hour_head, hour_tail] = cover.hours;
        let [five_head, five_rest] = cover.fives;
        let parts = [
            covered_ms, lost_in_ms, cover.days, hour_head, hour_tail, five_head, five_rest,
        ];
        let bounds = parts.map(|part| [Instant(part.start), Instant(part.end)]);
        let bounds = if few { &bounds[..2] } else { &bounds[..] };
        let device = device.as_str();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&device];
        parameters.extend(
            bounds
                .iter()
                .flatten()
                .map(|bound| bound as &(dyn ToSql + Sync)),
        );
        let statements = &self.speed_statements[interval as usize];
        let statement = if few {
            &statements.few
        } else {
            &statements.many
        };
        let rows = self.query(statement, &parameters).await?;
        sort_out(&rows)
    }
}

fn sort_out(rows: &[Row]) -> Result<Option<SpeedRows>, ReadError> {
    let mut unit = None;
    let mut totals = Totals::default();
    let mut lost_ms = Vec::new();
    let mut windows = Vec::with_capacity(rows.len());
    for row in rows {
        match column::<i16>(row, 0)? {
            UNIT => unit = Some((Standing::read(row, TIMES)?, column(row, PAST_CHANGES)?)),
            LOSS => lost_ms.push(loss::read(row, TIMES)?),
            kind => {
                if kind != WINDOW {
                    let lowest_kmh: i16 = column(row, COVER_ONLY)?;
                    let counts: Vec<i32> = column(row, COVER_ONLY + 1)?;
                    totals
                        .add(&sums(row, STATISTICS)?, lowest_kmh.into(), &counts)
                        .map_err(|error| ReadError::Fault(error.to_string()))?;
                }
                if kind != COVER {
                    windows.push(window(row)?);
                }
            }
        }
    }
    // UNION ALL promises no order.
    windows.sort_unstable_by_key(|window: &WindowRow| window.start_ms);
    Ok(unit.map(|(standing, past_changes)| SpeedRows {
        standing,
        losses: Losses::new(lost_ms),
        totals: Some(totals),
        windows,
        not_kept: Vec::new(),
        past_changes,
    }))
}

fn window(row: &Row) -> Result<WindowRow, ReadError> {
    Ok(WindowRow {
        start_ms: column::<Instant>(row, TIMES)?.0,
        sums: sums(row, STATISTICS)?,
        p50: speed(row, WINDOW_ONLY)?,
        p85: speed(row, WINDOW_ONLY + 1)?,
        revised: column(row, WINDOW_ONLY + 2)?,
        revision: column(row, WINDOW_ONLY + 3)?,
    })
}

/// Sums in columns that begin at `place`.
pub(super) fn sums(row: &Row, place: usize) -> Result<Sums, ReadError> {
    Ok(Sums {
        n: count(row, place)?,
        n_speed: count(row, place + 1)?,
        n_moving: count(row, place + 2)?,
        violations: count(row, place + 3)?,
        sum_ckmh: sum(row, place + 4)?,
        sumsq_ckmh2: sum(row, place + 5)?,
        pace_sum_ms_per_km: sum(row, place + 6)?,
        seen: speed(row, place + 7)?.zip(speed(row, place + 8)?),
    })
}

fn count(row: &Row, place: usize) -> Result<u64, ReadError> {
    let count: i32 = column(row, place)?;
    u64::try_from(count).map_err(|_| ReadError::Fault(format!("{count} vehicles in a window")))
}

fn sum(row: &Row, place: usize) -> Result<u128, ReadError> {
    let sum: i64 = column(row, place)?;
    u128::try_from(sum).map_err(|_| ReadError::Fault(format!("a sum of {sum} in a window")))
}

pub(super) fn speed(row: &Row, place: usize) -> Result<Option<Speed>, ReadError> {
    let Some(centi_kmh) = column::<Option<i32>>(row, place)? else {
        return Ok(None);
    };
    let speed = u16::try_from(centi_kmh)
        .ok()
        .and_then(Speed::from_centi_kmh);
    let wrong = || ReadError::Fault(format!("a speed of {centi_kmh} × 0.01 km/h in a window"));
    speed.map(Some).ok_or_else(wrong)
}
