//! Traffic of hours ago, of simulated units that have sent it before or send it now.

use std::time::Duration;

use anyhow::{Result, ensure};
use proto::{DeviceId, EventTime, Passage};

use super::{WINDOW_MS, window_start_ms};
use crate::bench::prepared::{Prepared, of_passages};
use crate::bench::stage::Stage;
use crate::clock;
use crate::fleet::Fleet;
use crate::fleet::traffic::{Road, Traffic};
use crate::recompute::{Fact, Ledger};

const CONNECTED_WITHIN: Duration = Duration::from_secs(120);
const DRAINED_WITHIN: Duration = Duration::from_secs(120);

/// Traffic of long ago, booked as it is made.
pub(super) struct Old {
    /// Windows are counted back from here.
    now_ms: i64,
    passages_a_window: i64,
    pub(super) ledger: Ledger,
    seed: u64,
}

impl Old {
    /// Nothing yet; every window of every unit will get so many passages.
    pub(super) fn new(passages_a_window: i64) -> Self {
        Self {
            now_ms: window_start_ms(clock::unix_ms()) - 2 * WINDOW_MS,
            passages_a_window,
            ledger: Ledger::of_windows(),
            seed: 0,
        }
    }

    /// The start of the window so many before.
    pub(super) const fn window_ms(&self, back: i64) -> i64 {
        self.now_ms - (back + 1) * WINDOW_MS
    }

    /// Passages into each of these windows of every unit.
    pub(super) async fn history(
        &mut self,
        stage: &Stage,
        units: &[DeviceId],
        windows: std::ops::Range<i64>,
    ) -> Result<()> {
        let times: Vec<i64> = windows
            .rev()
            .flat_map(|back| {
                let step_ms = WINDOW_MS / self.passages_a_window;
                let start_ms = self.window_ms(back);
                (0..self.passages_a_window).map(move |place| start_ms + place * step_ms)
            })
            .collect();
        let prepared = units.iter().map(|unit| self.unit(unit, &times)).collect();
        send(stage, prepared).await.map(drop)
    }

    /// A unit with one passage at each of these times, in a stream of its own.
    pub(super) fn unit(&mut self, device: &DeviceId, times: &[i64]) -> Prepared {
        self.seed += 1;
        let first = EventTime::from_millis(times.first().copied().unwrap_or(0));
        let mut traffic = Traffic::new(Road::motorway(1.0), self.seed, first);
        let passages: Vec<Passage> = times
            .iter()
            .map(|ms| Passage {
                event_time: EventTime::from_millis(*ms),
                ..traffic.next_passage()
            })
            .collect();
        for passage in &passages {
            self.ledger.add(device.as_str(), Fact::from(passage));
        }
        let total = passages.len();
        of_passages(device, first, passages.into_iter(), total, self.seed)
    }
}

/// Has the database do something by itself.
pub(super) async fn order(stage: &Stage, statement: &str) -> Result<()> {
    let database = stage.system.database().await?;
    Ok(database.client().batch_execute(statement).await?)
}

/// Lets these units send what they have; seconds until all of them have their receipts, which leave
/// after the COMMIT. The database is not asked meanwhile: its work is what is measured.
pub(super) async fn send(stage: &Stage, units: Vec<Prepared>) -> Result<f64> {
    let units = units.into_iter().map(|unit| (unit.device, unit.unit));
    let fleet = Fleet::start_prepared(units.collect(), &stage.uplink())?;
    fleet.connected(CONNECTED_WITHIN).await?;
    let start = clock::monotonic();
    fleet.offer(true);
    fleet.drain(DRAINED_WITHIN).await?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(fleet.receipted() == fleet.posted(), "passages were refused");
    fleet.stop().await?;
    Ok(seconds)
}
