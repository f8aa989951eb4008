//! When the windows of a backlog are exact: every field of every one equal to the recomputation, in
//! SQL, and in the answers of the REST API.
//!
//! Looked at are the 5-minute windows that ended before the units came back; what passes meanwhile
//! falls into later ones. A cheap question (their sum) is asked until it has the right answer; then
//! all fields are compared once, and a difference is an error.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Statement;

use crate::bench::http::{self, Connection};
use crate::bench::stage::Stage;
use crate::clock;
use crate::recompute::{Interval, Ledger, Windows, database as tables, ledger};
use crate::system::Database;

/// How often the database is asked.
const LOOK: Duration = Duration::from_millis(20);

const SUM: &str = "SELECT coalesce(sum(w.n), 0)::int8 \
                   FROM speed_stats_5m w JOIN device d USING (device_key) \
                   WHERE d.device = ANY($1) AND w.bucket < to_timestamp($2::int8 / 1000.0)";

/// The windows that a backlog must become.
#[derive(Debug)]
pub(super) struct Expected {
    windows: Windows,
    devices: Vec<String>,
    from_ms: i64,
    to_ms: i64,
    passages: i64,
    database: Database,
    sum: Statement,
}

impl Expected {
    /// What the ledger holds of the windows before `to_ms`, which must be a window's start.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn of(stage: &Stage, ledger: &Ledger, to_ms: i64) -> Result<Self> {
        let mut windows = ledger.windows();
        windows.retain(|key, _| key.interval == Interval::FiveMinutes && key.start_ms < to_ms);
        let mut devices: Vec<String> = windows.keys().map(|key| key.device.clone()).collect();
        devices.dedup();
        let from_ms = windows.keys().map(|key| key.start_ms).min();
        let database = stage.system.database().await?;
        let sum = database.client().prepare(SUM).await?;
        Ok(Self {
            passages: windows.values().map(|stats| stats.n).sum(),
            from_ms: from_ms.context("an empty backlog")?,
            to_ms,
            windows,
            devices,
            database,
            sum,
        })
    }

    /// The units that they belong to.
    pub(super) fn devices(&self) -> &[String] {
        &self.devices
    }

    /// Passages in all of them.
    pub(super) const fn passages(&self) -> i64 {
        self.passages
    }

    /// How many windows.
    pub(super) fn count(&self) -> usize {
        self.windows.len()
    }

    /// Waits until SQL has all of them; when it was seen.
    ///
    /// # Errors
    /// They are not there within the limit, or wrong.
    pub(super) async fn in_sql(&self, within: Duration) -> Result<Instant> {
        let start = clock::monotonic();
        loop {
            let client = self.database.client();
            let row = client
                .query_one(&self.sum, &[&self.devices, &self.to_ms])
                .await?;
            let (sum, at): (i64, Instant) = (row.get(0), clock::monotonic());
            if sum >= self.passages {
                let found = tables::windows_of(client, &self.devices, self.to_ms).await?;
                let findings = ledger::compare(&self.windows, &found.0);
                ensure!(findings.exact(), "windows differ: {findings}");
                ensure!(found.1.wrong == 0, "percentiles differ: {}", found.1);
                return Ok(at);
            }
            if start.elapsed() > within {
                let wanted = self.passages;
                bail!("{sum} of {wanted} passages are in their windows after {within:?}");
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until REST has all of them; when it was seen.
    ///
    /// # Errors
    /// They are not there within the limit.
    pub(super) async fn in_rest(&self, api: SocketAddr, within: Duration) -> Result<Instant> {
        let start = clock::monotonic();
        let mut connection = Connection::open(api).await?;
        for device in &self.devices {
            let request = self.question(device)?;
            while let Some(difference) = self.difference(device, &mut connection, &request).await? {
                ensure!(start.elapsed() <= within, "{device} by REST: {difference}");
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(clock::monotonic())
    }

    fn question(&self, device: &str) -> Result<Vec<u8>> {
        let from = Timestamp::from_millisecond(self.from_ms)?;
        let to = Timestamp::from_millisecond(self.to_ms)?;
        let path = format!("/kvfv/{device}/avg-speed?from={from}&to={to}&interval=5m");
        Ok(http::get(&path))
    }

    async fn difference(
        &self,
        device: &str,
        connection: &mut Connection,
        request: &[u8],
    ) -> Result<Option<String>> {
        let answer = connection.ask(request).await?;
        if answer.status == 404 {
            return Ok(Some("unit is not known".to_owned()));
        }
        ensure!(answer.status == 200, "the API answers {}", answer.status);
        let answer: Value = serde_json::from_slice(&answer.body)?;
        let listed = answer["windows"].as_array().context("no windows listed")?;
        let found: BTreeMap<&str, &Value> = listed
            .iter()
            .filter_map(|window| Some((window["start"].as_str()?, window)))
            .collect();
        let mine = self.windows.iter().filter(|(key, _)| key.device == device);
        for (key, stats) in mine {
            let start = Timestamp::from_millisecond(key.start_ms)?.to_string();
            let Some(window) = found.get(start.as_str()) else {
                return Ok(Some(format!("{start} is missing")));
            };
            let percentile = |percent| stats.percentile_ckmh(percent).map(i64::from);
            let speeds = [
                ("avg_speed", stats.mean_ckmh()),
                ("space_mean_speed", stats.harmonic_mean_ckmh()),
                ("p50", percentile(50)),
                ("p85", percentile(85)),
            ];
            let wrong = speeds.into_iter().find(|(field, ckmh)| {
                let found = window[field].as_f64().map(|kmh| (kmh * 100.0).round());
                found != ckmh.map(|ckmh| ckmh as f64)
            });
            if let Some((field, _)) = wrong {
                return Ok(Some(format!("{start}: {field} is {}", window[field])));
            }
            if window["vehicles"].as_i64() != Some(stats.n) {
                let (is, n) = (&window["vehicles"], stats.n);
                return Ok(Some(format!("{start}: {is} vehicles instead of {n}")));
            }
        }
        Ok(None)
    }
}
