//! Reads what the API answers with, through the views and with the rights of `verst_reader` alone.
//!
//! One prepared statement per question, so that everything in an answer is of one snapshot: the
//! windows, the longer windows that the totals are put together from, and how far the unit is final.
//!
//! Invariants: nothing is written; every wait has a limit; text from outside reaches the database as
//! a parameter, never as SQL.

mod as_of;
mod backlog;
mod cover;
mod device;
mod group;
mod instant;
mod known;
mod ledger;
mod loss;
mod past;
mod speed;
mod standing;
mod totals;
mod versions;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool, PoolError};
use futures_util::TryStreamExt as _;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, ToSql};

pub use as_of::{OutOfReach, Then};
pub use backlog::BacklogRow;
pub use cover::{Cover, Interval};
pub use device::DeviceRow;
pub use group::{EarlyWindow, GroupRows, GroupUnit, GroupWindow};
pub use known::{KnownWindow, Manner, WindowRow};
pub use ledger::{BookedLoss, Books, LOSS_REASONS, LedgerRows, StreamRow};
pub use loss::Losses;
pub use speed::SpeedRows;
pub use standing::Standing;
pub use totals::{HistogramError, Sums, Totals};

use past::PastCache;

/// Until an answer has arrived, beyond the statement timeout of the session: a network that is
/// silent must not hold a request for ever.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a reader's session sets for itself. The role is taken where the login may take it: a
/// migration without the right to create roles leaves none, and then the session is at least
/// read-only.
pub const READER_SESSION: &str = "
    SET default_transaction_read_only = on;
    SET statement_timeout = '5s';
    SELECT set_config('role', rolname, false) FROM pg_roles
    WHERE rolname = 'verst_reader' AND pg_has_role(rolname, 'MEMBER')";

/// Why there is no answer, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No connection, or it broke: come back.
    #[error("the database is away: {0}")]
    Away(String),
    /// All connections are taken: come back.
    #[error("all connections to the database are busy")]
    Busy,
    /// The statement took too long: ask for less, or come back.
    #[error("the database did not answer in time")]
    TimedOut,
    /// Neither waiting nor asking differently helps.
    #[error("the database answered with what this program does not understand: {0}")]
    Fault(String),
}

/// Questions to the database. Clones share one pool of connections.
#[derive(Clone)]
pub struct Reader {
    pool: Pool,
    group_statements: Arc<[String; 3]>,
    speed_statements: Arc<[speed::Statements; 3]>,
    past: PastCache,
    /// See [`ANSWER_TIMEOUT`].
    pub(crate) patience: Duration,
}

impl Reader {
    /// Over a pool whose sessions began with [`READER_SESSION`]; the past of units takes at most
    /// `cache_bytes_max` of memory.
    #[must_use]
    pub fn new(pool: Pool, cache_bytes_max: u64) -> Self {
        let speed_statements = Arc::new(Interval::ALL.map(speed::Statements::new));
        Self {
            pool,
            speed_statements,
            group_statements: Arc::new(Interval::ALL.map(group::statement)),
            past: PastCache::new(cache_bytes_max),
            patience: ANSWER_TIMEOUT,
        }
    }

    /// The rows of one prepared statement.
    async fn query(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, ReadError> {
        let step = |rows: &mut Vec<Row>, row| {
            rows.push(row);
            Ok(())
        };
        self.fold(statement, parameters, step).await
    }

    /// Folds the rows of one prepared statement as they arrive, from nothing; once more on a fresh
    /// connection when the first was found dead, as all are after a restart of the database.
    async fn fold<T: Default>(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
        step: impl Fn(&mut T, Row) -> Result<(), ReadError>,
    ) -> Result<T, ReadError> {
        match self.fold_once(statement, parameters, &step).await {
            Err(Attempt::Dead) => self.fold_once(statement, parameters, &step).await,
            done => done,
        }
        .map_err(Attempt::given_up)
    }

    async fn fold_once<T: Default>(
        &self,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
        step: impl Fn(&mut T, Row) -> Result<(), ReadError>,
    ) -> Result<T, Attempt> {
        let client = self.client().await?;
        let asked = async {
            let prepared = client.prepare_cached(statement).await?;
            let parameters = parameters.iter().copied();
            let mut rows = pin!(client.query_raw(&prepared, parameters).await?);
            let mut folded = T::default();
            while let Some(row) = rows.try_next().await? {
                step(&mut folded, row)?;
            }
            Ok(folded)
        };
        match tokio::time::timeout(self.patience, asked).await {
            Ok(folded) => folded,
            Err(_) => Err(abandoned(client)),
        }
    }

    async fn client(&self) -> Result<Object, Attempt> {
        self.pool.get().await.map_err(|error| {
            Attempt::Failed(match error {
                PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => ReadError::Busy,
                PoolError::Backend(error) => failed(&error),
                other => ReadError::Away(other.to_string()),
            })
        })
    }
}

enum Attempt {
    Dead,
    Failed(ReadError),
}

impl From<ReadError> for Attempt {
    fn from(error: ReadError) -> Self {
        Self::Failed(error)
    }
}

impl From<tokio_postgres::Error> for Attempt {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.is_closed() {
            Self::Dead
        } else {
            Self::Failed(failed(&error))
        }
    }
}

impl Attempt {
    /// After the second.
    fn given_up(self) -> ReadError {
        match self {
            Self::Dead => ReadError::Away("the connection broke twice".to_owned()),
            Self::Failed(error) => error,
        }
    }
}

/// The statement may still run: this connection is not for the next request.
fn abandoned(client: Object) -> Attempt {
    drop(Object::take(client));
    Attempt::Failed(ReadError::TimedOut)
}

/// Sorts an error of the database by what helps. Errors without a code are those of the connection.
fn failed(error: &tokio_postgres::Error) -> ReadError {
    let Some(answer) = error.as_db_error() else {
        return ReadError::Away(chain(error));
    };
    let code = answer.code();
    if *code == SqlState::QUERY_CANCELED {
        return ReadError::TimedOut;
    }
    // Connection, resources, operator intervention, system: passing. Login refused: an operator
    // must act, and the caller can do nothing but come back.
    let passing = ["08", "28", "53", "57", "58"]
        .iter()
        .any(|class| code.code().starts_with(class));
    if passing {
        ReadError::Away(chain(error))
    } else {
        ReadError::Fault(chain(error))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// A column of a row; an error when it does not have the type that the views promise.
fn column<'a, T: FromSql<'a>>(row: &'a Row, place: usize) -> Result<T, ReadError> {
    row.try_get(place)
        .map_err(|error| ReadError::Fault(chain(&error)))
}
