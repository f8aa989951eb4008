//! What `avg-speed` would have said at a time in the past: of one unit (`unit`), of many (`group`).
//!
//! A flush happens at one instant of the database's clock, just before its windows are written
//! ([`crate::commit`]); from then until its COMMIT, some milliseconds, others could still see the
//! state before. So "then" is as sharp as that, and an answer for a time is one answer for ever: it is
//! given only when no flush can still turn up with an instant before that time.
//!
//! Totals are put together from the windows that were asked for and, where one of them is not kept,
//! from the shorter ones within. All statements read one snapshot.

mod group;
mod unit;

use std::collections::HashSet;
use std::time::Duration;

use deadpool_postgres::{Object, Transaction};
use tokio_postgres::IsolationLevel;

use super::instant::Instant;
use super::{Attempt, ReadError, Reader, abandoned, column};

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

/// Since when versions are kept, up to the next millisecond.
const KEPT_FROM: &str =
    "SELECT date_trunc('milliseconds', kept_from + interval '999 microseconds') FROM v_history";

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
pub type Then<T> = Result<T, OutOfReach>;

/// A question about a time in the past.
trait Question: Sync {
    /// What answers it.
    type Answer: Send;

    /// The time.
    fn at(&self) -> Instant;

    /// Reads the answer.
    fn answer(
        &self,
        snapshot: &Transaction<'_>,
    ) -> impl Future<Output = Result<Then<Self::Answer>, Attempt>> + Send;
}

impl Reader {
    async fn then<Q: Question>(&self, question: &Q) -> Result<Then<Q::Answer>, ReadError> {
        match self.then_once(question).await {
            Err(Attempt::Dead) => self.then_once(question).await,
            done => done,
        }
        .map_err(Attempt::given_up)
    }

    async fn then_once<Q: Question>(&self, question: &Q) -> Result<Then<Q::Answer>, Attempt> {
        let mut client = self.client().await?;
        match tokio::time::timeout(self.patience, ask(question, &mut client)).await {
            Ok(past) => past,
            Err(_) => Err(abandoned(client)),
        }
    }
}

async fn ask<Q: Question>(question: &Q, client: &mut Object) -> Result<Then<Q::Answer>, Attempt> {
    if let Some(now_ms) = settled(client, question.at().0).await? {
        return Ok(Err(OutOfReach::Future { now_ms }));
    }
    let snapshot = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let past = question.answer(&snapshot).await?;
    snapshot.rollback().await?;
    Ok(past)
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

/// Since when versions are kept, if that is after this time.
async fn forgotten(snapshot: &Transaction<'_>, at: Instant) -> Result<Option<OutOfReach>, Attempt> {
    let statement = snapshot.prepare_cached(KEPT_FROM).await?;
    let row = snapshot.query_one(&statement, &[]).await?;
    let kept_from_ms = column::<Instant>(&row, 0)?.0;
    Ok((at.0 < kept_from_ms).then_some(OutOfReach::Forgotten { kept_from_ms }))
}
