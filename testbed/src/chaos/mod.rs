//! Real programs under every fault that a seed draws, and the exact comparison afterwards.
//!
//! ```text
//! camera ─► agent ─ link ─► broker ─ link ─► two aggregators ─ link ─► PostgreSQL ─► standby
//!           clock, disk                                               disk
//! ```
//!
//! `plan` says what happens when (pure), `hand` does it, the cameras post meanwhile and do not
//! give up. When the time is over everything is mended and drains; then every window, every raw row,
//! the side table and the ledger of every stream must be what was posted.
//!
//! The links are proxies ([`crate::link`]), everywhere: not every kernel has netem. On TCP loss shows
//! as stalls, and that is how the proxy plays it.
//!
//! Invariants: the plan follows from seed and seconds alone (what the programs make of it does not:
//! they are real); whatever this machine cannot play is named, never left out in silence; nothing
//! keeps running or mounted, whatever ends the run.

mod camera;
mod fault;
mod hand;
mod judge;
mod plan;
mod stage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use serde::Serialize;
use service::tasks::StuckTasks;
use tokio_util::sync::CancellationToken;

pub use plan::Plan;

use crate::clock;
use crate::pki::PkiError;
use crate::postgres::ClusterError;
use crate::process::RunError;
use crate::system::{STOPPED_WITHIN, SystemError};

use camera::Posted;
use judge::Judgement;
use plan::Side;
use stage::Stage;

/// From the end of the faults until everything is counted and stored.
const SETTLED_WITHIN: Duration = Duration::from_secs(300);
/// How long the last posts may take.
const POSTED_WITHIN: Duration = Duration::from_secs(120);
/// How often it is looked whether a program has ended by itself.
const LOOK: Duration = Duration::from_millis(200);

/// What to play.
#[derive(Debug, Clone)]
pub struct Order {
    /// Decides over the faults and the traffic.
    pub seed: u64,
    /// For how long there are faults.
    pub seconds: u64,
    /// Passages per second of each unit.
    pub passages_per_s: f64,
    /// Where the logs of all programs are copied to, when it does not end exact.
    pub keep: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// For how long there were faults, planned.
    pub seconds: u64,
    /// Faults that were played.
    pub faults: u64,
    /// The same by kind.
    pub faults_by_kind: BTreeMap<&'static str, u64>,
    /// Faults of the plan that this machine cannot play.
    pub skipped: u64,
    /// Passages that agents accepted.
    pub accepted: u64,
    /// In windows.
    pub counted: u64,
    /// Raw rows.
    pub stored: u64,
    /// In the side table: dated by a clock that was wrong.
    pub rejected: u64,
    /// In the loss ledger, by scope and reason.
    pub lost: BTreeMap<String, u64>,
    /// Windows of all lengths that were compared.
    pub windows_compared: u64,
    /// Of them, those that differ.
    pub windows_wrong: u64,
    /// Raw rows that differ.
    pub rows_wrong: u64,
    /// Rows of the side table that differ.
    pub rejected_wrong: u64,
    /// Streams and units whose ledger was checked.
    pub ledgers_compared: u64,
    /// Of them, those that do not add up.
    pub ledgers_wrong: u64,
    /// From the end of the faults until all was counted and stored.
    pub heal_s: f64,
    /// The first differences in words.
    pub differences: Vec<String>,
}

impl Outcome {
    /// Everything accepted is where it belongs, once, and nothing is lost.
    #[must_use]
    pub fn exact(&self) -> bool {
        let wrong = self.windows_wrong + self.rows_wrong + self.rejected_wrong + self.ledgers_wrong;
        wrong == 0
            && self.accepted == self.counted + self.rejected
            && self.stored == self.counted
            && self.lost.is_empty()
            && self.windows_compared > 0
    }
}

