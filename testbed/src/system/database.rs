//! A connection to the system's database.

use service::tasks::TaskSet;
use tokio_postgres::{Client, Error, NoTls};
use tokio_util::sync::CancellationToken;

/// Open until dropped, or until the server ends.
#[derive(Debug)]
pub struct Database {
    client: Client,
}

impl Database {
    /// Connects; both ends are on this machine, so without TLS.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::connect_in(url, &TaskSet::new(CancellationToken::new())).await
    }

    /// The task of the connection ends with the client or with the server, whichever goes first: a
    /// server that stops is no failure of it. Who waits for an answer then is told.
    async fn connect_in(url: &str, tasks: &TaskSet) -> Result<Self, Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tasks.spawn("database connection", async { drop(connection.await) });
        Ok(Self { client })
    }

    /// For queries.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::postgres::{Cluster, Options};

    #[tokio::test]
    async fn the_end_of_the_server_is_no_failure_of_ours_and_told_to_who_asks() {
        let mut cluster = Cluster::start(Options::fast()).expect("a cluster");
        let tasks = TaskSet::new(CancellationToken::new());
        let url = cluster.connection_string();
        let database = Database::connect_in(&url, &tasks).await.expect("connected");
        cluster.stop_immediate();
        let patience = Duration::from_secs(60);
        tasks
            .join(patience)
            .await
            .expect("the connection has ended");
        assert_eq!(tasks.cause(), None);
        assert!(database.client().simple_query("SELECT 1").await.is_err());
    }
}
