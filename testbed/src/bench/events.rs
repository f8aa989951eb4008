//! Passages as a camera posts them: the customer's JSON, and whole requests of it.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use proto::{EventTime, Passage, Plate};
use serde::Deserialize;

use super::http::{self, Connection};
use crate::fleet::traffic::{Road, Traffic};

/// Where an agent takes passages.
pub const PATH: &str = "/v1/passages";

/// One event of the customer's format.
#[must_use]
pub fn event(device: &str, passage: &Passage) -> String {
    let time = Timestamp::from_millisecond(passage.event_time.as_millis()).unwrap_or_default();
    let mut json = format!(r#"{{"kvfv_id":"{device}","timestamp":"{time:.3}""#);
    let mut put = |part: std::fmt::Arguments<'_>| json.push_str(&part.to_string());
    if let Some(speed) = passage.speed {
        put(format_args!(r#","vehicle_speed":{:.1}"#, speed.kmh()));
    }
    if let Plate::Text(plate) = &passage.plate {
        put(format_args!(r#","plate_number":"{}""#, plate.as_str()));
    }
    if let Some(lane) = passage.lane {
        put(format_args!(r#","lane":{}"#, lane.get()));
    }
    if let Some(direction) = passage.direction {
        put(format_args!(r#","direction":"{}""#, direction.word()));
    }
    if let Some(class) = passage.vehicle_class {
        put(format_args!(r#","vehicle_class":{}"#, class.get()));
    }
    if let Some(limit) = passage.speed_limit {
        put(format_args!(r#","speed_limit":{}"#, limit.get()));
    }
    put(format_args!(r#","violation":{}}}"#, passage.violation));
    json
}

/// What an agent says to a post that it took at least in part.
#[derive(Debug, Deserialize)]
struct Verdict {
    accepted: usize,
}

/// Posts a request of so many passages.
///
/// # Errors
/// The agent does not answer, or has not accepted all of them.
pub async fn post(connection: &mut Connection, request: &[u8], passages: usize) -> Result<()> {
    let answer = connection
        .ask(request)
        .await
        .context("agent does not answer")?;
    let said = || {
        String::from_utf8_lossy(&answer.body)
            .chars()
            .take(500)
            .collect::<String>()
    };
    ensure!(
        answer.status == 200,
        "agent answered {}: {}",
        answer.status,
        said()
    );
    let verdict: Verdict = serde_json::from_slice(&answer.body)?;
    ensure!(
        verdict.accepted == passages,
        "agent did not accept {passages}: {}",
        said()
    );
    Ok(())
}

/// A request that posts one passage.
#[must_use]
pub fn single(device: &str, passage: &Passage) -> Vec<u8> {
    http::post(PATH, "application/json", event(device, passage).as_bytes())
}

/// Requests with so many passages each, NDJSON, of the traffic that ends about `now_ms`.
#[must_use]
pub fn requests(device: &str, now_ms: i64, requests: usize, passages: usize) -> Vec<Vec<u8>> {
    /// The flow at a busy gantry.
    const PASSAGES_PER_S: usize = 12;
    let span_ms = i64::try_from(requests * passages / PASSAGES_PER_S).unwrap_or(0) * 1_100;
    let start = EventTime::from_millis(now_ms - 60_000 - span_ms);
    let mut traffic = Traffic::new(Road::motorway(PASSAGES_PER_S as f64), 21, start);
    (0..requests)
        .map(|_| {
            if passages == 1 {
                return single(device, &traffic.next_passage());
            }
            let lines: Vec<String> = (0..passages)
                .map(|_| event(device, &traffic.next_passage()))
                .collect();
            http::post(PATH, "application/x-ndjson", lines.join("\n").as_bytes())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_customers_json() {
        let start = EventTime::from_millis(1_750_000_000_007);
        let mut traffic = Traffic::new(Road::motorway(12.0), 1, start);
        for _ in 0..500 {
            let passage = traffic.next_passage();
            let text = event("KV1", &passage);
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["kvfv_id"], "KV1");
            let time: Timestamp = json["timestamp"].as_str().unwrap().parse().unwrap();
            assert_eq!(time.as_millisecond(), passage.event_time.as_millis());
            match passage.speed {
                Some(speed) => assert_eq!(json["vehicle_speed"], speed.kmh()),
                None => assert!(json.get("vehicle_speed").is_none()),
            }
        }
    }

    #[test]
    fn requests_hold_as_many_lines_as_asked_for() {
        let all = requests("KV1", 1_750_000_000_000, 3, 40);
        assert_eq!(all.len(), 3);
        for request in all {
            let text = String::from_utf8(request).unwrap();
            assert_eq!(text.split_once("\r\n\r\n").unwrap().1.lines().count(), 40);
        }
    }
}
