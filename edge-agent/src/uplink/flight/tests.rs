use proto::Seq;

use super::*;

const RESEND: Backoff = Backoff {
    base_ms: 30_000,
    cap_ms: 300_000,
};
const STREAM: StreamId = StreamId::from_bytes([1; 16]);

fn range(first: u64, last: u64) -> SeqRange {
    SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap()
}

fn send(flight: &mut Flight, range: SeqRange, now: Millis, bytes: usize) -> MessageId {
    let id = flight.add(STREAM, range, Lane::Live);
    resend(flight, id, now, bytes);
    id
}

fn resend(flight: &mut Flight, id: MessageId, now: Millis, bytes: usize) {
    flight.get_mut(id).unwrap().phase = Phase::Ready { bytes };
    flight.sent(id, now, &mut Jitter::new(1));
}

#[test]
fn an_answer_is_overdue_after_four_usual_times_but_not_before_the_least() {
    let mut flight = Flight::new(RESEND);
    assert_eq!(flight.resend_timeout_ms(), 30_000);
    send(&mut flight, range(1, 5), 0, 10);
    flight.settle(1_000, STREAM, |_| true);
    assert_eq!(
        (flight.receipt_time_ms(), flight.resend_timeout_ms()),
        (Some(1_000), 30_000)
    );
    send(&mut flight, range(6, 9), 1_000, 10);
    flight.settle(1_000 + 89_000, STREAM, |_| true);
    assert_eq!(flight.receipt_time_ms(), Some(12_000));
    assert_eq!(flight.resend_timeout_ms(), 48_000);
}

#[test]
fn resent_messages_teach_nothing_about_the_usual_time() {
    let mut flight = Flight::new(RESEND);
    let id = send(&mut flight, range(1, 5), 0, 10);
    assert!(flight.expire(40_000).is_empty());
    resend(&mut flight, id, 40_000, 10);
    flight.settle(40_001, STREAM, |_| true);
    assert_eq!(flight.receipt_time_ms(), None);
}

#[test]
fn silence_makes_a_message_suspect_only_while_others_are_answered() {
    let mut flight = Flight::new(RESEND);
    let id = send(&mut flight, range(1, 5), 0, 10);
    let mut now = 0;
    for _ in 0..20 {
        now += 1_000_000;
        assert!(flight.expire(now).is_empty());
        resend(&mut flight, id, now, 10);
    }
    for round in 1..=STRIKES_MAX {
        send(&mut flight, range(6, 6), now, 10);
        flight.settle(now, STREAM, |range| range.first().get() == 6);
        now += 1_000_000;
        let suspects = flight.expire(now);
        assert_eq!(suspects.len(), usize::from(round == STRIKES_MAX));
        if round < STRIKES_MAX {
            resend(&mut flight, id, now, 10);
        }
    }
}

#[test]
fn bytes_on_their_way_are_bounded_in_all_and_by_lane() {
    let mut flight = Flight::new(RESEND);
    assert!(
        flight.has_room(2 * IN_FLIGHT_BYTES_MAX),
        "alone, anything goes"
    );
    send(&mut flight, range(1, 5), 0, IN_FLIGHT_BYTES_MAX - 1_000);
    assert!(flight.has_room(1_000) && !flight.has_room(1_001));
    let most = IN_FLIGHT_BYTES_MAX / 2;
    assert!(!flight.lane_has_room(Lane::Live, 1, most));
    assert!(
        flight.lane_has_room(Lane::Backlog, most + 1, most),
        "the first of a lane is never held back"
    );
}

#[test]
fn a_lost_link_makes_everything_due_except_what_is_being_read() {
    let mut flight = Flight::new(RESEND);
    let sent = send(&mut flight, range(1, 5), 0, 10);
    let read = flight.add(STREAM, range(6, 9), Lane::Live);
    flight.get_mut(read).unwrap().phase = Phase::Reading;
    assert_eq!(flight.lose_all(), [sent]);
    let phases: Vec<_> = flight.iter().map(|(_, message)| message.phase).collect();
    assert_eq!(phases, [Phase::Due, Phase::Reading]);
}
