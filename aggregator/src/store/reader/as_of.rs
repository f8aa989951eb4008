//! What `avg-speed` would have said at a time in the past.
//!
//! A flush happens at one instant of the database's clock, just before its windows are written
//! ([`crate::commit`]); from then until its COMMIT, some milliseconds, others could still see the
//! state before. So "then" is as sharp as that, and an answer for a time is one answer for ever: it is
//! given only when no flush can still turn up with an instant before that time.
//!
//! Totals are put together from the windows that were asked for and, where one of them is not kept,
//! from the shorter ones within. All statements read one snapshot.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use deadpool_postgres::{Object, Transaction};
use proto::device::DeviceId;
use tokio_postgres::types::ToSql;
use tokio_postgres::{IsolationLevel, Row};

use super::instant::Instant;
use super::loss::{self, Losses};
use super::speed::{speed, sums};
use super::versions::{Version, Versions, shorter};
use super::{
    ANSWER_TIMEOUT, Attempt, Interval, KnownWindow, ReadError, Reader, SpeedRows, Standing, Totals,
    WindowRow, abandoned, column,
};

/// A flush whose instant is longer ago is over: the writer gives it up after a minute.
const FLUSH_MS_MAX: i64 = 5 * 60_000;

/// From one look for flushes to the next.
const LOOK: Duration = Duration::from_millis(2);

/// The clock, and after a look at it the transactions that are flushing: all hold this lock from
/// before their instant until they are over.
const FLUSHES: &str = "
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
    SELECT now, ARRAY(
        SELECT virtualtransaction FROM pg_locks
        WHERE locktype = 'relation' AND mode = 'RowShareLock' AND granted
          AND relation = to_regclass('shard_token') AND now IS NOT NULL
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
    FROM clock";

const UNIT: &str = "
    SELECT first_seen, (
        -- Up to the next millisecond.
        SELECT date_trunc('milliseconds', kept_from + interval '999 microseconds') FROM v_history), (
        SELECT final_to FROM v_finality WHERE device = $1 AND at <= $2 ORDER BY at DESC LIMIT 1)
    FROM v_device WHERE device = $1 AND first_seen <= $2";

/// A time that nothing can be said of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfReach {
    /// It has not come, by the clock of the database (ms since 1970).
    #[error("the time is ahead of the database's clock")]
    Future {
        /// The database's clock.
        now_ms: i64,
    },
    /// Versions of that time are deleted.
    #[error("versions of that time are no longer kept")]
    Forgotten {
        /// Since when they are kept.
        kept_from_ms: i64,
    },
}

/// What can be said of a time.
pub type Then = Result<Option<SpeedRows>, OutOfReach>;

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
    ) -> Result<Then, ReadError> {
        let question = Question {
            device: device.as_str(),
            interval,
            covered_ms,
            at: Instant(at_ms),
        };
        match self.ask(&question).await {
            Err(Attempt::Dead) => self.ask(&question).await,
            done => done,
        }
        .map_err(Attempt::given_up)
    }

    async fn ask(&self, question: &Question<'_>) -> Result<Then, Attempt> {
        let mut client = self.client().await?;
        match tokio::time::timeout(ANSWER_TIMEOUT, question.ask(&mut client)).await {
            Ok(past) => past,
            Err(_) => Err(abandoned(client)),
        }
    }
}

/// Waits until no flush can turn up with an instant before `at_ms`. A time that has not come is
/// answered with the database's clock.
async fn settled(client: &Object, at_ms: i64) -> Result<Option<i64>, Attempt> {
    let mut under_way: Option<HashSet<String>> = None;
    loop {
        let statement = client.prepare_cached(FLUSHES).await?;
        let row = client.query_one(&statement, &[]).await?;
        let now_ms = column::<Instant>(&row, 0)?.0;
        if at_ms > now_ms {
            return Ok(Some(now_ms));
        }
        if now_ms - at_ms > FLUSH_MS_MAX {
            return Ok(None);
        }
        let flushes: Vec<String> = column(&row, 1)?;
        // Flushes that begin after the first look have a later instant.
        match &mut under_way {
            None => under_way = Some(flushes.into_iter().collect()),
            Some(under_way) => under_way.retain(|flush| flushes.contains(flush)),
        }
        if under_way.as_ref().is_none_or(HashSet::is_empty) {
            return Ok(None);
        }
        tokio::time::sleep(LOOK).await;
    }
}

struct Question<'a> {
    device: &'a str,
    interval: Interval,
    covered_ms: Range<i64>,
    at: Instant,
}

impl Question<'_> {
    async fn ask(&self, client: &mut Object) -> Result<Then, Attempt> {
        if let Some(now_ms) = settled(client, self.at.0).await? {
            return Ok(Err(OutOfReach::Future { now_ms }));
        }
        let snapshot = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let past = self.answer(&snapshot).await?;
        snapshot.rollback().await?;
        Ok(past)
    }

    async fn answer(&self, snapshot: &Transaction<'_>) -> Result<Then, Attempt> {
        let unit = query(snapshot, UNIT, &[&self.device, &self.at]).await?;
        let Some(unit) = unit.first() else {
            return Ok(Ok(None));
        };
        let kept_from_ms = column::<Instant>(unit, 1)?.0;
        if self.at.0 < kept_from_ms {
            return Ok(Err(OutOfReach::Forgotten { kept_from_ms }));
        }
        let final_to: Option<Instant> = column(unit, 2)?;
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
        let fault = |error: super::HistogramError| ReadError::Fault(error.to_string());
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
