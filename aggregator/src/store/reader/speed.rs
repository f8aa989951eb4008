//! The question behind `avg-speed`: windows, their totals, and how far the unit is final.
//!
//! A day of a unit is 288 rows, each in a page of its own, for rows of all units are written side by
//! side. So the past is kept in memory ([`super::past`]) and only what is younger is read, with the
//! number that says whether the copy is still true. One statement answers any question.

use std::ops::Range;
use std::sync::Arc;

use proto::device::DeviceId;
use proto::passage::Speed;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::instant::Instant;
use super::known::Known;
use super::loss::{self, Losses};
use super::past::{self, Past, Shelf};
use super::standing::{self, Standing};
use super::{Cover, Interval, KnownWindow, ReadError, Reader, Sums, Totals, WindowRow, column};

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
    pub windows: Vec<Arc<KnownWindow>>,
    /// Starts of further such windows, ascending, of which is not kept what they held.
    pub not_kept: Vec<i64>,
}

impl SpeedRows {
    /// What there is with nothing counted.
    #[cfg(test)]
    pub(crate) fn of(standing: Standing, windows: Vec<WindowRow>) -> Self {
        Self {
            standing,
            losses: Losses::default(),
            totals: Some(Totals::default()),
            windows: windows.into_iter().map(KnownWindow::new).collect(),
            not_kept: Vec::new(),
        }
    }
}

/// What a row of a statement is: the first column.
const UNIT: i16 = 0;
/// A longer window, for the totals alone.
const COVER: i16 = 1;
/// A window without its histogram.
const WINDOW: i16 = 2;
const LOSS: i16 = 3;
/// A window with its histogram, which stands for itself in the totals.
const BOTH: i16 = 4;
/// The histogram of a window in memory that is older than what is asked for.
const DROPPED: i16 = 5;

/// Where things stand in a row.
const TIMES: usize = 1;
const STATISTICS: usize = TIMES + standing::COLUMN_COUNT;
const PAST_CHANGES: usize = STATISTICS + 4;
const PAST_TO: usize = STATISTICS + 5;
const WINDOW_ONLY: usize = STATISTICS + 9;
const HISTOGRAM: usize = WINDOW_ONLY + 4;

/// The columns that [`sums`] reads.
pub(super) const SUMS: &str = "vehicles, vehicles_with_speed, vehicles_moving, violations, speed_sum_ckmh, \
     speed_sumsq_ckmh2, pace_sum_ms_per_km, min_speed_ckmh, max_speed_ckmh";
/// Of their types, with how often the past has changed and up to where it is.
const PAST: &str = "NULL::int4, NULL::int4, NULL::int4, NULL::int4, past_changes, \
                    (extract(epoch FROM past_to) * 1000)::int8, NULL::int8, NULL::int4, NULL::int4";
/// Of their types, for rows of a union that have none of them.
pub(super) const NO_SUMS: &str = "NULL::int4, NULL::int4, NULL::int4, NULL::int4, NULL::int8, \
                                  NULL::int8, NULL::int8, NULL::int4, NULL::int4";

/// The statements for windows of one length. Columns that a kind of row lacks are NULL.
///
/// Parameters of each: the unit; begin and end of the windows that bring their histograms; begin and
/// end of the time whose losses are asked for.
pub(super) struct Statements {
    /// No more than that.
    late: String,
    /// And begin and end of the windows to drop.
    rolled: String,
    /// And begin and end of the windows without histograms; begins and ends of the five parts of
    /// their cover.
    all: String,
}

