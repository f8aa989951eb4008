use proto::device::CentreId;
use proto::frame::{Up, UpFrame};
use proto::header::UpHeader;
use proto::receipt::{Beacon, Receipt, Refusal, RefusalClass, RefusalReason, StreamReceipt};
use proto::{Bucket, EventTime, Plate, window};

use super::answers::{REFUSED_MS_MIN, REOPEN_JITTER_MS};
use super::offers::RESEND_MS_MIN;
use super::*;
use crate::fleet::traffic::Road;

const START_MS: i64 = 1_750_000_000_000;
const DAY_MS: i64 = 24 * 3_600_000;

fn stream() -> StreamId {
    StreamId::from_bytes([7; 16])
}

fn centre() -> Centre {
    Centre {
        id: CentreId::from_bytes([1; 16]),
        timeline: 1,
    }
}

fn habits() -> Habits {
    Habits {
        linger_ms: 250,
        batch_passages: 50,
        backlog_passages_max: 2_000,
        camera_delay_max_ms: DAY_MS,
        plates: Plates::Kept,
        seed: 1,
    }
}

fn unit_of(passages_per_s: f64) -> Unit {
    let traffic = Traffic::new(
        Road::motorway(passages_per_s),
        1,
        EventTime::from_millis(START_MS),
    );
    Unit::live(stream(), habits(), traffic)
}

fn beacon(token: u64, intake: Intake) -> Vec<u8> {
    Down::Beacon(Beacon {
        centre: centre(),
        token,
        build: "test".to_owned(),
        wire_min: 1,
        wire_max: 1,
        intake,
        sent_at: EventTime::from_millis(0),
        summaries_age_max_ms: u64::MAX,
    })
    .encode()
}

fn receipt(ranges: impl IntoIterator<Item = SeqRange>) -> Vec<u8> {
    let mut stored = SeqSet::new();
    ranges.into_iter().for_each(|range| stored.insert(range));
    let entry = StreamReceipt {
        stream: stream(),
        counted: stored.clone(),
        stored,
        lost: SeqSet::new(),
        afresh: false,
    };
    Down::Receipt(Receipt {
        centre: centre(),
        streams: vec![entry],
        correction: None,
    })
    .encode()
}

fn refusal(range: SeqRange, class: RefusalClass) -> Vec<u8> {
    Down::Refusal(Refusal {
        centre: centre(),
        stream: stream(),
        range: Some(range),
        class,
        reason: RefusalReason::Overload,
        detail: String::new(),
        counted: None,
    })
    .encode()
}

/// A unit that is connected and has heard its shard's owner.
fn online(passages_per_s: f64) -> Unit {
    let mut unit = unit_of(passages_per_s);
    unit.connected(START_MS);
    unit.hear(START_MS, &beacon(1, Intake::Open));
    unit
}

/// What was offered: headers and passages, heartbeats left out.
fn advance(unit: &mut Unit, now_ms: i64) -> Vec<(UpHeader, PassageBatch)> {
    let mut frames = Vec::new();
    unit.advance(now_ms, true, &mut frames, |_| ());
    batches(&frames)
}

fn batches(frames: &[Bytes]) -> Vec<(UpHeader, PassageBatch)> {
    frames
        .iter()
        .filter_map(|frame| {
            let frame = UpFrame::open(frame).unwrap();
            match frame.message().unwrap() {
                Up::Passages(batch) => Some((frame.header, batch)),
                _ => None,
            }
        })
        .collect()
}

fn range_of(header: &UpHeader) -> SeqRange {
    header.range().unwrap()
}

#[test]
fn nothing_is_offered_before_the_owner_of_the_shard_is_heard() {
    let mut unit = unit_of(100.0);
    assert!(advance(&mut unit, START_MS + 1_000).is_empty());
    unit.connected(START_MS + 1_000);
    assert!(advance(&mut unit, START_MS + 1_000).is_empty());
    unit.hear(START_MS + 1_000, &beacon(1, Intake::Open));
    assert!(!advance(&mut unit, START_MS + 1_000).is_empty());
}

