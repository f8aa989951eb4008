//! The question behind `avg-speed`: windows, their totals, and how far the unit is final.

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
    /// Over the whole stretch.
    pub totals: Totals,
    /// Windows in which a vehicle was counted, by ascending start.
    pub windows: Vec<WindowRow>,
}

/// What a row of the statement is: the first column.
const UNIT: i16 = 0;
const COVER: i16 = 1;
const WINDOW: i16 = 2;
const LOSS: i16 = 3;

/// Where things stand in a row.
const TIMES: usize = 1;
const STATISTICS: usize = TIMES + standing::COLUMN_COUNT;
const WINDOW_ONLY: usize = STATISTICS + 9;
const COVER_ONLY: usize = WINDOW_ONLY + 4;

/// The columns that [`sums`] reads.
pub(super) const SUMS: &str = "vehicles, vehicles_with_speed, vehicles_moving, violations, speed_sum_ckmh, \
     speed_sumsq_ckmh2, pace_sum_ms_per_km, min_speed_ckmh, max_speed_ckmh";
/// Of their types, for rows of a union that have none of them.
pub(super) const NO_SUMS: &str = "NULL::int4, NULL::int4, NULL::int4, NULL::int4, NULL::int8, \
                                  NULL::int8, NULL::int8, NULL::int4, NULL::int4";

/// The statement for windows of one length. Columns that a kind of row lacks are NULL.
///
/// Parameters: the unit; begin and end of the windows; begins and ends of the cover's five parts.
pub(super) fn statement(interval: Interval) -> String {
    let suffix = interval.word();
    let standing = standing::COLUMNS;
    let losses = loss::stretches("device = $1");
    let no_window = "NULL::int4, NULL::int4, NULL::boolean, NULL::int4";
    let no_cover = "NULL::int2, NULL::int4[]";
    let mut statement = format!(
        "SELECT {UNIT}::int2, {standing}, {NO_SUMS}, {no_window}, {no_cover} \
         FROM v_device WHERE device = $1 \
         UNION ALL \
         SELECT {WINDOW}::int2, window_start, NULL, NULL, NULL, {SUMS}, \
         v50_ckmh, v85_ckmh, revised, revision, {no_cover} \
         FROM v_speed_{suffix} WHERE device = $1 AND window_start >= $2 AND window_start < $3 \
         UNION ALL \
         SELECT {LOSS}::int2, begins, ends, NULL, NULL, {NO_SUMS}, {no_window}, {no_cover} \
         FROM ({losses}) AS losses"
    );
    for (part, suffix) in ["24h", "1h", "1h", "5m", "5m"].into_iter().enumerate() {
        let (begin, end) = (4 + 2 * part, 5 + 2 * part);
        statement.push_str(&format!(
            " UNION ALL SELECT {COVER}::int2, NULL, NULL, NULL, NULL, {SUMS}, \
             {no_window}, hist_from_kmh, hist_counts \
             FROM v_speed_{suffix} \
             WHERE device = $1 AND window_start >= ${begin} AND window_start < ${end}"
        ));
    }
    statement
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
        let cover = Cover::of(covered_ms.clone());
        let [hour_head, hour_tail] = cover.hours;
        let [five_head, five_rest] = cover.fives;
        let parts = [
            covered_ms, cover.days, hour_head, hour_tail, five_head, five_rest,
        ];
        let bounds = parts.map(|part| [Instant(part.start), Instant(part.end)]);
        let device = device.as_str();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&device];
        parameters.extend(
            bounds
                .iter()
                .flatten()
                .map(|bound| bound as &(dyn ToSql + Sync)),
        );
        let statement = &self.speed_statements[interval as usize];
        let rows = self.query(statement, &parameters).await?;
        sort_out(&rows)
    }
}

fn sort_out(rows: &[Row]) -> Result<Option<SpeedRows>, ReadError> {
    let mut standing = None;
    let mut totals = Totals::default();
    let mut lost_ms = Vec::new();
    let mut windows = Vec::with_capacity(rows.len());
    for row in rows {
        match column::<i16>(row, 0)? {
            UNIT => standing = Some(Standing::read(row, TIMES)?),
            LOSS => lost_ms.push(loss::read(row, TIMES)?),
            COVER => {
                let lowest_kmh: i16 = column(row, COVER_ONLY)?;
                let counts: Vec<i32> = column(row, COVER_ONLY + 1)?;
                totals
                    .add(&sums(row, STATISTICS)?, lowest_kmh.into(), &counts)
                    .map_err(|error| ReadError::Fault(error.to_string()))?;
            }
            _ => windows.push(WindowRow {
                start_ms: column::<Instant>(row, TIMES)?.0,
                sums: sums(row, STATISTICS)?,
                p50: speed(row, WINDOW_ONLY)?,
                p85: speed(row, WINDOW_ONLY + 1)?,
                revised: column(row, WINDOW_ONLY + 2)?,
                revision: column(row, WINDOW_ONLY + 3)?,
            }),
        }
    }
    // UNION ALL promises no order.
    windows.sort_unstable_by_key(|window: &WindowRow| window.start_ms);
    Ok(standing.map(|standing| SpeedRows {
        standing,
        losses: Losses::new(lost_ms),
        totals,
        windows,
    }))
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
