//! Migrations: embedded, applied in order, recorded by refinery in `refinery_schema_history`.
//!
//! Version 2, the raw passages, exists in two variants behind the same columns and functions. Which
//! one a database gets is decided when it is made and never changes afterwards: a database that was
//! made plain stays plain after TimescaleDB was installed.
//!
//! Invariant: two programs that migrate at once wait for each other.

use refinery::{Migration, Runner};
use tokio_postgres::Client;

use crate::config::Timescale;
use crate::store::connect::ConnectionError;

/// Any number, the same in every Verst: the advisory lock that migrations hold.
const MIGRATION_LOCK: i64 = 0x5645_5253_5400_0001;

/// How raw passages are partitioned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// Native range partitions, one for each day.
    Plain,
    /// A hypertable.
    Timescale,
}

impl Storage {
    /// The word for it in logs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Timescale => "timescale",
        }
    }
}

/// What `migrate` found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// The variant of this database.
    pub storage: Storage,
    /// Names of the migrations that were applied now.
    pub applied: Vec<String>,
}

/// Why the schema is not what this program needs.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database failed.
    #[error("cannot read the schema: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// The database says nothing.
    #[error("cannot read the schema: {0}")]
    Silent(ConnectionError),
    /// A migration failed, or an applied one is not the embedded one.
    #[error("cannot migrate: {0}")]
    Migration(#[from] refinery::Error),
    /// `timescale = "on"` and there is none.
    #[error(
        "database.timescale is \"on\" but the server offers no TimescaleDB 2.13 or newer: install it and name it in shared_preload_libraries, or say \"auto\""
    )]
    NoTimescale,
    /// `migrate = false` and something is missing.
    #[error("the schema is behind by {0}: run `aggregator migrate`")]
    Behind(String),
}

impl From<ConnectionError> for SchemaError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Database(error) => Self::Database(error),
            silent @ ConnectionError::Silent(_) => Self::Silent(silent),
        }
    }
}

/// The migrations of a variant, in order.
fn migrations(storage: Storage) -> Result<Vec<Migration>, refinery::Error> {
    let passage = match storage {
        Storage::Plain => include_str!("migrations/plain/V2__passage.sql"),
        Storage::Timescale => include_str!("migrations/timescale/V2__passage.sql"),
    };
    [
        ("V1__tables", include_str!("migrations/V1__tables.sql")),
        ("V2__passage", passage),
        ("V3__views", include_str!("migrations/V3__views.sql")),
        ("V4__roles", include_str!("migrations/V4__roles.sql")),
        ("V5__backlog", include_str!("migrations/V5__backlog.sql")),
        ("V6__history", include_str!("migrations/V6__history.sql")),
        (
            "V7__completeness",
            include_str!("migrations/V7__completeness.sql"),
        ),
        ("V8__ledger", include_str!("migrations/V8__ledger.sql")),
        (
            "V9__availability",
            include_str!("migrations/V9__availability.sql"),
        ),
        (
            "V10__cursor_floor",
            include_str!("migrations/V10__cursor_floor.sql"),
        ),
        (
            "V11__statistics",
            include_str!("migrations/V11__statistics.sql"),
        ),
        ("V12__unkept", include_str!("migrations/V12__unkept.sql")),
        (
            "V13__columnstore",
            include_str!("migrations/V13__columnstore.sql"),
        ),
        ("V14__rowless", include_str!("migrations/V14__rowless.sql")),
    ]
    .into_iter()
    .map(|(name, sql)| Migration::unapplied(name, sql))
    .collect()
}

/// Brings the database to the schema of this program.
///
/// # Errors
/// When the database fails, holds another schema, or lacks TimescaleDB that is demanded.
pub async fn migrate(client: &mut Client, wanted: Timescale) -> Result<Migrated, SchemaError> {
    client
        .execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK])
        .await?;
    let migrated = migrate_alone(client, wanted).await;
    client
        .execute("SELECT pg_advisory_unlock($1)", &[&MIGRATION_LOCK])
        .await?;
    migrated
}

async fn migrate_alone(client: &mut Client, wanted: Timescale) -> Result<Migrated, SchemaError> {
    let storage = match standing_storage(client).await? {
        Some(standing) => standing,
        None => new_storage(client, wanted).await?,
    };
    let report = Runner::new(&migrations(storage)?)
        .set_grouped(false)
        .run_async(client)
        .await?;
    let applied = report
        .applied_migrations()
        .iter()
        .map(ToString::to_string)
        .collect();
    Ok(Migrated { storage, applied })
}

/// Checks that nothing is missing, without changing anything.
///
/// # Errors
/// [`SchemaError::Behind`] when something is missing.
pub async fn check(client: &mut Client) -> Result<Storage, SchemaError> {
    let behind = |names: Vec<String>| SchemaError::Behind(names.join(", "));
    let names = |migrations: &[Migration]| migrations.iter().map(ToString::to_string).collect();
    let Some(storage) = standing_storage(client).await? else {
        return Err(behind(names(&migrations(Storage::Plain)?)));
    };
    let embedded = migrations(storage)?;
    let applied = Runner::new(&embedded)
        .get_applied_migrations_async(client)
        .await?;
    let missing: Vec<Migration> = embedded
        .into_iter()
        .filter(|one| !applied.iter().any(|other| other.version() == one.version()))
        .collect();
    if missing.is_empty() {
        Ok(storage)
    } else {
        Err(behind(names(&missing)))
    }
}

/// The variant that stands; none before the raw table exists.
async fn standing_storage(client: &Client) -> Result<Option<Storage>, tokio_postgres::Error> {
    let kind = client
        .query_opt(
            "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('passage')",
            &[],
        )
        .await?;
    Ok(kind.map(|row| {
        if row.get(0) {
            Storage::Plain
        } else {
            Storage::Timescale
        }
    }))
}

async fn new_storage(client: &Client, wanted: Timescale) -> Result<Storage, SchemaError> {
    if wanted == Timescale::Off {
        return Ok(Storage::Plain);
    }
    // `by_range` exists since 2.13. Its settings are known only where the server has loaded it; which
    // libraries that are, superusers alone may ask.
    let offered: bool = client
        .query_one(
            "SELECT EXISTS (
                 SELECT FROM pg_available_extensions
                 WHERE name = 'timescaledb'
                   AND string_to_array(split_part(default_version, '-', 1), '.')::int[] >= '{2,13}'
             ) AND EXISTS (
                 SELECT FROM pg_settings WHERE name = 'timescaledb.max_background_workers'
             )",
            &[],
        )
        .await?
        .get(0);
    match (offered, wanted) {
        (true, _) => {
            client
                .batch_execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
                .await?;
            Ok(Storage::Timescale)
        }
        (false, Timescale::On) => Err(SchemaError::NoTimescale),
        (false, _) => Ok(Storage::Plain),
    }
}
