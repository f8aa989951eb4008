//! Commits as the database shows them: when, and how much was committed by then.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio_postgres::Statement;

use super::stage::{Stage, to_f64};
use crate::clock;
use crate::system::Database;

/// How often the database is asked for committed cursors while a rate is measured: twice in the shortest
/// flush of a backlog, for asking takes processor time from what is measured.
const LOOK: Duration = Duration::from_millis(50);

/// Passages that the committed cursors of all streams cover.
const COMMITTED: &str = "SELECT coalesce(sum(upper(r) - lower(r)), 0)::int8 \
                         FROM stream_cursor, unnest(counted) AS r";
/// Passages whose raw rows are committed.
const STORED: &str = "SELECT coalesce(sum(upper(r) - lower(r)), 0)::int8 \
                      FROM stream_cursor, unnest(stored) AS r";
/// The moment when a commit was seen, and what was committed by then.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    /// When.
    pub at: Instant,
    /// Passages under all cursors.
    pub passages: u64,
}

/// Sees commits by asking the database again and again.
#[derive(Debug)]
pub struct CommitWatch {
    database: Database,
    committed: Statement,
    last: u64,
}

impl CommitWatch {
    /// On a connection of its own.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn new(stage: &Stage) -> Result<Self> {
        Self::of(stage, COMMITTED).await
    }

    /// The same of raw rows, which may follow the windows much later.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn of_rows(stage: &Stage) -> Result<Self> {
        Self::of(stage, STORED).await
    }

    async fn of(stage: &Stage, sql: &str) -> Result<Self> {
        let database = stage.system.database().await?;
        let committed = database.client().prepare(sql).await?;
        let mut watch = Self {
            database,
            committed,
            last: 0,
        };
        watch.last = watch.total().await?;
        Ok(watch)
    }

    /// Passages under the committed cursors of all streams.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn total(&self) -> Result<u64> {
        let sum: i64 = self
            .database
            .client()
            .query_one(&self.committed, &[])
            .await?
            .get(0);
        Ok(u64::try_from(sum)?)
    }

    /// Collects commits until `done` says so of the last one, or of the time.
    ///
    /// # Errors
    /// The database does not answer, or nothing is committed for `silence`.
    pub async fn collect(
        &mut self,
        silence: Duration,
        mut done: impl FnMut(&Commit) -> bool,
    ) -> Result<Vec<Commit>> {
        let mut commits = Vec::new();
        let mut heard = clock::monotonic();
        loop {
            let passages = self.total().await?;
            let commit = Commit {
                at: clock::monotonic(),
                passages,
            };
            if passages != self.last {
                self.last = passages;
                heard = commit.at;
                commits.push(commit);
            }
            if done(&commit) {
                return Ok(commits);
            }
            if heard.elapsed() > silence {
                bail!("nothing was committed for {silence:?} after {passages} passages");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Collects commits until none came for `silence`.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn until_quiet(&mut self, silence: Duration) -> Result<Vec<Commit>> {
        let mut commits = Vec::new();
        let mut heard = clock::monotonic();
        while heard.elapsed() < silence {
            let passages = self.total().await?;
            if passages != self.last {
                self.last = passages;
                heard = clock::monotonic();
                commits.push(Commit {
                    at: heard,
                    passages,
                });
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(commits)
    }
}

/// Passages per second from the first of these commits to the last: both are edges, so neither a
/// half flush at the start nor one at the end is in it. None with fewer than two.
#[must_use]
pub fn rate(commits: &[Commit]) -> Option<f64> {
    let (first, last) = (commits.first()?, commits.last()?);
    let span = last.at.duration_since(first.at).as_secs_f64();
    (commits.len() >= 2).then(|| to_f64(last.passages - first.passages) / span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_runs_from_edge_to_edge() {
        let start = clock::monotonic();
        let commit = |s: u64, passages| Commit {
            at: start + Duration::from_secs(s),
            passages,
        };
        assert_eq!(rate(&[]), None);
        assert_eq!(rate(&[commit(1, 10)]), None);
        assert_eq!(
            rate(&[commit(5, 100), commit(6, 150), commit(9, 500)]),
            Some(100.0)
        );
    }
}