#[test]
fn a_batch_leaves_when_its_oldest_passage_has_waited_the_linger() {
    let mut unit = online(4.0);
    let mut frames = Vec::new();
    let mut now_ms = START_MS;
    while batches(&frames).is_empty() {
        frames.clear();
        let wake_ms = unit.advance(now_ms, true, &mut frames, |_| ());
        assert!(wake_ms > now_ms);
        if batches(&frames).is_empty() {
            now_ms = wake_ms;
        }
    }
    let (_, batch) = &batches(&frames)[0];
    assert_eq!(batch.event_time(0).as_millis() + 250, now_ms);
}

#[test]
fn numbers_are_consecutive_and_every_passage_is_cut_before_it_is_offered() {
    let mut unit = online(80.0);
    let mut cut_to = 0;
    let mut offered_to = 0;
    let mut seen = PassageBatch::new();
    for step in 1..200 {
        let now_ms = START_MS + step * 100;
        let mut frames = Vec::new();
        unit.advance(now_ms, true, &mut frames, |cut| {
            assert_eq!(cut.range.first().get(), cut_to + 1);
            cut_to = cut.range.last().get();
            seen.extend(cut.passages);
        });
        for (header, batch) in batches(&frames) {
            let range = range_of(&header);
            assert_eq!(range.first().get(), offered_to + 1);
            offered_to = range.last().get();
            assert!(offered_to <= cut_to && offered_to <= header.accepted_to);
            let first = usize::try_from(range.first().get()).unwrap() - 1;
            assert_eq!(batch.passage(0), seen.passage(first));
            unit.hear(
                now_ms,
                &receipt([SeqRange::new(Seq::FIRST, range.last()).unwrap()]),
            );
        }
    }
    assert!(offered_to > 1_000);
    assert_eq!(unit.counts().receipted, offered_to);
    assert_eq!(unit.counts().resent_batches, 0);
}

#[test]
fn no_more_than_the_window_is_in_flight() {
    let mut unit = online(1_000.0);
    let first = advance(&mut unit, START_MS + 10_000);
    assert_eq!(first.len(), IN_FLIGHT_BATCHES_MAX);
    assert!(advance(&mut unit, START_MS + 10_100).is_empty());
    unit.hear(START_MS + 10_200, &receipt([range_of(&first[0].0)]));
    assert_eq!(advance(&mut unit, START_MS + 10_200).len(), 1);
}

#[test]
fn a_closed_road_is_the_answer_to_a_full_backlog() {
    let mut unit = unit_of(1_000.0);
    advance(&mut unit, START_MS + 60_000);
    assert_eq!(unit.counts().posted, 2_000);
}

#[test]
fn unreceipted_batches_go_again_after_the_timeout_with_the_same_bytes() {
    let mut unit = online(20.0);
    let now_ms = START_MS + 3_000;
    let mut first = Vec::new();
    unit.advance(now_ms, true, &mut first, |_| ());
    unit.close_road();
    let mut rest = Vec::new();
    unit.advance(now_ms + RESEND_MS_MIN - 1, true, &mut rest, |_| ());
    let mut again = Vec::new();
    unit.advance(now_ms + RESEND_MS_MIN, true, &mut again, |_| ());
    assert!(!batches(&first).is_empty());
    for (frame, _) in first
        .iter()
        .zip(batches(&first))
        .filter(|(_, (h, _))| h.count > 0)
    {
        assert!(again.contains(frame));
    }
}

#[test]
fn a_new_token_and_a_new_connection_bring_everything_again() {
    let mut unit = online(20.0);
    let now_ms = START_MS + 3_000;
    let offered = advance(&mut unit, now_ms);
    unit.close_road();
    advance(&mut unit, now_ms);
    unit.hear(now_ms, &beacon(1, Intake::Open));
    assert!(
        advance(&mut unit, now_ms).is_empty(),
        "the same token brings nothing"
    );
    unit.hear(now_ms, &beacon(2, Intake::Open));
    let after_token = advance(&mut unit, now_ms);
    unit.hear(now_ms, &beacon(1, Intake::Open));
    assert!(
        advance(&mut unit, now_ms).is_empty(),
        "a former owner is not listened to"
    );
    unit.disconnected();
    unit.connected(now_ms);
    assert!(advance(&mut unit, now_ms).is_empty());
    unit.hear(now_ms, &beacon(2, Intake::Open));
    let after_connection = advance(&mut unit, now_ms);
    assert!(!offered.is_empty());
    for (header, _) in &offered {
        assert!(after_token.iter().any(|(again, _)| again == header));
        assert!(after_connection.iter().any(|(again, _)| again == header));
    }
}

