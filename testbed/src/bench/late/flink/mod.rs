//! The same passages with Apache Flink: tumbling windows of event time, a watermark of 3 hours.
//!
//! Method: a hundred units, of which ten were offline for six hours. Their passages lie in a file in
//! the order of arrival: those of the ninety as they happened, then the backlog of the ten. Verst
//! gets them as messages over mutual TLS from simulated units in the same order, raw rows off, and
//! commits the windows in PostgreSQL. Flink (SQL, one task, in one process with its job manager)
//! reads the file, which costs it no network, and writes the windows to files under a checkpoint
//! every ten seconds. Both one after the other on the same machine. A core's rate is passages by
//! CPU time: of broker, aggregator and all of PostgreSQL; of the JVM, after a run that warms it up.
//! Both results are compared with the same recomputation.
//!
//! Flink is no part of Verst: without it the run says how to install it and measures Verst alone.

mod theirs;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::{EventTime, Passage};

use theirs::{Theirs, judge, python};

use super::{Scale, WINDOW_MS, books, window_start_ms};
use crate::bench::figure::{Figure, Target};
use crate::bench::prepared::{Prepared, of_passages};
use crate::bench::stage::{Stage, to_f64};
use crate::bench::{procfs, progress};
use crate::clock;
use crate::fleet::Fleet;
use crate::fleet::traffic::{Road, Traffic};
use crate::recompute::{Fact, Findings, Interval, Ledger, database as tables};
use crate::workdir::WorkDir;

const INSTALL: &str = "flink: not measured, this Python has no pyflink; install it with: python3.11 -m \
                       venv flink && flink/bin/pip install apache-flink==2.2.1 (needs Java 17), \
                       then set VERST_FLINK_PYTHON=flink/bin/python";

const UNITS: usize = 100;
/// One in so many was offline.
const LATE_ONE_IN: usize = 10;
const OFFLINE_WINDOWS: i64 = 72;
/// The newest passage is so old.
const AGE_WINDOWS: i64 = 2;
const TIMES_MIN: f64 = 5.0;
const WARM_UP_ROWS: usize = 1_000;
const CONNECTED_WITHIN: Duration = Duration::from_secs(120);
const DRAINED_WITHIN: Duration = Duration::from_secs(600);
const MIB: f64 = 1_048_576.0;

/// Measures.
///
/// # Errors
/// The system does not come up, or what is committed is not what was sent.
pub(super) async fn run(scale: &Scale, notes: &mut Vec<String>) -> Result<Vec<Figure>> {
    let mut stage = Stage::start(UNITS, &[]).await?;
    stage.set_aggregator("raw", "enabled", false.into()).await?;
    let directory = WorkDir::new("flink")?;
    progress("flink: making the passages");
    let load = Load::make(&stage, scale.flink_passages, directory.path())?;
    let windows = load.ledger.windows();
    let ours = ours(stage, load.units, &load.ledger).await?;
    let mut figures = ours.figures();
    let Some(python) = python()? else {
        notes.push(INSTALL.to_owned());
        return Ok(figures);
    };
    progress("flink: running Apache Flink");
    let theirs = Theirs::measure(&python, directory.path())?;
    let judged = judge(&windows, &theirs.rows)?;
    let passages = to_f64(load.ledger.passages());
    let per_core = passages / theirs.cost.cpu_s;
    let wall_s = theirs.cost.wall_s;
    progress(&format!(
        "flink: {wall_s:.1} s, {:.1} s of CPU",
        theirs.cost.cpu_s
    ));
    let any = |name, value, unit| Figure::new(name, value, unit, Target::Any);
    figures.extend([
        Figure::new(
            "flink.times_theirs",
            ours.per_core / per_core,
            "times",
            Target::AtLeast(TIMES_MIN),
        ),
        any("flink.theirs_counted", to_f64(judged.counted), "passages")
            .with_limit(passages, "passages"),
        any(
            "flink.theirs_dropped",
            passages - to_f64(judged.counted),
            "passages",
        ),
        any(
            "flink.theirs_windows_wrong",
            to_f64(judged.findings.wrong),
            "windows",
        )
        .with_limit(to_f64(judged.findings.compared), "windows compared"),
        any("flink.theirs_per_core", per_core, "passages/s a core"),
        any(
            "flink.theirs_memory",
            to_f64(theirs.cost.peak_resident_bytes) / MIB,
            "MiB",
        ),
    ]);
    Ok(figures)
}

/// What both get.
struct Load {
    /// On time, and late.
    units: [Vec<Prepared>; 2],
    ledger: Ledger,
}

/// One line of the file.
type Line = (i64, usize, Option<u16>);

