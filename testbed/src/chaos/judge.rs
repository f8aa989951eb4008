//! ○ The verdict: windows, raw rows and side table against what was posted, and the ledger of every
//! stream: accepted = counted + lost, with nothing held and nothing left open.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio_postgres::Client;

use super::camera::Books;
use crate::recompute::event::PlateFact;
use crate::recompute::ledger::compare_all;
use crate::recompute::{Fact, Findings};
use crate::system::{System, SystemError, Verdict};

/// What was found.
#[derive(Debug)]
pub(super) struct Judgement {
    pub(super) verdict: Verdict,
    pub(super) side_table: Findings,
    pub(super) streams: Findings,
    /// Passages of the loss ledger that were not recovered, by reason.
    pub(super) lost: BTreeMap<String, u64>,
}

/// A passage as the side table shows it.
type SideRow = (String, i64, Option<i64>, Option<String>);

/// Compares everything.
pub(super) async fn judge(system: &System, books: &Books) -> Result<Judgement, SystemError> {
    let verdict = system.judge(&books.ledger).await?;
    let database = system.database().await?;
    let client = database.client();
    Ok(Judgement {
        verdict,
        side_table: side_table(client, &books.rejected).await?,
        streams: streams(client, system, books).await?,
        lost: lost(client).await?,
    })
}

/// Every passage that no window takes stands in the side table, once.
async fn side_table(
    client: &Client,
    posted: &[(String, Fact)],
) -> Result<Findings, tokio_postgres::Error> {
    let rows = client
        .query(
            "SELECT d.device, (extract(epoch FROM r.event_time) * 1000)::int8, r.passage::text
             FROM rejected_passage r JOIN device d USING (device_key)",
            &[],
        )
        .await?;
    let found: Vec<SideRow> = rows
        .iter()
        .map(|row| {
            let passage: Value = serde_json::from_str(row.get(2)).unwrap_or_default();
            let plate = passage["plate"].as_str().map(str::to_owned);
            (
                row.get(0),
                row.get(1),
                passage["speed_ckmh"].as_i64(),
                plate,
            )
        })
        .collect();
    let wanted: Vec<SideRow> = posted
        .iter()
        .map(|(device, fact)| {
            let plate = match &fact.plate {
                PlateFact::Text(text) => Some(text.clone()),
                PlateFact::Absent | PlateFact::Hash(_) => None,
            };
            let speed = fact.speed_ckmh.map(i64::from);
            (device.clone(), fact.event_ms, speed, plate)
        })
        .collect();
    let mut findings = Findings::default();
    compare_all("side table", wanted, found, &mut findings);
    Ok(findings)
}

/// The ledger identity, stream by stream, and that the streams of a unit are all that it accepted.
async fn streams(
    client: &Client,
    system: &System,
    books: &Books,
) -> Result<Findings, tokio_postgres::Error> {
    let size = |column: &str| {
        format!("(SELECT coalesce(sum(upper(r) - lower(r)), 0)::int8 FROM unnest({column}) r)")
    };
    let sql = format!(
        "SELECT d.device, c.stream::text, c.accepted_to, {}, {}, {}, c.settled
         FROM stream_cursor c JOIN device d USING (device_key) ORDER BY 1, 2",
        size("counted"),
        size("stored"),
        size("lost"),
    );
    let mut findings = Findings::default();
    let mut accepted: BTreeMap<String, u64> = BTreeMap::new();
    for row in client.query(&sql, &[]).await? {
        findings.compared += 1;
        let (device, stream): (String, String) = (row.get(0), row.get(1));
        let [accepted_to, counted, stored, lost] = [2, 3, 4, 5].map(|place| {
            let number: i64 = row.get(place);
            u64::try_from(number).unwrap_or_default()
        });
        *accepted.entry(device.clone()).or_default() += accepted_to;
        let is_settled: bool = row.get(6);
        if accepted_to != counted + lost || stored != counted || !is_settled {
            findings.wrong(|| {
                format!(
                    "{device} stream {stream}: accepted {accepted_to}, counted {counted}, stored \
                     {stored}, lost {lost}, settled {is_settled}"
                )
            });
        }
    }
    for device in system.agents.keys() {
        findings.compared += 1;
        let posted = books.accepted_of(device);
        let known = accepted.get(device).copied().unwrap_or_default();
        if posted != known {
            findings.wrong(|| format!("{device}: {posted} accepted, its streams hold {known}"));
        }
    }
    Ok(findings)
}

async fn lost(client: &Client) -> Result<BTreeMap<String, u64>, tokio_postgres::Error> {
    let sql = "SELECT scope || ':' || reason, sum(last_seq - first_seq + 1 - recovered)::int8
               FROM loss_ledger GROUP BY 1 HAVING sum(last_seq - first_seq + 1 - recovered) > 0";
    let rows = client.query(sql, &[]).await?;
    let number = |n: i64| u64::try_from(n).unwrap_or_default();
    Ok(rows
        .iter()
        .map(|row| (row.get(0), number(row.get(1))))
        .collect())
}
