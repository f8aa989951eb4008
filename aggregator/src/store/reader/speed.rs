//! The question behind `avg-speed`: windows, their totals, and how far the unit is final.

use std::ops::Range;

use proto::device::DeviceId;
use proto::passage::Speed;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::instant::Instant;
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
    /// When the centre first heard of the unit, ms since 1970.
    pub first_seen_ms: i64,
    /// Windows that end by then are final, ms since 1970; none before the unit said so.
    pub final_to_ms: Option<i64>,
    /// Over the whole stretch.
    pub totals: Totals,
    /// Windows in which a vehicle was counted, by ascending start.
    pub windows: Vec<WindowRow>,
}

/// What a row of the statement is: the first column.
const UNIT: i16 = 0;
const COVER: i16 = 1;
const WINDOW: i16 = 2;

/// The statement for windows of one length. Columns that a kind of row lacks are NULL.
///
/// Parameters: the unit; begin and end of the windows; begins and ends of the cover's five parts.
pub(super) fn statement(interval: Interval) -> String {
    let sums = "vehicles, vehicles_with_speed, vehicles_moving, violations, speed_sum_ckmh, \
                speed_sumsq_ckmh2, pace_sum_ms_per_km, min_speed_ckmh, max_speed_ckmh";
    let suffix = interval.word();
    let mut statement = format!(
        "SELECT {UNIT}::int2, first_seen, final_to, \
         NULL::int4, NULL::int4, NULL::int4, NULL::int4, NULL::int8, \
         NULL::int8, NULL::int8, NULL::int4, NULL::int4, \
         NULL::int4, NULL::int4, NULL::boolean, NULL::int4, NULL::int2, NULL::int4[] \
         FROM v_device WHERE device = $1 \
         UNION ALL \
         SELECT {WINDOW}::int2, window_start, NULL, {sums}, \
         v50_ckmh, v85_ckmh, revised, revision, NULL, NULL \
         FROM v_speed_{suffix} WHERE device = $1 AND window_start >= $2 AND window_start < $3"
    );
    for (part, suffix) in ["24h", "1h", "1h", "5m", "5m"].into_iter().enumerate() {
        let (begin, end) = (4 + 2 * part, 5 + 2 * part);
        statement.push_str(&format!(
            " UNION ALL SELECT {COVER}::int2, window_start, NULL, {sums}, \
             NULL, NULL, NULL, NULL, hist_from_kmh, hist_counts \
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
    let mut unit = None;
    let mut totals = Totals::default();
    let mut windows = Vec::with_capacity(rows.len());
    for row in rows {
        match column::<i16>(row, 0)? {
            UNIT => {
                let final_to: Option<Instant> = column(row, 2)?;
                unit = Some((
                    column::<Instant>(row, 1)?.0,
                    final_to.map(|instant| instant.0),
                ));
            }
            COVER => {
                let lowest_kmh: i16 = column(row, 16)?;
                let counts: Vec<i32> = column(row, 17)?;
                totals
                    .add(&sums(row)?, lowest_kmh.into(), &counts)
                    .map_err(|error| ReadError::Fault(error.to_string()))?;
            }
            _ => windows.push(WindowRow {
                start_ms: column::<Instant>(row, 1)?.0,
                sums: sums(row)?,
                p50: speed(row, 12)?,
                p85: speed(row, 13)?,
                revised: column(row, 14)?,
                revision: column(row, 15)?,
            }),
        }
    }
    // UNION ALL promises no order.
    windows.sort_unstable_by_key(|window: &WindowRow| window.start_ms);
    Ok(unit.map(|(first_seen_ms, final_to_ms)| SpeedRows {
        first_seen_ms,
        final_to_ms,
        totals,
        windows,
    }))
}

fn sums(row: &Row) -> Result<Sums, ReadError> {
    Ok(Sums {
        n: count(row, 3)?,
        n_speed: count(row, 4)?,
        n_moving: count(row, 5)?,
        violations: count(row, 6)?,
        sum_ckmh: sum(row, 7)?,
        sumsq_ckmh2: sum(row, 8)?,
        pace_sum_ms_per_km: sum(row, 9)?,
        seen: speed(row, 10)?.zip(speed(row, 11)?),
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

fn speed(row: &Row, place: usize) -> Result<Option<Speed>, ReadError> {
    let Some(centi_kmh) = column::<Option<i32>>(row, place)? else {
        return Ok(None);
    };
    let speed = u16::try_from(centi_kmh)
        .ok()
        .and_then(Speed::from_centi_kmh);
    let wrong = || ReadError::Fault(format!("a speed of {centi_kmh} × 0.01 km/h in a window"));
    speed.map(Some).ok_or_else(wrong)
}
