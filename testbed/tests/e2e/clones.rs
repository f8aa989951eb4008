//! The image of a unit's store in two places, or put back in time.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use testbed::feed::{self, Line};
use testbed::recompute::Ledger;
use testbed::system::{Agent, Options, READY_WITHIN, STOPPED_WITHIN, System, Tuning};

use crate::support::{HOUR_MS, SETTLED_WITHIN, alone, lines, names};

const UNIT: &str = "twin-1";
/// Another unit, with a certificate of its own.
const SPARE: &str = "spare-1";
/// How long a camera goes on trying.
const THROUGH: Duration = Duration::from_secs(60);
/// Until the centre has noticed.
const ALARM_WITHIN: Duration = Duration::from_secs(90);

async fn post(agent: &Agent, lines: &[Line], ledger: &mut Ledger) {
    let texts: Vec<String> = lines.iter().map(|line| line.text.clone()).collect();
    feed::accept(agent.device(), &texts, agent.camera(), THROUGH)
        .await
        .expect("accepted");
    lines
        .iter()
        .for_each(|line| ledger.add(agent.device(), line.fact.clone()));
}

async fn start(units: &[&str], ledger: &mut Ledger, image: &[Line]) -> System {
    let system = System::start(Options {
        agents: names(units),
        tuning: Tuning {
            heartbeat_s: 1,
            ..Tuning::default()
        },
        ..Options::default()
    })
    .await
    .expect("a running system");
    post(&system.agents[UNIT], image, ledger).await;
    system
}

