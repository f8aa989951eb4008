//! The ledger's books after a run: nothing that a unit accepted is missing from them.

use anyhow::{Result, ensure};
use proto::DeviceId;

use crate::bench::progress;
use crate::bench::stage::Stage;
use crate::recompute::database as tables;

/// Of all units but some.
const OF_UNITS: &str = "SELECT coalesce(sum(accepted), 0)::int8, coalesce(sum(held), 0)::int8 \
                        FROM v_ledger WHERE NOT device = ANY ($1)";

/// Checks that of each stream accepted = counted + lost + held, and that what the units accepted is
/// what was `posted` and no longer held, but for units that stand `apart`.
///
/// # Errors
/// That is not so, or the database does not answer.
pub(super) async fn balanced(stage: &Stage, posted: u64, apart: &[DeviceId]) -> Result<()> {
    let database = stage.system.database().await?;
    let books = tables::books(database.client()).await?;
    ensure!(
        books.wrong.is_empty(),
        "{} of {} streams do not add up: {}",
        books.wrong.len(),
        books.streams,
        books.wrong[0]
    );
    let apart: Vec<&str> = apart.iter().map(DeviceId::as_str).collect();
    let row = database.client().query_one(OF_UNITS, &[&apart]).await?;
    let (accepted, held): (i64, i64) = (row.get(0), row.get(1));
    ensure!(
        u64::try_from(accepted)? == posted && held == 0,
        "{posted} passages were posted, the books know of {accepted}, of which {held} are held"
    );
    progress(&format!(
        "books: {} streams, {} accepted = {} counted + {} lost + {} held",
        books.streams, books.accepted, books.counted, books.lost, books.held
    ));
    Ok(())
}