impl Statements {
    pub(super) fn new(interval: Interval) -> Self {
        let suffix = interval.word();
        let standing = standing::COLUMNS;
        let losses = loss::stretches("device = $1", loss::LOST, ["$4", "$5"]);
        let no_window = "NULL::int4, NULL::int4, NULL::boolean, NULL::int4";
        let no_histogram = "NULL::int2, NULL::int4[]";
        let histogram = "hist_from_kmh, hist_counts";
        let windows = |kind: i16, histogram: &str, [begin, end]: [usize; 2]| {
            format!(
                "SELECT {kind}::int2, window_start, NULL, NULL, NULL, {SUMS}, \
                 v50_ckmh, v85_ckmh, revised, revision, {histogram} \
                 FROM v_speed_{suffix} \
                 WHERE device = $1 AND window_start >= ${begin} AND window_start < ${end}"
            )
        };
        let late = format!(
            "SELECT {UNIT}::int2, {standing}, {PAST}, {no_window}, {no_histogram} \
             FROM v_device WHERE device = $1 \
             UNION ALL {} \
             UNION ALL \
             SELECT {LOSS}::int2, begins, ends, NULL, NULL, {NO_SUMS}, {no_window}, {no_histogram} \
             FROM ({losses}) AS losses",
            windows(BOTH, histogram, [2, 3])
        );
        let rolled = format!("{late} UNION ALL {}", windows(DROPPED, histogram, [6, 7]));
        let mut all = format!("{late} UNION ALL {}", windows(WINDOW, no_histogram, [6, 7]));
        for (part, suffix) in ["24h", "1h", "1h", "5m", "5m"].into_iter().enumerate() {
            let (begin, end) = (8 + 2 * part, 9 + 2 * part);
            all.push_str(&format!(
                " UNION ALL SELECT {COVER}::int2, NULL, NULL, NULL, NULL, {SUMS}, \
                 {no_window}, {histogram} \
                 FROM v_speed_{suffix} \
                 WHERE device = $1 AND window_start >= ${begin} AND window_start < ${end}"
            ));
        }
        Self { late, rolled, all }
    }
}

/// Which windows are asked for, in time that follows upon each other.
struct Question<'a> {
    device: &'a DeviceId,
    interval: Interval,
    /// In memory, and older than what is asked for.
    dropped_ms: Range<i64>,
    /// Without histograms; or else in memory.
    early_ms: Range<i64>,
    /// With theirs.
    late_ms: Range<i64>,
}

/// What one statement says.
struct Reading {
    standing: Standing,
    losses: Losses,
    past_changes: i64,
    past_to_ms: Option<i64>,
    /// Of the windows to drop.
    dropped: Totals,
    /// Windows without histograms, with their totals.
    early: Known,
    /// Windows with theirs, by time.
    late: Vec<(Arc<KnownWindow>, Totals)>,
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
        let shelf = self.past.shelf(device, interval);
        if let Some(past) = shelf.serving(interval, &covered_ms) {
            let question = Question {
                device,
                interval,
                dropped_ms: past.time_ms.start..covered_ms.start,
                early_ms: covered_ms.start..past.time_ms.end,
                late_ms: past.time_ms.end..covered_ms.end,
            };
            let Some(reading) = self.read_beside(&question).await? else {
                return Ok(None);
            };
            if reading.past_changes == past.changes {
                let known = past.from(covered_ms.start, &reading.dropped);
                return Ok(Some(self.put_together(&question, &shelf, known, reading)));
            }
        }
        let split_ms = shelf.split(interval, &covered_ms);
        let question = Question {
            device,
            interval,
            dropped_ms: covered_ms.start..covered_ms.start,
            early_ms: covered_ms.start..split_ms,
            late_ms: split_ms..covered_ms.end,
        };
        let reading = if question.early_ms.is_empty() {
            self.read_beside(&question).await?
        } else {
            self.read_all(&question).await?
        };
        Ok(reading.map(|mut reading| {
            let early = std::mem::take(&mut reading.early);
            self.put_together(&question, &shelf, early, reading)
        }))
    }

    /// The late windows, beside early ones in memory.
    async fn read_beside(&self, question: &Question<'_>) -> Result<Option<Reading>, ReadError> {
        let statements = &self.speed_statements[question.interval as usize];
        let (statement, further) = if question.dropped_ms.is_empty() {
            (&statements.late, vec![])
        } else {
            (&statements.rolled, vec![question.dropped_ms.clone()])
        };
        self.read(question, statement, further).await
    }

    /// All windows.
    async fn read_all(&self, question: &Question<'_>) -> Result<Option<Reading>, ReadError> {
        let cover = Cover::of(question.early_ms.clone());
        let [hour_head, hour_tail] = cover.hours;
        let [five_head, five_tail] = cover.fives;
        let early_ms = question.early_ms.clone();
        let further = vec![
            early_ms, cover.days, hour_head, hour_tail, five_head, five_tail,
        ];
        let statements = &self.speed_statements[question.interval as usize];
        self.read(question, &statements.all, further).await
    }

    async fn read(
        &self,
        question: &Question<'_>,
        statement: &str,
        further: Vec<Range<i64>>,
    ) -> Result<Option<Reading>, ReadError> {
        let lost_ms = question.early_ms.start..question.late_ms.end;
        let bounds: Vec<Instant> = [question.late_ms.clone(), lost_ms]
            .into_iter()
            .chain(further)
            .flat_map(|part| [Instant(part.start), Instant(part.end)])
            .collect();
        let device = question.device.as_str();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&device];
        parameters.extend(bounds.iter().map(|bound| bound as &(dyn ToSql + Sync)));
        sort_out(&self.query(statement, &parameters).await?)
    }

    /// Answers with early windows and with those that were read; and keeps of all that what is past.
    fn put_together(
        &self,
        question: &Question<'_>,
        shelf: &Shelf,
        early: Known,
        reading: Reading,
    ) -> SpeedRows {
        let (start_ms, end_ms) = (question.early_ms.start, question.late_ms.end);
        let mut known = early;
        let mut late = reading.late.into_iter().peekable();
        let past_to_ms = reading.past_to_ms.map(|to| question.interval.floor(to));
        if let Some(to_ms) = past_to_ms.map(|to| to.clamp(start_ms, end_ms)) {
            while let Some((window, totals)) =
                late.next_if(|(window, _)| window.row.start_ms < to_ms)
            {
                known.add(window, &totals);
            }
            // Of a unit that lags, totals of the past alone are not known: where it ends is.
            let lags = to_ms < question.early_ms.end;
            let time_ms = if lags { to_ms..to_ms } else { start_ms..to_ms };
            let short = past::is_short(question.interval, &(start_ms..end_ms));
            if !short && !shelf.has(&time_ms, reading.past_changes) {
                let past = Past {
                    time_ms,
                    changes: reading.past_changes,
                    known: if lags {
                        Known::default()
                    } else {
                        known.clone()
                    },
                };
                self.past
                    .put(question.device, question.interval, shelf, past);
            }
        }
        for (window, totals) in late {
            known.add(window, &totals);
        }
        SpeedRows {
            standing: reading.standing,
            losses: reading.losses,
            totals: Some(known.totals),
            windows: known.windows,
            not_kept: Vec::new(),
        }
    }
}

