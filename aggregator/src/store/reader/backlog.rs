//! What the units of some shards hold, and how many of them are behind.

use proto::topic::Shard;

use super::{ReadError, Reader, column};

/// Units that are behind for one reason, or those that are not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BacklogRow {
    /// `cloned`, `never_heard`, `unit_offline` or `backlog`; none for units that are not behind.
    pub behind: Option<String>,
    /// How many units.
    pub units: i64,
    /// Passages that waited at them for a receipt.
    pub passages: i64,
}

const STATEMENT: &str = "
    SELECT behind, count(*), least(coalesce(sum(backlog_passages), 0), 9e18)::int8
    FROM v_backlog WHERE shard = ANY ($1) GROUP BY behind";

const UNEXPLAINED: &str = "
    SELECT least(coalesce(sum(unexplained), 0), 9e18)::int8
    FROM v_ledger WHERE NOT settled AND shard = ANY ($1)";

impl Reader {
    /// Passages of the units of these shards of which nobody can say where they are.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the view promises.
    pub async fn unexplained(&self, shards: &[Shard]) -> Result<i64, ReadError> {
        let shards: Vec<i16> = shards.iter().map(|shard| shard.get().into()).collect();
        let rows = self.query(UNEXPLAINED, &[&shards]).await?;
        rows.first().map_or(Ok(0), |row| column(row, 0))
    }

    /// What the units of these shards hold, by the reason for which they are behind.
    ///
    /// # Errors
    /// When the database does not answer, or not with what the view promises.
    pub async fn backlog(&self, shards: &[Shard]) -> Result<Vec<BacklogRow>, ReadError> {
        let shards: Vec<i16> = shards.iter().map(|shard| shard.get().into()).collect();
        let rows = self.query(STATEMENT, &[&shards]).await?;
        rows.iter()
            .map(|row| {
                Ok(BacklogRow {
                    behind: column(row, 0)?,
                    units: column(row, 1)?,
                    passages: column(row, 2)?,
                })
            })
            .collect()
    }
}
