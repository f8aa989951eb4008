//! What the database did for the windows and cursors: rows and pages, as it counts them itself.
//!
//! Its statistics come late: a server process reports when it has been idle for up to ten seconds.

use std::time::Duration;

use anyhow::Result;

use crate::bench::stage::Stage;

/// `PGSTAT_IDLE_INTERVAL` of PostgreSQL, and a bit.
const REPORTED_WITHIN: Duration = Duration::from_secs(12);

/// Rows written, rows fetched or scanned, and pages touched of the tables that hold windows,
/// cursors and raw passages (chunks of hypertables among them). Tables of leases and of the state of
/// devices live by the clock and are left out.
const WORK: &str = "\
    SELECT sum(t.n_tup_ins + t.n_tup_upd + t.n_tup_del)::int8, \
           sum(coalesce(t.idx_tup_fetch, 0))::int8, \
           sum(t.seq_tup_read)::int8, \
           coalesce(string_agg(t.relname || ' ' || t.seq_tup_read, ', ' ORDER BY t.relname) \
                    FILTER (WHERE t.seq_tup_read > 0), 'none'), \
           sum(io.heap_blks_hit + io.heap_blks_read + coalesce(io.idx_blks_hit, 0) \
               + coalesce(io.idx_blks_read, 0))::int8 \
    FROM pg_stat_user_tables t JOIN pg_statio_user_tables io USING (relid) \
    WHERE t.relname LIKE 'speed\\_stats\\_%' OR t.relname LIKE 'passage%' \
       OR t.relname LIKE '\\_hyper\\_%' OR t.relname = 'stream_cursor'";

/// Work so far, or between two moments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Work {
    /// Rows inserted, updated, deleted.
    pub(super) written: u64,
    /// Rows fetched by an index.
    pub(super) fetched: u64,
    /// Rows read because a whole table was scanned.
    pub(super) scanned: u64,
    /// Of which tables, so far.
    pub(super) scans: String,
    /// Pages of tables and indexes.
    pub(super) pages: u64,
}

impl Work {
    /// So far, once everybody has reported.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn so_far(stage: &Stage) -> Result<Self> {
        tokio::time::sleep(REPORTED_WITHIN).await;
        let database = stage.system.database().await?;
        let row = database.client().query_one(WORK, &[]).await?;
        let number = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
        Ok(Self {
            written: number(0),
            fetched: number(1),
            scanned: number(2),
            scans: row.get(3),
            pages: number(4),
        })
    }

    /// Since then.
    pub(super) fn since(self, earlier: &Self) -> Self {
        Self {
            written: self.written - earlier.written,
            fetched: self.fetched - earlier.fetched,
            scanned: self.scanned - earlier.scanned,
            scans: self.scans,
            pages: self.pages - earlier.pages,
        }
    }
}
