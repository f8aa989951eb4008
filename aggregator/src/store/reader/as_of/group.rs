//! Of many units together.
//!
//! Versions are added up as they arrive, as the windows of today are: a question costs memory by its
//! windows, not by its units. A window of all units is kept when that of each unit is; totals over
//! time are put together from shorter windows where it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::pin::pin;

use deadpool_postgres::Transaction;
use futures_util::TryStreamExt as _;
use proto::device::DeviceId;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::super::group::{EarlyWindow, GroupRows, GroupUnit};
use super::super::instant::Instant;
use super::super::loss::{self, Losses};
use super::super::speed::{SUMS, sums};
use super::super::versions::{shorter, stretches};
use super::super::{Attempt, Interval, ReadError, Reader, Standing, Totals, column};
use super::{Then, forgotten};

/// Parameters: the units, the time.
const UNITS: &str = "
    SELECT device, first_seen, (
        SELECT f.final_to FROM v_finality f
        WHERE f.device = u.device AND f.at <= $2 ORDER BY f.at DESC LIMIT 1)
    FROM v_device u WHERE device = ANY ($1) AND first_seen <= $2";

/// Windows that stood at the time. Parameters: the units, begin and end of the windows, the time.
fn kept(interval: Interval) -> String {
    format!(
        "SELECT device, window_start, {SUMS}, revised, revision, hist_from_kmh, hist_counts \
         FROM v_speed_version_{} \
         WHERE device = ANY ($1) AND window_start >= $2 AND window_start < $3 \
           AND first_written <= $4 AND valid_from <= $4 AND valid_to > $4",
        interval.word()
    )
}

/// Where things stand in its rows.
const STATISTICS: usize = 2;
const REVISED: usize = STATISTICS + 9;
const HISTOGRAM: usize = REVISED + 2;

/// Windows that had been written by the time, and of which is not kept what they held then: they
/// were partial and have changed since. Parameters as of [`kept`].
fn not_kept(interval: Interval) -> String {
    let versions = format!("v_speed_version_{}", interval.word());
    let asked = |table: &str| {
        format!(
            "{table}.device = ANY ($1) AND {table}.window_start >= $2 AND {table}.window_start < $3"
        )
    };
    format!(
        "SELECT n.device, n.window_start FROM {versions} n \
         WHERE {} AND n.first_written <= $4 AND n.valid_from > $4 AND n.valid_to = 'infinity' \
           AND NOT EXISTS (SELECT FROM {versions} k \
             WHERE k.device_key = n.device_key AND k.window_start = n.window_start AND {} \
               AND k.valid_from <= $4 AND k.valid_to > $4)",
        asked("n"),
        asked("k")
    )
}

impl Reader {
    /// What [`Reader::group_speed`] would have given at the time `at_ms`; of `devices` those that the
    /// centre knew then, which may be none.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the views promise.
    pub async fn group_speed_at(
        &self,
        devices: &[DeviceId],
        interval: Interval,
        covered_ms: Range<i64>,
        at_ms: i64,
    ) -> Result<Then<GroupRows>, ReadError> {
        let question = Question {
            devices: devices.iter().map(DeviceId::as_str).collect(),
            interval,
            covered_ms,
            at: Instant(at_ms),
        };
        self.then(&question).await
    }
}

struct Question<'a> {
    devices: Vec<&'a str>,
    interval: Interval,
    covered_ms: Range<i64>,
    at: Instant,
}

impl super::Question for Question<'_> {
    type Answer = GroupRows;

    fn at(&self) -> Instant {
        self.at
    }

    async fn answer(&self, snapshot: &Transaction<'_>) -> Result<Then<GroupRows>, Attempt> {
        let units = self.units(snapshot).await?;
        if units.is_empty() {
            return Ok(Ok(GroupRows::default()));
        }
        if let Some(forgotten) = forgotten(snapshot, self.at).await? {
            return Ok(Err(forgotten));
        }
        let mut rows = GroupRows {
            losses: self.losses(snapshot).await?,
            ..GroupRows::default()
        };
        let known_from: BTreeMap<&str, i64> = units
            .iter()
            .map(|unit| {
                let known_from = self.interval.floor(unit.standing.first_seen_ms);
                (unit.device.as_str(), known_from)
            })
            .collect();
        let early = |device: &str, start_ms: i64| {
            let is_early = known_from.get(device).is_some_and(|from| start_ms < *from);
            is_early.then(|| EarlyWindow {
                device: device.to_owned(),
                start_ms,
            })
        };
        let mut lacking: BTreeSet<String> = BTreeSet::new();
        let covered = &self.covered_ms;
        let missing = not_kept(self.interval);
        self.each(snapshot, &missing, covered, |row| {
            let (device, start_ms) = window(row)?;
            rows.early.extend(early(device, start_ms));
            rows.not_kept.insert(start_ms);
            if !lacking.contains(device) {
                lacking.insert(device.to_owned());
            }
            Ok(())
        })
        .await?;
        self.each(snapshot, &kept(self.interval), covered, |row| {
            let (device, start_ms) = window(row)?;
            rows.early.extend(early(device, start_ms));
            if !rows.not_kept.contains(&start_ms) {
                let window = rows.windows.entry(start_ms).or_default();
                window.revised |= column::<bool>(row, REVISED)?;
                window.revision += i64::from(column::<i32>(row, REVISED + 1)?);
                add_to(&mut window.totals, row)?;
            }
            Ok(())
        })
        .await?;
        rows.filled = self.filled(snapshot, &rows.not_kept).await?;
        drop(known_from);
        rows.units = units;
        for unit in &mut rows.units {
            unit.lacks_windows = lacking.contains(&unit.device);
        }
        Ok(Ok(rows))
    }
}

