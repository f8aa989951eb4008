//! The law against a model link, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::super::model_link::ModelLink;
use super::*;

const LIVE_BYTES: usize = 150;
const LIVE_EVERY_MS: Millis = 250;
const HEARTBEAT_MS: Millis = 30_000;

/// In the order of their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Acknowledged(usize),
    Live,
    Heartbeat,
    Wake,
}

/// An endless backlog, thin live traffic and heartbeats over one link.
struct Sender {
    rate: Rate,
    link: ModelLink,
    events: BinaryHeap<Reverse<(Millis, u64, Event)>>,
    count: u64,
    now: Millis,
    /// The longest way of a live frame since the last look.
    live_ms_max: Millis,
    /// Bytes of a heartbeat.
    heartbeat_bytes: usize,
    /// Bytes of heartbeats and of the backlog that were sent.
    sent: (usize, usize),
}

impl Sender {
    fn new(link: ModelLink) -> Self {
        let mut sender = Self {
            rate: Rate::default(),
            link,
            events: BinaryHeap::new(),
            count: 0,
            now: 0,
            live_ms_max: 0,
            heartbeat_bytes: LIVE_BYTES,
            sent: (0, 0),
        };
        sender.at(0, Event::Heartbeat);
        sender.at(1, Event::Live);
        sender
    }

    fn at(&mut self, when: Millis, event: Event) {
        self.count += 1;
        self.events.push(Reverse((when, self.count, event)));
    }

    fn send(&mut self, kind: Kind, bytes: usize) {
        self.rate.hand(self.now, kind, bytes);
        match kind {
            Kind::Live => {}
            Kind::Note => self.sent.0 += bytes,
            Kind::Backlog => self.sent.1 += bytes,
        }
        let arrives = self.link.up(self.now, bytes);
        if kind == Kind::Live {
            self.live_ms_max = self.live_ms_max.max(arrives - self.now);
        }
        let back = self.link.down(arrives);
        self.at(back, Event::Acknowledged(bytes));
    }

    /// Runs on; says which part of the bottleneck's time was used.
    fn run(&mut self, for_ms: Millis) -> f64 {
        let (until, before) = (self.now + for_ms, self.link.busy_us);
        self.live_ms_max = 0;
        self.at(until, Event::Wake);
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            self.now = now;
            match event {
                Event::Acknowledged(bytes) => self.rate.acknowledge(now, bytes),
                Event::Live => {
                    self.send(Kind::Live, LIVE_BYTES);
                    self.at(now + LIVE_EVERY_MS, Event::Live);
                }
                Event::Heartbeat => {
                    self.send(Kind::Note, self.heartbeat_bytes);
                    self.at(now + HEARTBEAT_MS, Event::Heartbeat);
                }
                Event::Wake if now == until => break,
                Event::Wake => {}
            }
            self.rate.tick(now);
            if self.rate.wants_small_frame() {
                self.send(Kind::Note, self.heartbeat_bytes);
            }
            loop {
                let bytes = self.rate.message_bytes() - FRAMING_BYTES;
                if !self.rate.has_room(bytes) || self.rate.unacked() + bytes > IN_FLIGHT_BYTES_MAX {
                    break;
                }
                self.send(Kind::Backlog, bytes);
            }
        }
        (self.link.busy_us - before) as f64 / (for_ms * 1_000) as f64
    }
}

/// What a live frame may find in its way: the window beyond a full link, what jitter makes of it,
/// and other small frames. When the link has just run empty, all of the window, which is a round trip
/// more.
fn live_ms_max(link: &ModelLink) -> Millis {
    let small_ms = (LIVE_BYTES + FRAMING_BYTES) as u64 * 1_000 / link.bytes_per_s;
    3 * link.one_way_ms + SLACK_MS + 2 * MESSAGE_MS + 3 * link.jitter_ms + 2 * small_ms
}

#[test]
fn slow_links_are_full_and_live_frames_do_not_queue_for_long() {
    for (bytes_per_s, round_trip_ms) in [(8_000, 800), (8_000, 300), (125_000, 100)] {
        let mut sender = Sender::new(ModelLink::new(bytes_per_s, round_trip_ms, 20));
        sender.run(10_000);
        let used = sender.run(600_000);
        let (delay, bound) = (sender.live_ms_max, live_ms_max(&sender.link));
        println!(
            "{bytes_per_s} B/s, {round_trip_ms} ms: {used:.3} used, live {delay} of {bound} ms"
        );
        assert!(
            used >= 0.95,
            "{bytes_per_s} B/s, {round_trip_ms} ms: {used}"
        );
        assert!(delay <= bound, "{delay} ms, at most {bound}");
    }
}

#[test]
fn on_a_lan_nothing_but_the_bytes_without_receipt_holds_the_backlog_back() {
    let mut sender = Sender::new(ModelLink::new(125_000_000, 1, 0));
    sender.run(10_000);
    let window = sender.rate.window_bytes();
    assert!(window >= IN_FLIGHT_BYTES_MAX, "{window}");
    assert_eq!(sender.rate.message_bytes(), MESSAGE_BYTES_MAX);
}