/// A run that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    /// The system.
    #[error(transparent)]
    System(#[from] SystemError),
    /// The database server.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A command.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A file.
    #[error("cannot break or mend: {0}")]
    Io(#[from] std::io::Error),
    /// A program ended although nobody ended it.
    #[error("{0}")]
    Ended(String),
    /// Broken settings that pass, or sound ones that do not.
    #[error("config check of {0} ended with {1}")]
    Check(String, ExitStatus),
    /// A camera gave up.
    #[error("camera stopped: {0}")]
    Camera(String),
    /// Cameras that do not end.
    #[error(transparent)]
    Cameras(#[from] StuckTasks),
    /// A post that does not end.
    #[error("a post is still on its way after {0:?}")]
    Stuck(Duration),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// The command that plays the same faults again.
#[must_use]
pub fn replay_command(order: &Order) -> String {
    let Order { seed, seconds, .. } = order;
    format!("testbed chaos --seed {seed} --seconds {seconds}")
}

/// Plays, mends, compares. `tell` gets each fault with its time, as it happens.
///
/// # Errors
/// Anything that kept it from being compared; differences are in the [`Outcome`].
pub async fn run(
    order: &Order,
    stop: CancellationToken,
    mut tell: impl FnMut(&str),
) -> Result<Outcome, ChaosError> {
    let mut stage = tokio::select! {
        stage = Stage::set(order.seed) => stage?,
        () = stop.cancelled() => return Err(ChaosError::Interrupted),
    };
    for reason in &stage.unplayable {
        tell(&format!("skipped: {reason}"));
    }
    let ended = play(order, &mut stage, &stop, &mut tell).await;
    let is_exact = ended.as_ref().is_ok_and(Outcome::exact);
    if let Some(to) = order.keep.as_ref().filter(|_| !is_exact) {
        stage.keep_logs(to)?;
        tell(&format!("logs: {}", to.display()));
    }
    ended
}

async fn play(
    order: &Order,
    stage: &mut Stage,
    stop: &CancellationToken,
    tell: &mut impl FnMut(&str),
) -> Result<Outcome, ChaosError> {
    let posted = Posted::default();
    let cameras_stop = CancellationToken::new();
    let cameras = stage.cameras(order.seed, order.passages_per_s, &posted, &cameras_stop);
    let begun = clock::monotonic();
    let (mut by_kind, mut skipped) = (BTreeMap::new(), 0);
    for (at_ms, side, fault) in Plan::new(order.seed, order.seconds).sides() {
        loop {
            if stop.is_cancelled() {
                return Err(ChaosError::Interrupted);
            }
            if let Some(cause) = cameras.cause() {
                return Err(ChaosError::Camera(cause.to_string()));
            }
            if let Some(text) = stage.ended() {
                return Err(ChaosError::Ended(text));
            }
            let due = Duration::from_millis(at_ms).saturating_sub(begun.elapsed());
            if due.is_zero() {
                break;
            }
            tokio::time::sleep(due.min(LOOK)).await;
        }
        if !stage.can_play(fault) {
            skipped += u64::from(side == Side::Begin);
            continue;
        }
        let verb = match side {
            Side::Begin => "",
            Side::End => "end of ",
        };
        tell(&format!(
            "{:>9.3} s  {verb}{fault}",
            begun.elapsed().as_secs_f64()
        ));
        if let Some(word) = stage.play(side, fault).await? {
            tell(&format!("             {word}"));
        }
        if side == Side::Begin {
            *by_kind.entry(fault.kind()).or_default() += 1;
        }
    }
    let healing = clock::monotonic();
    tell(&format!(
        "{:>9.3} s  everything is mended and drains",
        begun.elapsed().as_secs_f64()
    ));
    tokio::task::block_in_place(|| stage.mend())?;
    cameras_stop.cancel();
    tokio::select! {
        joined = cameras.join(POSTED_WITHIN) => joined?,
        () = stop.cancelled() => return Err(ChaosError::Interrupted),
    }
    if let Some(cause) = cameras.cause() {
        return Err(ChaosError::Camera(cause.to_string()));
    }
    let books = std::mem::take(&mut *posted.lock());
    tokio::select! {
        settled = stage.system.settled(books.accepted(), SETTLED_WITHIN) => settled?,
        () = stop.cancelled() => return Err(ChaosError::Interrupted),
    }
    let heal_s = healing.elapsed().as_secs_f64();
    let judged = judge::judge(&stage.system, &books).await?;
    if let Some(text) = stage.ended() {
        return Err(ChaosError::Ended(text));
    }
    tokio::task::block_in_place(|| stage.second.stop(STOPPED_WITHIN));
    let faults = by_kind.values().sum();
    Ok(outcome(
        order,
        &books,
        judged,
        heal_s,
        (faults, by_kind, skipped),
    ))
}

fn outcome(
    order: &Order,
    books: &camera::Books,
    judged: Judgement,
    heal_s: f64,
    (faults, faults_by_kind, skipped): (u64, BTreeMap<&'static str, u64>, u64),
) -> Outcome {
    let Judgement {
        verdict,
        side_table,
        streams,
        lost,
    } = judged;
    let (rows_wrong, books_wrong) = (verdict.rows_wrong(), verdict.books.wrong);
    let rows = verdict.rows.unwrap_or_default();
    let all = [&verdict.windows, &rows, &side_table, &streams];
    Outcome {
        seed: order.seed,
        seconds: order.seconds,
        faults,
        faults_by_kind,
        skipped,
        accepted: books.accepted(),
        counted: verdict.totals.counted,
        stored: verdict.totals.stored,
        rejected: verdict.totals.rejected,
        lost,
        windows_compared: verdict.windows.compared,
        windows_wrong: verdict.windows.wrong,
        rows_wrong,
        rejected_wrong: side_table.wrong,
        ledgers_compared: streams.compared,
        ledgers_wrong: streams.wrong + books_wrong.len() as u64,
        heal_s,
        differences: all
            .iter()
            .flat_map(|one| one.quoted.clone())
            .chain(books_wrong)
            .collect(),
    }
}