fn sort_out(rows: &[Row]) -> Result<Option<Reading>, ReadError> {
    let mut unit = None;
    let mut lost_ms = Vec::new();
    let mut dropped = Totals::default();
    let mut early = Known::default();
    let mut late = Vec::new();
    for row in rows {
        match column::<i16>(row, 0)? {
            UNIT => {
                let past = (column(row, PAST_CHANGES)?, column(row, PAST_TO)?);
                unit = Some((Standing::read(row, TIMES)?, past));
            }
            LOSS => lost_ms.push(loss::read(row, TIMES)?),
            WINDOW => early.windows.push(KnownWindow::new(window(row)?)),
            COVER => add_to(&mut early.totals, row)?,
            DROPPED => add_to(&mut dropped, row)?,
            BOTH => {
                let mut totals = Totals::default();
                add_to(&mut totals, row)?;
                late.push((KnownWindow::new(window(row)?), totals));
            }
            other => return Err(ReadError::Fault(format!("a row of kind {other}"))),
        }
    }
    // UNION ALL promises no order.
    early
        .windows
        .sort_unstable_by_key(|window| window.row.start_ms);
    late.sort_unstable_by_key(|(window, _)| window.row.start_ms);
    Ok(unit.map(|(standing, (past_changes, past_to_ms))| Reading {
        standing,
        losses: Losses::new(lost_ms),
        past_changes,
        past_to_ms,
        dropped,
        early,
        late,
    }))
}

fn add_to(totals: &mut Totals, row: &Row) -> Result<(), ReadError> {
    let lowest_kmh: i16 = column(row, HISTOGRAM)?;
    let counts: Vec<i32> = column(row, HISTOGRAM + 1)?;
    totals
        .add(&sums(row, STATISTICS)?, lowest_kmh.into(), &counts)
        .map_err(|error| ReadError::Fault(error.to_string()))
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
