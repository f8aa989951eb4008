//! Who wrote under which fencing token: triggers in the database note it for a test.
//!
//! A token belongs to the aggregator that raised it. Whatever happens to the aggregators, no cursor
//! may be written under a token by another one: that is what keeps a sleeper that wakes up from
//! writing anything.

use std::time::Duration;

use super::{System, SystemError};

/// Sessions are named `verst-lease NONCE` and `verst-writer NONCE` by aggregators.
const WATCH: &str = "
CREATE TABLE watched_raise (shard int2, token int8, by text, PRIMARY KEY (shard, token));
CREATE TABLE watched_write (shard int2, token int8, by text, writes int8 DEFAULT 1,
    PRIMARY KEY (shard, token, by));
CREATE FUNCTION watch_raise() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO watched_raise VALUES
        (NEW.shard, NEW.token, split_part(current_setting('application_name'), ' ', 2));
    RETURN NULL;
END $$;
CREATE FUNCTION watch_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO watched_write AS w (shard, token, by)
    SELECT t.shard, t.token, split_part(current_setting('application_name'), ' ', 2)
    FROM device d JOIN shard_token t USING (shard) WHERE d.device_key = NEW.device_key
    ON CONFLICT (shard, token, by) DO UPDATE SET writes = w.writes + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER watch_raise AFTER UPDATE ON shard_token
    FOR EACH ROW EXECUTE FUNCTION watch_raise();
CREATE TRIGGER watch_write AFTER INSERT OR UPDATE ON stream_cursor
    FOR EACH ROW EXECUTE FUNCTION watch_write();
";

/// A token that was not raised since the watch began has no row: then one alone may write under it.
const JUDGE: &str = "
SELECT coalesce(sum(w.writes), 0)::int8,
    coalesce(sum(w.writes) FILTER (WHERE r.by <> w.by OR r.by IS NULL AND EXISTS (
        SELECT FROM watched_write o
        WHERE (o.shard, o.token) = (w.shard, w.token) AND o.by <> w.by)), 0)::int8,
    (SELECT count(*) FROM watched_raise),
    count(DISTINCT w.by)
FROM watched_write w LEFT JOIN watched_raise r USING (shard, token)";

/// What was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fencing {
    /// Cursors written.
    pub writes: i64,
    /// Of them, under a token that another aggregator had raised.
    pub foreign: i64,
    /// Tokens raised.
    pub raises: i64,
    /// Aggregators that wrote.
    pub writers: i64,
}

impl System {
    /// Has the database note from now on who raises tokens and who writes under them.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn watch_fencing(&self) -> Result<(), SystemError> {
        let database = self.database().await?;
        Ok(database.client().batch_execute(WATCH).await?)
    }

    /// What was noted.
    ///
    /// # Errors
    /// The database does not answer, or was not asked to note anything.
    pub async fn fencing(&self) -> Result<Fencing, SystemError> {
        let row = self
            .database()
            .await?
            .client()
            .query_one(JUDGE, &[])
            .await?;
        Ok(Fencing {
            writes: row.get(0),
            foreign: row.get(1),
            raises: row.get(2),
            writers: row.get(3),
        })
    }

    /// How many shards an aggregator of this name owns.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn shards_of(&self, name: &str) -> Result<i64, SystemError> {
        let owned = "SELECT count(*) FROM shard_lease WHERE split_part(owner, ' ', 1) = $1";
        let row = self
            .database()
            .await?
            .client()
            .query_one(owned, &[&name])
            .await?;
        Ok(row.get(0))
    }

    /// Waits until an aggregator of this name owns so many shards.
    ///
    /// # Errors
    /// It does not within the limit.
    pub async fn owns(&self, name: &str, shards: i64, within: Duration) -> Result<(), SystemError> {
        let look = async || {
            let owned = self.shards_of(name).await?;
            let less = || format!("it owns {owned} shards instead of {shards}");
            Ok((owned != shards).then(less))
        };
        self.until(name, within, look).await
    }

    /// Waits until so many aggregators have written since the watch began. Each start of one counts.
    ///
    /// # Errors
    /// They do not within the limit.
    pub async fn wrote(&self, writers: i64, within: Duration) -> Result<(), SystemError> {
        let look = async || {
            let noted = self.fencing().await?;
            let less = || format!("{writers} should have written, noted is {noted:?}");
            Ok((noted.writers < writers).then(less))
        };
        self.until("the aggregators", within, look).await
    }
}