#[test]
fn a_receipt_for_what_was_taken_back_spares_the_resend() {
    let mut unit = online(20.0);
    let now_ms = START_MS + 3_000;
    let offered = advance(&mut unit, now_ms);
    unit.close_road();
    advance(&mut unit, now_ms);
    unit.disconnected();
    unit.connected(now_ms);
    let ranges: Vec<_> = offered.iter().map(|(header, _)| range_of(header)).collect();
    unit.hear(now_ms, &receipt(ranges.clone()));
    unit.hear(now_ms, &beacon(1, Intake::Open));
    let again = advance(&mut unit, now_ms);
    assert!(
        again
            .iter()
            .all(|(header, _)| !ranges.contains(&range_of(header)))
    );
}

#[test]
fn receipts_of_another_centre_or_stream_free_nothing() {
    let mut unit = online(20.0);
    let now_ms = START_MS + 3_000;
    let offered = advance(&mut unit, now_ms);
    let mut foreign = Receipt {
        centre: centre(),
        streams: vec![StreamReceipt {
            stream: StreamId::from_bytes([8; 16]),
            counted: SeqSet::new(),
            stored: SeqSet::new(),
            lost: SeqSet::new(),
            afresh: false,
        }],
        correction: None,
    };
    foreign.streams[0].stored.insert(range_of(&offered[0].0));
    unit.hear(now_ms, &Down::Receipt(foreign.clone()).encode());
    foreign.streams[0].stream = stream();
    foreign.centre.id = CentreId::from_bytes([2; 16]);
    unit.hear(now_ms, &Down::Receipt(foreign).encode());
    assert_eq!(unit.counts().receipted, 0);
    unit.hear(now_ms, b"nonsense");
    assert_eq!(unit.counts().unreadable, 1);
}

#[test]
fn refused_later_is_offered_again_and_refused_never_is_given_up() {
    let mut unit = online(20.0);
    let now_ms = START_MS + 3_000;
    let offered = advance(&mut unit, now_ms);
    unit.close_road();
    let offered: Vec<_> = offered
        .into_iter()
        .chain(advance(&mut unit, now_ms))
        .collect();
    let first = range_of(&offered[0].0);
    unit.hear(now_ms, &refusal(first, RefusalClass::Later));
    let again = advance(&mut unit, now_ms + REFUSED_MS_MIN);
    assert_eq!(again.len(), 1);
    assert_eq!(range_of(&again[0].0), first);
    unit.hear(now_ms, &refusal(first, RefusalClass::Never));
    assert_eq!(unit.counts().refused, first.count());
    unit.hear(
        now_ms,
        &receipt(offered[1..].iter().map(|(header, _)| range_of(header))),
    );
    assert!(unit.is_drained());
}

#[test]
fn a_closed_intake_is_probed_and_an_open_one_entered_slowly() {
    let mut unit = unit_of(1_000.0);
    unit.connected(START_MS);
    unit.hear(START_MS, &beacon(1, Intake::Closed));
    let probe = advance(&mut unit, START_MS + 3_000);
    assert_eq!(probe.len(), 1);
    assert!(advance(&mut unit, START_MS + 3_100).is_empty());
    let opened_ms = START_MS + 4_000;
    unit.hear(opened_ms, &receipt([range_of(&probe[0].0)]));
    unit.hear(opened_ms, &beacon(1, Intake::Open));
    let later_ms = opened_ms + REOPEN_JITTER_MS;
    let one = advance(&mut unit, later_ms);
    assert_eq!(one.len(), 1);
    unit.hear(later_ms, &receipt([range_of(&one[0].0)]));
    assert_eq!(advance(&mut unit, later_ms).len(), 2);
}

