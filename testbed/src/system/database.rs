//! A connection to the system's database.

use service::tasks::TaskSet;
use tokio_postgres::{Client, Error, NoTls};
use tokio_util::sync::CancellationToken;

/// Open until dropped.
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
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        // Ends with the client. An error in it is the error of the query that waits for its answer.
        TaskSet::new(CancellationToken::new()).spawn("database connection", connection);
        Ok(Self { client })
    }

    /// For queries.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}