impl Load {
    fn make(stage: &Stage, passages: usize, directory: &Path) -> Result<Self> {
        let per_unit = passages / UNITS;
        let to_ms = window_start_ms(clock::unix_ms()) - AGE_WINDOWS * WINDOW_MS;
        let start = EventTime::from_millis(to_ms - OFFLINE_WINDOWS * WINDOW_MS);
        let span_s = OFFLINE_WINDOWS * WINDOW_MS / 1_000;
        let road = Road::motorway(per_unit as f64 / span_s as f64);
        let mut load = Self {
            units: [Vec::new(), Vec::new()],
            ledger: Ledger::of_windows(),
        };
        let mut lines: [Vec<Line>; 2] = [Vec::new(), Vec::new()];
        for (number, device) in stage.units.iter().enumerate() {
            let is_late = usize::from(number % LATE_ONE_IN == LATE_ONE_IN - 1);
            let seed = 7_000 + number as u64;
            let mut traffic = Traffic::new(road, seed, start);
            let mut taken: Vec<Passage> = Vec::with_capacity(per_unit);
            while taken.len() < per_unit && traffic.next_at().as_millis() < to_ms {
                taken.push(traffic.next_passage());
            }
            for passage in &taken {
                load.ledger.add(device.as_str(), Fact::from(passage));
                let speed = passage.speed.map(proto::Speed::centi_kmh);
                lines[is_late].push((passage.event_time.as_millis(), number, speed));
            }
            let total = taken.len();
            let prepared = of_passages(device, start, taken.into_iter(), total, seed);
            load.units[is_late].push(prepared);
        }
        for lines in &mut lines {
            lines.sort_unstable();
        }
        let in_order = || lines[0].iter().chain(&lines[1]);
        let write = |name, count| {
            let path = directory.join(name);
            std::fs::create_dir(&path)?;
            let file = std::fs::File::create(path.join("passages.csv"))?;
            let mut file = std::io::BufWriter::new(file);
            let mut text = String::new();
            for (at_ms, number, speed) in in_order().take(count) {
                text.clear();
                let speed = speed.map_or_else(|| "-".to_owned(), |ckmh| ckmh.to_string());
                writeln!(text, "{},{at_ms},{speed}", stage.units[*number])?;
                file.write_all(text.as_bytes())?;
            }
            Ok::<_, anyhow::Error>(file.flush()?)
        };
        write("few", WARM_UP_ROWS)?;
        write("passages", usize::MAX)?;
        Ok(load)
    }
}

/// What Verst reached.
struct Ours {
    per_core: f64,
    memory_mib: f64,
    wall_s: f64,
    passages: u64,
    windows: Findings,
}

impl Ours {
    fn figures(&self) -> Vec<Figure> {
        let any = |name, value, unit| Figure::new(name, value, unit, Target::Any);
        vec![
            any("flink.ours_counted", to_f64(self.passages), "passages"),
            Figure::new(
                "flink.ours_windows_wrong",
                to_f64(self.windows.wrong),
                "windows",
                Target::AtMost(0.0),
            )
            .with_limit(to_f64(self.windows.compared), "windows compared"),
            any("flink.ours_per_core", self.per_core, "passages/s a core"),
            any(
                "flink.ours_rate",
                to_f64(self.passages) / self.wall_s,
                "passages/s",
            ),
            any("flink.ours_memory", self.memory_mib, "MiB"),
        ]
    }
}

async fn ours(stage: Stage, units: [Vec<Prepared>; 2], ledger: &Ledger) -> Result<Ours> {
    let passages = ledger.passages();
    let mut fleets = Vec::new();
    for units in units {
        let units = units.into_iter().map(|unit| (unit.device, unit.unit));
        let fleet = Fleet::start_prepared(units.collect(), &stage.uplink())?;
        fleet.connected(CONNECTED_WITHIN).await?;
        fleets.push(fleet);
    }
    let processes = [&stage.system.broker, &stage.system.aggregator]
        .map(|server| server.id().context("a program does not run"));
    let [broker, aggregator] = processes;
    let (broker, aggregator) = (broker?, aggregator?);
    progress(&format!("flink: {passages} passages through Verst"));
    let (cpu, start) = (stage.cpu()?, clock::monotonic());
    for fleet in &fleets {
        fleet.offer(true);
        fleet.drain(DRAINED_WITHIN).await?;
    }
    let span = start.elapsed();
    let cores = stage.cpu()?.cores_since(&cpu, span);
    progress(&format!("flink: {:.1} s, {cores}", span.as_secs_f64()));
    let memory = procfs::peak_resident_bytes(broker)? + procfs::peak_resident_bytes(aggregator)?;
    for fleet in fleets {
        fleet.stop().await?;
    }
    let database = stage.system.database().await?;
    let (found, percentiles) = tables::windows(database.client()).await?;
    let windows = ledger.compare_windows(&found);
    ensure!(percentiles.wrong == 0, "percentiles differ: {percentiles}");
    let five = |interval| interval == Interval::FiveMinutes;
    let of_windows = found.iter().filter(|(key, _)| five(key.interval));
    let counted: i64 = of_windows.map(|(_, stats)| stats.n).sum();
    drop(database);
    books::balanced(&stage, passages, &[]).await?;
    stage.stop()?;
    Ok(Ours {
        per_core: to_f64(passages) / (cores.centre() * span.as_secs_f64()),
        memory_mib: to_f64(memory) / MIB,
        wall_s: span.as_secs_f64(),
        passages: u64::try_from(counted)?,
        windows,
    })
}
