//! The question behind `avg-speed` of many units: their windows added up, and how each unit stands.
//!
//! The rows of the units are added up as they arrive, so that a question costs memory by its
//! windows, not by its units.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proto::device::DeviceId;
use tokio_postgres::Row;

use super::instant::Instant;
use super::loss::{self, Losses};
use super::speed::{NO_SUMS, SUMS, sums};
use super::standing::{self, Standing};
use super::{Interval, ReadError, Reader, Totals, column};

/// A unit of the question that the centre knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupUnit {
    /// Its name.
    pub device: String,
    /// How it stands.
    pub standing: Standing,
    /// Whether of any window of it, at a time in the past, is not kept what it held.
    pub lacks_windows: bool,
}

/// One window of all units together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupWindow {
    /// Over the units.
    pub totals: Totals,
    /// Whether any unit's window changed after it was final.
    pub revised: bool,
    /// How many times the units' windows were written.
    pub revision: i64,
}

/// A window in which a unit counted a vehicle before the centre first heard of the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlyWindow {
    /// Name of the unit.
    pub device: String,
    /// First instant of the window, ms since 1970.
    pub start_ms: i64,
}

/// All that is known of some units and one stretch of time, in one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupRows {
    /// Those that the centre knows, by name.
    pub units: Vec<GroupUnit>,
    /// Windows in which any unit counted a vehicle, by their start in ms since 1970.
    pub windows: BTreeMap<i64, GroupWindow>,
    /// Starts of further such windows, of which is not kept, for a time in the past, what all of the
    /// units held.
    pub not_kept: BTreeSet<i64>,
    /// Over the time of those; none when that is not kept either.
    pub filled: Option<Totals>,
    /// Of the units' windows, those before their unit was first heard of.
    pub early: Vec<EarlyWindow>,
    /// When passages of any of the units are known to be lost.
    pub losses: Losses,
}

/// What a row of the statement is: the first column.
const UNIT: i16 = 0;
const WINDOW: i16 = 1;
const LOSS: i16 = 2;

/// Where things stand in a row.
const DEVICE: usize = 1;
const TIMES: usize = 2;
const STATISTICS: usize = TIMES + standing::COLUMN_COUNT;
const REVISED: usize = STATISTICS + 9;

/// The statement for windows of one length. Parameters: the units; begin and end of the windows.
pub(super) fn statement(interval: Interval) -> String {
    let suffix = interval.word();
    let length = interval.length_ms();
    let standing = standing::COLUMNS;
    let nothing_else = "NULL::boolean, NULL::int4, NULL::int2, NULL::int4[]";
    let losses = loss::stretches("device = ANY ($1)", loss::LOST, ["$2", "$3"]);
    let first = format!("date_bin('{length} ms', u.first_seen, 'epoch')");
    format!(
        "SELECT {UNIT}::int2, device, {standing}, {NO_SUMS}, {nothing_else} \
         FROM v_device WHERE device = ANY ($1) \
         UNION ALL \
         SELECT {WINDOW}::int2, CASE WHEN s.window_start < {first} THEN u.device END, \
             s.window_start, NULL, NULL, NULL, {SUMS}, s.revised, s.revision, \
             s.hist_from_kmh, s.hist_counts \
         FROM v_device u JOIN v_speed_{suffix} s ON s.device = u.device \
         WHERE u.device = ANY ($1) AND s.window_start >= $2 AND s.window_start < $3 \
         UNION ALL \
         SELECT {LOSS}::int2, NULL, begins, ends, NULL, NULL, {NO_SUMS}, {nothing_else} \
         FROM ({losses}) AS losses"
    )
}

impl Reader {
    /// Windows of `interval` that start in `covered_ms`, which begins and ends with one, of all
    /// `devices` that the centre knows, which may be none.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the views promise.
    pub async fn group_speed(
        &self,
        devices: &[DeviceId],
        interval: Interval,
        covered_ms: Range<i64>,
    ) -> Result<GroupRows, ReadError> {
        let devices: Vec<&str> = devices.iter().map(DeviceId::as_str).collect();
        let (begin, end) = (Instant(covered_ms.start), Instant(covered_ms.end));
        let statement = &self.group_statements[interval as usize];
        let folded = self
            .fold(statement, &[&devices, &begin, &end], Fold::add)
            .await?;
        Ok(folded.finish())
    }
}

/// The rows so far.
#[derive(Default)]
struct Fold {
    rows: GroupRows,
    lost_ms: Vec<Range<i64>>,
}

impl Fold {
    fn add(&mut self, row: Row) -> Result<(), ReadError> {
        match column::<i16>(&row, 0)? {
            UNIT => self.rows.units.push(GroupUnit {
                device: column(&row, DEVICE)?,
                standing: Standing::read(&row, TIMES)?,
                lacks_windows: false,
            }),
            LOSS => self.lost_ms.push(loss::read(&row, TIMES)?),
            _ => {
                let start_ms = column::<Instant>(&row, TIMES)?.0;
                if let Some(device) = column(&row, DEVICE)? {
                    self.rows.early.push(EarlyWindow { device, start_ms });
                }
                let window = self.rows.windows.entry(start_ms).or_default();
                window.revised |= column::<bool>(&row, REVISED)?;
                window.revision += i64::from(column::<i32>(&row, REVISED + 1)?);
                let lowest_kmh: i16 = column(&row, REVISED + 2)?;
                let counts: Vec<i32> = column(&row, REVISED + 3)?;
                window
                    .totals
                    .add(&sums(&row, STATISTICS)?, lowest_kmh.into(), &counts)
                    .map_err(|error| ReadError::Fault(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> GroupRows {
        // UNION ALL promises no order.
        self.rows
            .units
            .sort_unstable_by(|a, b| a.device.cmp(&b.device));
        self.rows.losses = Losses::new(self.lost_ms);
        self.rows
    }
}