impl Question<'_> {
    /// Those that the centre knew, by name.
    async fn units(&self, snapshot: &Transaction<'_>) -> Result<Vec<GroupUnit>, Attempt> {
        let statement = snapshot.prepare_cached(UNITS).await?;
        let rows = snapshot
            .query(&statement, &[&self.devices, &self.at])
            .await?;
        let unit = |row: &Row| {
            let final_to: Option<Instant> = column(row, 2)?;
            Ok(GroupUnit {
                device: column(row, 0)?,
                standing: Standing {
                    first_seen_ms: column::<Instant>(row, 1)?.0,
                    final_to_ms: final_to.map(|instant| instant.0),
                    ..Standing::default()
                },
                lacks_windows: false,
            })
        };
        let units: Result<Vec<GroupUnit>, ReadError> = rows.iter().map(unit).collect();
        let mut units = units?;
        units.sort_unstable_by(|a, b| a.device.cmp(&b.device));
        Ok(units)
    }

    async fn losses(&self, snapshot: &Transaction<'_>) -> Result<Losses, Attempt> {
        let stretches = loss::stretches("device = ANY ($1)", loss::LOST_THEN, ["$2", "$3"]);
        let statement = format!("SELECT begins, ends FROM ({stretches}) AS losses");
        let mut lost_ms = Vec::new();
        self.each(snapshot, &statement, &self.covered_ms, |row| {
            lost_ms.push(loss::read(row, 0)?);
            Ok(())
        })
        .await?;
        Ok(Losses::new(lost_ms))
    }

    /// Over the time of windows that are not kept; none when not even 5-minute windows tell
    /// everything.
    async fn filled(
        &self,
        snapshot: &Transaction<'_>,
        starts: &BTreeSet<i64>,
    ) -> Result<Option<Totals>, Attempt> {
        let mut totals = Totals::default();
        let (mut interval, mut gaps) = (self.interval, stretches(starts, self.interval));
        // What the shortest windows lack no longer one has: nothing is added up in vain.
        let any = format!("{} LIMIT 1", not_kept(Interval::FiveMinutes));
        for gap in &gaps {
            let mut lacks = false;
            let found = |_: &Row| {
                lacks = true;
                Ok(())
            };
            self.each(snapshot, &any, gap, found).await?;
            if lacks {
                return Ok(None);
            }
        }
        while !gaps.is_empty() {
            let Some(next) = shorter(interval) else {
                return Ok(None);
            };
            let mut deeper = Vec::new();
            for gap in gaps {
                let mut lacking = BTreeSet::new();
                self.each(snapshot, &not_kept(next), &gap, |row| {
                    lacking.insert(window(row)?.1);
                    Ok(())
                })
                .await?;
                self.each(snapshot, &kept(next), &gap, |row| {
                    if lacking.contains(&window(row)?.1) {
                        return Ok(());
                    }
                    add_to(&mut totals, row)
                })
                .await?;
                deeper.extend(stretches(&lacking, next));
            }
            (interval, gaps) = (next, deeper);
        }
        Ok(Some(totals))
    }

    /// Takes the rows of a statement about a stretch of time as they arrive.
    async fn each(
        &self,
        snapshot: &Transaction<'_>,
        statement: &str,
        time_ms: &Range<i64>,
        mut take: impl FnMut(&Row) -> Result<(), ReadError> + Send,
    ) -> Result<(), Attempt> {
        let prepared = snapshot.prepare_cached(statement).await?;
        let (begin, end) = (Instant(time_ms.start), Instant(time_ms.end));
        let parameters: [&(dyn ToSql + Sync); 4] = [&self.devices, &begin, &end, &self.at];
        let mut rows = pin!(snapshot.query_raw(&prepared, parameters).await?);
        while let Some(row) = rows.try_next().await? {
            take(&row)?;
        }
        Ok(())
    }
}

/// Whose window it is, and its start.
fn window(row: &Row) -> Result<(&str, i64), ReadError> {
    Ok((column(row, 0)?, column::<Instant>(row, 1)?.0))
}

fn add_to(totals: &mut Totals, row: &Row) -> Result<(), ReadError> {
    let lowest_kmh: i16 = column(row, HISTOGRAM)?;
    let counts: Vec<i32> = column(row, HISTOGRAM + 1)?;
    totals
        .add(&sums(row, STATISTICS)?, lowest_kmh.into(), &counts)
        .map_err(|error| ReadError::Fault(error.to_string()))
}