#[test]
fn messages_are_a_quarter_of_a_second_of_the_link_within_their_bounds() {
    for (bytes_per_s, bytes) in [
        (1, 512),
        (2_048, 512),
        (8_000, 2_000),
        (40_000, 10_000),
        (40_960, 10_240),
        (u64::MAX, 10_240),
    ] {
        let rate = Rate {
            bytes_per_s: Some(bytes_per_s),
            ..Rate::default()
        };
        assert_eq!(rate.message_bytes(), bytes, "{bytes_per_s} B/s");
    }
}

#[test]
fn a_link_that_becomes_slower_or_faster_is_followed() {
    let mut sender = Sender::new(ModelLink::new(125_000, 100, 10));
    sender.run(30_000);
    sender.link.bytes_per_s = 8_000;
    sender.run(60_000);
    assert!(sender.run(60_000) >= 0.95);
    let bound = live_ms_max(&sender.link);
    assert!(sender.live_ms_max <= bound, "{} ms", sender.live_ms_max);
    sender.link.bytes_per_s = 125_000;
    sender.run(30_000);
    assert!(sender.run(60_000) >= 0.95);
}

#[test]
fn a_way_that_becomes_longer_or_shorter_is_followed() {
    let mut sender = Sender::new(ModelLink::new(8_000, 100, 10));
    sender.run(30_000);
    sender.link.one_way_ms = 600;
    sender.run(180_000);
    let used = sender.run(120_000);
    assert!(used >= 0.9, "{used}");
    sender.link.one_way_ms = 50;
    sender.run(180_000);
    assert!(sender.run(120_000) >= 0.95);
    let bound = live_ms_max(&sender.link);
    assert!(sender.live_ms_max <= bound, "{} ms", sender.live_ms_max);
}

#[test]
fn heartbeats_of_many_streams_neither_stop_the_backlog_nor_fill_the_link() {
    let mut sender = Sender::new(ModelLink::new(8_000, 300, 20));
    // 64 streams, and a camera that says nothing.
    sender.heartbeat_bytes = 2_000;
    sender
        .events
        .retain(|Reverse((_, _, event))| *event != Event::Live);
    sender.run(600_000);
    let (heartbeats, backlog) = sender.sent;
    assert!(
        backlog > 8_000 * 600 * 8 / 10,
        "{backlog} bytes of the backlog"
    );
    let (due, probes) = (600_000 / HEARTBEAT_MS, 600_000 / PROBE_EVERY_MS);
    let most = usize::try_from(due + probes + 1).unwrap() * sender.heartbeat_bytes;
    assert!(
        heartbeats <= most,
        "{heartbeats} bytes of heartbeats, {most} at most"
    );
}

#[test]
fn what_was_taken_back_is_not_waited_for() {
    let mut rate = Rate::default();
    rate.hand(0, Kind::Backlog, 1_000);
    rate.hand(0, Kind::Backlog, 1_000);
    rate.tick(PROBE_EVERY_MS);
    rate.take_back(1_000);
    rate.acknowledge(PROBE_EVERY_MS + 1, 1_000);
    assert!(rate.wants_small_frame());
}

#[test]
fn what_the_link_did_not_take_was_never_on_its_way() {
    let mut rate = Rate::default();
    rate.hand(0, Kind::Live, 100);
    rate.hand(0, Kind::Backlog, 500);
    rate.take_back(500);
    rate.hand(1, Kind::Note, 200);
    assert_eq!(rate.unacked(), 300 + 2 * FRAMING_BYTES);
    rate.acknowledge(10, 100);
    rate.acknowledge(11, 200);
    assert_eq!((rate.unacked(), rate.marks.len()), (0, 0));
    rate.connected(20);
    assert_eq!((rate.unacked(), rate.bytes_per_s()), (0, None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_link_is_full_and_stays_passable(
        bytes_per_s in prop_oneof![4_000_u64..20_000, 20_000_u64..200_000],
        round_trip_ms in 10_u64..1_000,
        jitter_share in 0_u64..30,
    ) {
        let jitter_ms = (round_trip_ms * jitter_share / 100).min(100);
        let mut sender = Sender::new(ModelLink::new(bytes_per_s, round_trip_ms, jitter_ms));
        sender.run(30_000);
        let bdp = bytes_per_s * (round_trip_ms + jitter_ms) / 1_000;
        let used = sender.run(300_000);
        let bound = live_ms_max(&sender.link);
        prop_assert!(sender.live_ms_max <= bound, "live {} of {bound} ms", sender.live_ms_max);
        if bdp < IN_FLIGHT_BYTES_MAX as u64 * 3 / 4 {
            prop_assert!(used >= 0.9, "{used}");
        }
    }
}