#[test]
fn what_a_closed_intake_dropped_goes_again_when_it_opens() {
    let mut unit = online(20.0);
    let now_ms = START_MS + 3_000;
    let offered = advance(&mut unit, now_ms);
    unit.close_road();
    advance(&mut unit, now_ms);
    unit.hear(now_ms, &beacon(1, Intake::Closed));
    unit.hear(now_ms, &beacon(1, Intake::Open));
    let again = advance(&mut unit, now_ms + REOPEN_JITTER_MS);
    assert_eq!(again.len(), 1, "slowly");
    assert_eq!(again[0].0, offered[0].0);
}

#[test]
fn the_frontier_never_passes_what_has_no_receipt() {
    let mut unit = online(20.0);
    let (mut counter, mut offers) = (0, 0);
    for step in 1..100 {
        for (header, batch) in advance(&mut unit, START_MS + step * 100) {
            assert!(header.frontier.counter > counter);
            counter = header.frontier.counter;
            offers += 1;
            assert!(header.frontier.before <= batch.event_time(0));
            let clock_ms = START_MS + step * 100;
            assert!(header.frontier.before.as_millis() <= clock_ms - DAY_MS);
        }
    }
    assert_eq!(offers, IN_FLIGHT_BATCHES_MAX);
}

#[test]
fn heartbeats_tell_what_is_held() {
    let mut unit = online(20.0);
    let mut frames = Vec::new();
    unit.advance(START_MS + 3_000, true, &mut frames, |_| ());
    let beats: Vec<_> = frames
        .iter()
        .filter_map(
            |frame| match UpFrame::open(frame).unwrap().message().unwrap() {
                Up::Heartbeat(heartbeat) => Some(heartbeat),
                _ => None,
            },
        )
        .collect();
    assert_eq!(beats.len(), 1);
    assert_eq!(beats[0].held[0].accepted_to, unit.counts().posted);
    assert_eq!(beats[0].backlog.passages, unit.counts().posted);
    assert!(beats[0].backlog.oldest.is_some());
}

#[test]
fn a_drained_unit_has_all_its_passages_in_its_batches() {
    let mut unit = online(30.0);
    let mut cut = PassageBatch::new();
    for step in 1..=100 {
        let now_ms = START_MS + step * 100;
        let mut frames = Vec::new();
        if step == 100 {
            unit.close_road();
        }
        unit.advance(now_ms, true, &mut frames, |batch| {
            cut.extend(batch.passages)
        });
        let ranges = batches(&frames)
            .iter()
            .map(|(header, _)| range_of(header))
            .next_back();
        if let Some(last) = ranges {
            unit.hear(
                now_ms,
                &receipt([SeqRange::new(Seq::FIRST, last.last()).unwrap()]),
            );
        }
    }
    assert!(unit.is_drained());
    let counts = unit.counts();
    assert_eq!(counts.posted, counts.receipted);
    assert_eq!(cut.len() as u64, counts.posted);
    let folded: u32 = window::fold(&cut, |_| true)
        .iter()
        .map(|delta| delta.stats.n)
        .sum();
    assert_eq!(u64::from(folded), counts.posted);
    assert_eq!(
        Bucket::of(cut.event_time(0)),
        Bucket::of(EventTime::from_millis(START_MS))
    );
}

#[test]
fn hashed_plates_are_equal_for_equal_plates_and_dropped_ones_are_gone() {
    let plate = |text| Plate::Text(proto::plate::PlateText::new(text).unwrap());
    let (one, other) = (plate("А123ВС77"), plate("А123ВС78"));
    assert_eq!(Plates::Hashed.keep(one, 5), Plates::Hashed.keep(one, 5));
    assert_ne!(Plates::Hashed.keep(one, 5), Plates::Hashed.keep(other, 5));
    assert_ne!(Plates::Hashed.keep(one, 5), Plates::Hashed.keep(one, 6));
    assert_eq!(Plates::Hashed.keep(Plate::Absent, 5), Plate::Absent);
    assert_eq!(Plates::Dropped.keep(one, 5), Plate::Absent);
    assert_eq!(Plates::Kept.keep(one, 5), one);
}
