//! Of one unit.

use std::ops::Range;

use deadpool_postgres::Transaction;
use proto::device::DeviceId;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::super::instant::Instant;
use super::super::loss::{self, Losses};
use super::super::speed::{speed, sums};
use super::super::versions::{Version, Versions, shorter};
use super::super::{
    Attempt, HistogramError, Interval, KnownWindow, ReadError, Reader, SpeedRows, Standing, Totals,
    WindowRow, column,
};
use super::{Then, forgotten};

const UNIT: &str = "
    SELECT first_seen, (
        SELECT final_to FROM v_finality WHERE device = $1 AND at <= $2 ORDER BY at DESC LIMIT 1)
    FROM v_device WHERE device = $1 AND first_seen <= $2";

impl Reader {
    /// What [`Reader::speed`] would have given at the time `at_ms`. None for a unit that the centre
    /// did not know then.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the views promise.
    pub async fn speed_at(
        &self,
        device: &DeviceId,
        interval: Interval,
        covered_ms: Range<i64>,
        at_ms: i64,
    ) -> Result<Then<Option<SpeedRows>>, ReadError> {
        let question = Question {
            device: device.as_str(),
            interval,
            covered_ms,
            at: Instant(at_ms),
        };
        self.then(&question).await
    }
}

struct Question<'a> {
    device: &'a str,
    interval: Interval,
    covered_ms: Range<i64>,
    at: Instant,
}

impl super::Question for Question<'_> {
    type Answer = Option<SpeedRows>;

    fn at(&self) -> Instant {
        self.at
    }

    async fn answer(&self, snapshot: &Transaction<'_>) -> Result<Then<Self::Answer>, Attempt> {
        let unit = query(snapshot, UNIT, &[&self.device, &self.at]).await?;
        let Some(unit) = unit.first() else {
            return Ok(Ok(None));
        };
        if let Some(forgotten) = forgotten(snapshot, self.at).await? {
            return Ok(Err(forgotten));
        }
        let final_to: Option<Instant> = column(unit, 1)?;
        let covered_ms = self.covered_ms.clone();
        let versions = self.versions(snapshot, self.interval, covered_ms).await?;
        let totals = self.totals(snapshot, &versions).await?;
        let standing = Standing {
            first_seen_ms: column::<Instant>(unit, 0)?.0,
            final_to_ms: final_to.map(|instant| instant.0),
            ..Standing::default()
        };
        let losses = self.losses(snapshot).await?;
        let kept = versions.kept.into_iter();
        let windows = kept
            .map(|version| KnownWindow::new(version.window))
            .collect();
        Ok(Ok(Some(SpeedRows {
            standing,
            losses,
            totals,
            windows,
            not_kept: versions.not_kept,
        })))
    }
}

impl Question<'_> {
    async fn losses(&self, snapshot: &Transaction<'_>) -> Result<Losses, Attempt> {
        let stretches = loss::stretches("device = $1", loss::LOST_THEN, ["$2", "$3"]);
        let statement = format!("SELECT begins, ends FROM ({stretches}) AS losses");
        let (begin, end) = (Instant(self.covered_ms.start), Instant(self.covered_ms.end));
        let rows = query(
            snapshot,
            &statement,
            &[&self.device, &begin, &end, &self.at],
        )
        .await?;
        let lost: Result<Vec<_>, ReadError> = rows.iter().map(|row| loss::read(row, 0)).collect();
        Ok(Losses::new(lost?))
    }

    /// Over all windows; none when not even 5-minute windows tell everything.
    async fn totals(
        &self,
        snapshot: &Transaction<'_>,
        versions: &Versions,
    ) -> Result<Option<Totals>, Attempt> {
        let fault = |error: HistogramError| ReadError::Fault(error.to_string());
        let mut totals = Totals::default();
        versions.add_to(&mut totals).map_err(fault)?;
        let (mut interval, mut gaps) = (self.interval, versions.gaps(self.interval));
        while !gaps.is_empty() {
            let Some(next) = shorter(interval) else {
                return Ok(None);
            };
            let mut deeper = Vec::new();
            for gap in gaps {
                let within = self.versions(snapshot, next, gap).await?;
                within.add_to(&mut totals).map_err(fault)?;
                deeper.extend(within.gaps(next));
            }
            (interval, gaps) = (next, deeper);
        }
        Ok(Some(totals))
    }

    /// Windows that had been written, of those that start in `starts_ms`.
    async fn versions(
        &self,
        snapshot: &Transaction<'_>,
        interval: Interval,
        starts_ms: Range<i64>,
    ) -> Result<Versions, Attempt> {
        let statement = format!(
            "SELECT window_start, valid_from <= $4, \
             vehicles, vehicles_with_speed, vehicles_moving, violations, speed_sum_ckmh, \
             speed_sumsq_ckmh2, pace_sum_ms_per_km, min_speed_ckmh, max_speed_ckmh, \
             v50_ckmh, v85_ckmh, revised, revision, hist_from_kmh, hist_counts \
             FROM v_speed_version_{} \
             WHERE device = $1 AND window_start >= $2 AND window_start < $3 \
               AND first_written <= $4 AND valid_to > $4 \
               AND (valid_from <= $4 OR valid_to = 'infinity')",
            interval.word()
        );
        let (begin, end) = (Instant(starts_ms.start), Instant(starts_ms.end));
        let parameters: [&(dyn ToSql + Sync); 4] = [&self.device, &begin, &end, &self.at];
        let (mut kept, mut written) = (Vec::new(), Vec::new());
        for row in query(snapshot, &statement, &parameters).await? {
            if column(&row, 1)? {
                kept.push(version(&row)?);
            } else {
                written.push(column::<Instant>(&row, 0)?.0);
            }
        }
        Ok(Versions::new(kept, written))
    }
}

async fn query(
    snapshot: &Transaction<'_>,
    statement: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Attempt> {
    let prepared = snapshot.prepare_cached(statement).await?;
    Ok(snapshot.query(&prepared, parameters).await?)
}

fn version(row: &Row) -> Result<Version, ReadError> {
    let lowest_kmh: i16 = column(row, 15)?;
    Ok(Version {
        window: WindowRow {
            start_ms: column::<Instant>(row, 0)?.0,
            sums: sums(row, 2)?,
            p50: speed(row, 11)?,
            p85: speed(row, 12)?,
            revised: column(row, 13)?,
            revision: column(row, 14)?,
        },
        lowest_kmh: lowest_kmh.into(),
        counts: column(row, 16)?,
    })
}