async fn judged(system: &System, ledger: &Ledger) {
    system
        .settled(ledger.passages(), SETTLED_WITHIN)
        .await
        .expect("all counted and stored");
    let verdict = system.judge(ledger).await.expect("compared");
    assert!(verdict.exact(), "{verdict}");
    let (counted, lost) = (verdict.totals.counted, verdict.totals.lost);
    assert_eq!((counted, lost), (ledger.passages(), 0), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_image_on_two_units_swallows_and_doubles_nothing_and_raises_the_alarm() {
    let _alone = alone().await;
    let mut ledger = Ledger::new();
    let mut system = start(&[UNIT], &mut ledger, &lines(UNIT, 1_000, 5 * HOUR_MS, 81)).await;
    // Some of it has its receipt, some has not: the image is of a running unit that loses its power.
    let agent = system.agents.get_mut(UNIT).expect("running");
    agent.server.kill();
    let mut clone = system.clone_of(UNIT).expect("a second unit");
    let agent = system.agents.get_mut(UNIT).expect("running");
    agent.server.start().expect("started again");
    clone.server.start().expect("started");
    clone
        .server
        .answers("healthz", READY_WITHIN)
        .await
        .expect("its door is open");

    let (mine, theirs) = (
        lines(UNIT, 40_000, 4 * HOUR_MS, 82),
        lines(UNIT, 40_000, 4 * HOUR_MS, 83),
    );
    let mut turns = mine.chunks(100).zip(theirs.chunks(100));
    let cloned = system.api(&format!("kvfv/{UNIT}"));
    let deadline = tokio::time::Instant::now() + ALARM_WITHIN;
    loop {
        let (mine, theirs) = turns
            .next()
            .expect("the alarm comes before the traffic ends");
        post(&system.agents[UNIT], mine, &mut ledger).await;
        post(&clone, theirs, &mut ledger).await;
        let answer = system.http().get(&cloned).send().await.expect("an answer");
        let unit: Value = answer.json().await.expect("JSON");
        if unit["state"] == "cloned" {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "no alarm: {unit}\n{}",
            system.log_tails()
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let metrics = system.http().get(system.aggregator.page("metrics")).send();
    let metrics = metrics
        .await
        .expect("an answer")
        .text()
        .await
        .expect("text");
    assert!(
        metrics.contains("verst_aggregator_clone_alarms_total 1"),
        "{metrics}"
    );
    judged(&system, &ledger).await;
    clone.server.stop(STOPPED_WITHIN).expect("an orderly end");
    system.stop().expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_unit_whose_store_is_put_back_to_a_backup_goes_on_without_a_doubt() {
    let _alone = alone().await;
    let mut ledger = Ledger::new();
    let mut system = start(&[UNIT], &mut ledger, &lines(UNIT, 1_000, 5 * HOUR_MS, 84)).await;
    let agent = system.agents.get_mut(UNIT).expect("running");
    agent.server.kill();
    let image = system.directory().join("image");
    system.copy_image(UNIT, &image).expect("a backup");
    let agent = system.agents.get_mut(UNIT).expect("running");
    agent.server.start().expect("started again");
    let later = lines(UNIT, 2_000, 3 * HOUR_MS, 85);
    post(&system.agents[UNIT], &later, &mut ledger).await;
    judged(&system, &ledger).await;

    let agent = system.agents.get_mut(UNIT).expect("running");
    agent.server.kill();
    system.restore_image(UNIT, &image).expect("put back");
    let agent = system.agents.get_mut(UNIT).expect("put back");
    agent.server.start().expect("started again");
    let latest = lines(UNIT, 2_000, HOUR_MS, 86);
    post(&system.agents[UNIT], &latest, &mut ledger).await;
    judged(&system, &ledger).await;
    system.stop().expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_in_another_unit_is_kept_aside_for_its_own_and_counts_for_nobody_else() {
    let _alone = alone().await;
    let mut ledger = Ledger::new();
    let mut system = start(&[UNIT, SPARE], &mut ledger, &[]).await;
    system.broker.kill();
    let theirs = lines(UNIT, 1_000, 5 * HOUR_MS, 87);
    // None of them counts before their own unit sends them.
    post(&system.agents[UNIT], &theirs, &mut Ledger::new()).await;
    for agent in system.agents.values_mut() {
        agent.server.kill();
    }
    system
        .restore_image(SPARE, &system.buffer(UNIT))
        .expect("the store of the one in the other");

    let spare = system.agents.get_mut(SPARE).expect("made");
    spare.server.start().expect("started");
    post(
        &system.agents[SPARE],
        &lines(SPARE, 1_000, 5 * HOUR_MS, 88),
        &mut ledger,
    )
    .await;
    let status = system.agents[SPARE].status().expect("it answers");
    let aside = system.buffer(SPARE).join("foreign-1");
    let words = format!(
        "a store of {UNIT} was found in the buffer of {SPARE} and moved to {}",
        aside.display()
    );
    assert!(status["reasons"].to_string().contains(&words), "{status}");
    let exported = export(&system, &aside, &theirs);
    system.broker.start().expect("started again");
    judged(&system, &ledger).await;

    // Carried back, as a buffer of its own unit, whose disk is lost.
    system.restore_image(UNIT, &aside).expect("carried back");
    let agent = system.agents.get_mut(UNIT).expect("made");
    agent.server.start().expect("started");
    theirs
        .iter()
        .for_each(|line| ledger.add(UNIT, line.fact.clone()));
    judged(&system, &ledger).await;
    assert_eq!(found_at_the_centre(&system, &exported).await, [1_000; 3]);
    system.stop().expect("an orderly end");
}

/// Takes the passages of the unit out of a store, beside the agent in whose buffer it lies.
fn export(system: &System, store: &Path, theirs: &[Line]) -> Vec<Value> {
    let out = system.directory().join("exported.ndjson");
    let exported = system.agents[SPARE].export(store, &out).expect("exported");
    let at = |line: &Value| {
        assert_eq!(line["kvfv_id"], UNIT, "{line}");
        let at: jiff::Timestamp = line["timestamp"].as_str()?.parse().ok()?;
        Some(at.as_millisecond())
    };
    let mut found: Vec<Option<i64>> = exported.iter().map(at).collect();
    let mut posted: Vec<Option<i64>> = theirs.iter().map(|line| Some(line.fact.event_ms)).collect();
    found.sort_unstable();
    posted.sort_unstable();
    assert_eq!(found, posted);
    exported
}

/// How many exported lines the centre has counted, how many stored, and how many raw rows they name: as
/// README.md says how to ask.
async fn found_at_the_centre(system: &System, exported: &[Value]) -> [i64; 3] {
    let database = system.database().await.expect("connected");
    let client = database.client();
    client
        .batch_execute("CREATE TEMP TABLE exported (line jsonb)")
        .await
        .expect("a table");
    let lines: Vec<String> = exported.iter().map(Value::to_string).collect();
    client
        .execute(
            "INSERT INTO exported SELECT unnest($1::text[])::jsonb",
            &[&lines],
        )
        .await
        .expect("filled");
    let settled = client.query_one(
        "SELECT count(*) FILTER (WHERE c.counted @> (line->>'seq')::int8),
                count(*) FILTER (WHERE c.stored @> (line->>'seq')::int8)
           FROM exported LEFT JOIN stream_cursor c ON c.stream = (line->>'stream')::uuid",
        &[],
    );
    let settled = settled.await.expect("an answer");
    let rows = client.query_one(
        "SELECT count(*) FROM exported
           JOIN stream_cursor c ON c.stream = (line->>'stream')::uuid
           JOIN passage p ON p.stream_key = c.stream_key AND p.seq = (line->>'seq')::int8
            AND p.event_time = (line->>'timestamp')::timestamptz",
        &[],
    );
    let rows = rows.await.expect("an answer");
    [settled.get(0), settled.get(1), rows.get(0)]
}
