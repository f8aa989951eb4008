//! What a single unit may do on the wire: resend, lie, talk rubbish.

use proto::frame::Up;
use proto::loss::{Loss, LossReason, LossScope, Losses};
use proto::receipt::RefusalClass;
use proto::{DeviceId, PassageBatch, Seq, SeqRange, topic};
use testbed::clock;
use testbed::feed::{self, Pace};
use testbed::recompute::{Fact, Ledger, database as tables};
use testbed::system::{Options, System};

use crate::support::{HOUR_MS, HandUnit, SETTLED_WITHIN, alone, batch, lines, names};

const BATCH: usize = 300;
const BATCH_COUNT: u32 = 300;

async fn system(agents: &[&str], units: &[&str]) -> System {
    let options = Options {
        agents: names(agents),
        units: names(units),
        ..Options::default()
    };
    System::start(options).await.expect("a running system")
}

fn record(ledger: &mut Ledger, device: &str, batch: &PassageBatch) {
    for place in 0..batch.len() {
        ledger.add(device, Fact::from(&batch.passage(place)));
    }
}

async fn assert_exact(system: &System, ledger: &Ledger) {
    let verdict = system.judge(ledger).await.expect("compared");
    assert!(verdict.exact(), "{verdict}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_batch_delivered_three_times_is_counted_once_and_receipted_each_time() {
    let _alone = alone().await;
    let system = system(&[], &["hand-1"]).await;
    let mut unit = HandUnit::connect(&system, "hand-1").await;
    let mut ledger = Ledger::new();
    let passages = batch(BATCH, clock::unix_ms() - HOUR_MS, 1);
    record(&mut ledger, "hand-1", &passages);
    let frame = unit.frame(1, BATCH_COUNT, &Up::Passages(passages));
    for _ in 0..3 {
        unit.publish(&frame).await;
        let receipt = unit.receipt(u64::from(BATCH_COUNT)).await;
        assert_eq!(receipt.counted.count(), u64::from(BATCH_COUNT));
        assert_eq!(receipt.stored, receipt.counted);
    }
    // Overlapping what is known: only the new part counts.
    let more = batch(2 * BATCH, clock::unix_ms() - 2 * HOUR_MS, 2);
    let mut tail = PassageBatch::new();
    (BATCH..2 * BATCH).for_each(|place| tail.push(&more.passage(place)));
    record(&mut ledger, "hand-1", &tail);
    let mut whole = batch(BATCH, clock::unix_ms() - HOUR_MS, 1);
    whole.extend(&tail);
    let frame = unit.frame(1, 2 * BATCH_COUNT, &Up::Passages(whole));
    unit.publish(&frame).await;
    unit.receipt(2 * u64::from(BATCH_COUNT)).await;
    assert_exact(&system, &ledger).await;
    system.stop().expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_unit_cannot_publish_as_another_and_is_cut_off_for_trying() {
    let _alone = alone().await;
    let system = system(&["honest"], &["liar"]).await;
    let mut liar = HandUnit::connect(&system, "liar").await;
    let forged = batch(BATCH, clock::unix_ms() - HOUR_MS, 1);
    let frame = liar.frame(1, BATCH_COUNT, &Up::Passages(forged));
    let honest = DeviceId::new("honest").expect("a name");
    liar.publish_to(&topic::up(&honest), &frame).await;
    assert!(liar.is_cut_off().await);

    let camera = system.agents["honest"].camera();
    let true_lines = lines("honest", 1_000, HOUR_MS, 4);
    let ledger = feed::post("honest", &true_lines, camera, Pace::FULL)
        .await
        .expect("accepted");
    system
        .settled(ledger.passages(), SETTLED_WITHIN)
        .await
        .expect("all counted and stored");
    assert_exact(&system, &ledger).await;
    system.stop().expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_batch_of_garbage_is_refused_for_ever_booked_as_lost_and_holds_nothing_back() {
    let _alone = alone().await;
    let system = system(&["neighbour"], &["broken"]).await;
    let mut unit = HandUnit::connect(&system, "broken").await;
    let mut ledger = Ledger::new();
    let start_ms = clock::unix_ms() - HOUR_MS;

    let good = batch(BATCH, start_ms, 1);
    record(&mut ledger, "broken", &good);
    let frame = unit.frame(1, BATCH_COUNT, &Up::Passages(good));
    unit.publish(&frame).await;
    unit.receipt(u64::from(BATCH_COUNT)).await;

    // A sound header over a body of noise, under a valid checksum.
    let first = u64::from(BATCH_COUNT) + 1;
    let frame = unit.frame(first, BATCH_COUNT, &Up::Passages(batch(BATCH, start_ms, 2)));
    unit.publish(&with_garbage(&frame)).await;
    let refusal = unit.refusal().await;
    assert_eq!(refusal.class, RefusalClass::Never, "{refusal:?}");
    assert_eq!(refusal.stream, unit.stream());
    let range = SeqRange::from_count(Seq::new(first).expect("a number"), u64::from(BATCH_COUNT));
    let range = range.expect("a range");
    assert_eq!(refusal.range, Some(range));

    // As an agent does: the range goes into quarantine and is declared, the next batch goes on.
    let last = batch(BATCH, start_ms + 60_000, 3);
    record(&mut ledger, "broken", &last);
    let frame = unit.frame(
        first + u64::from(BATCH_COUNT),
        BATCH_COUNT,
        &Up::Passages(last),
    );
    unit.publish(&frame).await;
    let receipt = unit.receipt(2 * u64::from(BATCH_COUNT)).await;
    assert!(!receipt.counted.overlaps_range(range));
    let loss = Loss {
        range,
        scope: LossScope::All,
        reason: LossReason::Refused,
        event_min: None,
        event_max: None,
    };
    let frame = unit.frame(first, BATCH_COUNT, &Up::Loss(Losses { losses: vec![loss] }));
    unit.publish(&frame).await;
    loop {
        let receipt = unit.receipt(2 * u64::from(BATCH_COUNT)).await;
        if receipt.lost.contains_range(range) {
            break;
        }
    }

    let camera = system.agents["neighbour"].camera();
    let lines = lines("neighbour", 1_000, HOUR_MS, 4);
    ledger.merge(
        feed::post("neighbour", &lines, camera, Pace::FULL)
            .await
            .expect("accepted"),
    );
    let wanted = ledger.passages() + u64::from(BATCH_COUNT);
    system
        .settled(wanted, SETTLED_WITHIN)
        .await
        .expect("all counted, stored or lost");
    assert_exact(&system, &ledger).await;
    let database = system.database().await.expect("a database");
    let totals = tables::totals(database.client()).await.expect("totals");
    assert_eq!(totals.lost, u64::from(BATCH_COUNT));
    system.stop().expect("an orderly end");
}

/// The frame with its body replaced by noise and its checksum made right again.
fn with_garbage(frame: &[u8]) -> Vec<u8> {
    const PREFIX_BYTES: usize = 8;
    let body_at = PREFIX_BYTES + usize::from(frame[3]);
    let mut garbage = frame[..body_at].to_vec();
    garbage.extend((0..200_u8).map(|byte| byte.wrapping_mul(151) ^ 0xa5));
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&garbage[..4]), &garbage[PREFIX_BYTES..]);
    garbage[4..PREFIX_BYTES].copy_from_slice(&checksum.to_le_bytes());
    garbage
}
