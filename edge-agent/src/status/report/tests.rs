use std::sync::Arc;

use super::*;
use crate::uplink::allowance::Held;
use crate::uplink::frames::fixtures::buffer_state;

const NOW: EventTime = EventTime::from_millis(100 * DAY_MS);

fn healthy() -> (BufferState, UplinkView) {
    let mut buffer = buffer_state();
    buffer.disk.quota_bytes = 1_000;
    let end = EventTime::from_millis(400 * DAY_MS);
    let mut view = UplinkView::new(NOW, Some(end));
    view.phase = LinkPhase::Up;
    (buffer, view)
}

fn report(buffer: &BufferState, view: &UplinkView) -> Report {
    let started_at = EventTime::from_millis(0);
    let subject = Subject {
        device: "KV1".into(),
        brokers: vec!["b:1".into(), "c:1".into()],
        started_at,
    };
    let flow = Flow {
        in_per_s: 12.0,
        out_per_s: 11.5,
        ..Flow::default()
    };
    Report::new(&subject, NOW, buffer, view, flow, 0)
}

#[test]
fn a_unit_with_a_link_and_a_store_is_healthy() {
    let (buffer, view) = healthy();
    let report = report(&buffer, &view);
    assert_eq!(
        (report.healthy, report.reasons.as_slice()),
        (true, [].as_slice())
    );
    assert_eq!(report.certificate.days_left, Some(300));
}

#[test]
fn what_the_owners_rules_hold_back_is_no_silence_of_the_centre() {
    let (buffer, mut view) = healthy();
    view.since = EventTime::from_millis(NOW.as_millis() - 400_000);
    view.held = Some(Held::Hours);
    // Read ahead, and not handed to the link when the hours ended.
    (view.in_flight_messages, view.in_flight_bytes) = (2, 0);
    assert_eq!(report(&buffer, &view).reasons, Vec::<String>::new());
}

#[test]
fn each_trouble_degrades_and_is_named() {
    type Spoil = fn(&mut BufferState, &mut UplinkView);
    let table: [(Spoil, &str); 12] = [
        (
            |_, v| (v.day_bytes, v.day_bytes_max) = (10, Some(10)),
            "uplink.daily_mb_max is used up: passages wait for the next day",
        ),
        (
            |_, v| v.phase = LinkPhase::Down,
            "link is down: not connected yet",
        ),
        (
            |_, v| {
                v.phase = LinkPhase::Waiting;
                v.reason = Some("no beacon".into());
            },
            "link is waiting: no beacon",
        ),
        (
            |_, v| {
                v.since = EventTime::from_millis(NOW.as_millis() - 400_000);
                (v.in_flight_messages, v.in_flight_bytes) = (1, 100);
            },
            "no receipt for 400 s although passages wait",
        ),
        (
            |b, _| b.health = StoreHealth::NoSpace,
            "store does not take passages: no_space",
        ),
        (
            |b, _| b.health = StoreHealth::Failed(Arc::from("eio")),
            "store does not take passages: eio",
        ),
        (
            |b, _| b.unsent.bytes = 900,
            "900 bytes wait for a receipt, the quota is 1000",
        ),
        (
            |b, _| b.counters.lost[0] = 3,
            "3 passages lost since the start",
        ),
        (
            |_, v| v.certificate_not_after = Some(EventTime::from_millis(107 * DAY_MS)),
            "the certificate expires in 7 days",
        ),
        (
            |_, v| v.certificate_not_after = Some(EventTime::default()),
            "the certificate has expired",
        ),
        (
            |b, _| {
                b.alarms = vec![Alarm::StoreForeign(ForeignStore {
                    directory: "/b/foreign-1".into(),
                    begun_for: DeviceId::new("KV7").ok(),
                })];
            },
            "a store of KV7 was found in the buffer of KV1 and moved to /b/foreign-1, unsent; let an agent with the certificate of KV7 send what is in it (`edge-agent export /b/foreign-1` shows it), or delete it",
        ),
        (
            |b, _| {
                b.alarms = vec![Alarm::StoreQuarantined {
                    directory: "/b/quarantine-1".into(),
                }];
            },
            "a damaged store was moved to /b/quarantine-1; take out what can be read of it with `edge-agent export /b/quarantine-1 --out FILE`, then delete it",
        ),
    ];
    for (spoil, reason) in table {
        let (mut buffer, mut view) = healthy();
        spoil(&mut buffer, &mut view);
        let report = report(&buffer, &view);
        assert_eq!(
            (report.healthy, report.reasons),
            (false, vec![reason.to_owned()])
        );
    }
}

#[test]
fn the_report_survives_its_json() {
    let (buffer, view) = healthy();
    let report = report(&buffer, &view);
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}
