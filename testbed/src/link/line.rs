//! ● When bytes arrive: the wire of one direction, and the connections that share it.
//!
//! Time is handed in as a [`Moment`], chance comes from a seed; the same calls give the same
//! arrivals.
//!
//! Invariants:
//! - the wire carries one segment at a time, no faster than its rate;
//! - no more than the queue's bytes wait before it: whoever offers more has not asked for [`room`];
//! - the bytes of one connection arrive in the order in which they were offered.
//!
//! [`room`]: Line::room

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Shape;

/// Time since the link was made.
pub type Moment = Duration;

/// Payload of one segment on an ordinary path: 1,500 less the headers.
pub const SEGMENT_BYTES_MAX: usize = 1_448;
/// IPv4 and TCP with timestamps.
pub const HEADER_BYTES: usize = 52;

/// The least time after which TCP sends a lost segment again (Linux; RFC 6298 says a second).
const RESEND_MIN: Duration = Duration::from_millis(200);
/// Of the delay of one direction: one and a half round trips.
const RESEND_DELAYS: u32 = 3;
/// A segment that is lost more often than this gets through, so that no draw stalls for ever.
const LOSSES_MAX: u32 = 6;

/// One direction's wire with the queue before it, shared by all connections.
#[derive(Debug)]
pub struct Line {
    shape: Shape,
    random: ChaCha8Rng,
    free_at: Moment,
    /// Segments that have not left the queue: when they will, and how long they are without headers.
    waiting: VecDeque<(Moment, usize)>,
    waiting_bytes: usize,
    wire_bytes: u64,
}

impl Line {
    /// Idle.
    #[must_use]
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            random: ChaCha8Rng::seed_from_u64(seed),
            free_at: Moment::ZERO,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            wire_bytes: 0,
        }
    }

    /// From now on; what waits goes as it would have gone.
    pub const fn set_shape(&mut self, shape: Shape) {
        self.shape = shape;
    }

    /// Bytes that the queue takes now.
    pub fn room(&mut self, now: Moment) -> usize {
        while let Some(&(leaves_at, bytes)) = self.waiting.front()
            && leaves_at <= now
        {
            self.waiting.pop_front();
            self.waiting_bytes -= bytes;
        }
        self.shape.queue_bytes.saturating_sub(self.waiting_bytes)
    }

    /// When a full queue has room for a segment again; none while it is empty.
    #[must_use]
    pub fn room_at(&self) -> Option<Moment> {
        self.waiting.front().map(|&(leaves_at, _)| leaves_at)
    }

    /// Bytes that have left over the wire so far, headers included.
    pub fn wire_bytes(&mut self, now: Moment) -> u64 {
        self.room(now);
        let waiting = self.waiting_bytes + self.waiting.len() * HEADER_BYTES;
        self.wire_bytes - waiting as u64
    }

    /// Takes a segment of so many bytes; when it arrives, if nothing is before it.
    pub fn send(&mut self, now: Moment, bytes: usize) -> Moment {
        let on_wire = bytes + HEADER_BYTES;
        self.wire_bytes += on_wire as u64;
        let busy = self.shape.rate_bytes_per_s.map_or(Duration::ZERO, |rate| {
            Duration::from_secs(1).mul_f64(on_wire as f64 / f64::from(rate.max(1)))
        });
        self.free_at = self.free_at.max(now) + busy;
        self.waiting.push_back((self.free_at, bytes));
        self.waiting_bytes += bytes;
        let stalled = self.stall();
        let jitter = match self.shape.jitter {
            Duration::ZERO => Duration::ZERO,
            jitter => jitter.mul_f64(self.random.random::<f64>()),
        };
        self.free_at + self.shape.delay + jitter + stalled
    }

    /// How much later a segment arrives because it was lost, once or several times.
    fn stall(&mut self) -> Duration {
        if self.shape.loss <= 0.0 {
            return Duration::ZERO;
        }
        let mut resend = RESEND_MIN.max(self.shape.delay * RESEND_DELAYS);
        let mut stalled = Duration::ZERO;
        for _ in 0..LOSSES_MAX {
            if self.random.random::<f64>() >= self.shape.loss {
                break;
            }
            stalled += resend;
            resend *= 2;
        }
        stalled
    }
}

/// One direction of one connection: what is on its way, in order.
#[derive(Debug, Default)]
pub struct Flow {
    on_the_way: VecDeque<(Moment, Bytes)>,
    bytes: usize,
    last: Moment,
}

impl Flow {
    /// Bytes on their way.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Offers bytes to the wire, cut into segments.
    pub fn offer(&mut self, line: &mut Line, now: Moment, mut bytes: Bytes) {
        while !bytes.is_empty() {
            let segment = bytes.split_to(bytes.len().min(SEGMENT_BYTES_MAX));
            self.last = self.last.max(line.send(now, segment.len()));
            self.bytes += segment.len();
            self.on_the_way.push_back((self.last, segment));
        }
    }

    /// When the next bytes arrive.
    #[must_use]
    pub fn next_at(&self) -> Option<Moment> {
        self.on_the_way.front().map(|&(arrives_at, _)| arrives_at)
    }

    /// The next bytes that have arrived.
    pub fn take(&mut self, now: Moment) -> Option<Bytes> {
        self.next_at().filter(|arrives_at| *arrives_at <= now)?;
        let (_, segment) = self.on_the_way.pop_front()?;
        self.bytes -= segment.len();
        Some(segment)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn shape() -> Shape {
        Shape::slow(64, MS(300))
    }

    fn arrivals(flow: &mut Flow) -> Vec<Moment> {
        let mut moments = Vec::new();
        while let Some(at) = flow.next_at() {
            moments.push(at);
            flow.take(at).expect("due");
        }
        moments
    }

    #[test]
    fn bytes_take_their_turn_on_the_wire_and_then_half_a_round_trip() {
        let (mut line, mut flow) = (Line::new(shape(), 1), Flow::default());
        // 1,448 + 52 bytes at 8,000 a second: 187.5 ms each.
        flow.offer(&mut line, MS(1_000), Bytes::from(vec![0; 2 * 1_448]));
        let half_ms = Duration::from_micros(500);
        assert_eq!(
            arrivals(&mut flow),
            [MS(1_337) + half_ms, MS(1_525)],
            "one after the other"
        );
        // The wire was idle meanwhile.
        flow.offer(&mut line, MS(5_000), Bytes::from_static(&[0; 28]));
        assert_eq!(arrivals(&mut flow), [MS(5_160)]);
        assert_eq!(line.wire_bytes(MS(5_009)), 2 * 1_500);
        assert_eq!(line.wire_bytes(MS(5_010)), 2 * 1_500 + 80);
    }

    #[test]
    fn a_full_queue_holds_the_sender_back_until_a_segment_has_left() {
        let shape = Shape {
            queue_bytes: 3_000,
            ..shape()
        };
        let mut line = Line::new(shape, 1);
        assert_eq!(line.room(MS(0)), 3_000);
        line.send(MS(0), 1_448);
        line.send(MS(0), 1_448);
        assert_eq!(line.room(MS(0)), 104);
        let leaves_at = line.room_at().expect("something waits");
        assert_eq!(leaves_at, Duration::from_micros(187_500));
        assert_eq!(line.room(leaves_at), 104 + 1_448);
        assert_eq!(line.room(MS(375)), 3_000);
        assert_eq!(line.room_at(), None);
    }

    #[test]
    fn connections_share_one_wire() {
        let mut line = Line::new(shape(), 1);
        let (mut one, mut other) = (Flow::default(), Flow::default());
        one.offer(&mut line, MS(0), Bytes::from(vec![1; 1_448]));
        other.offer(&mut line, MS(0), Bytes::from(vec![2; 1_448]));
        assert!(other.next_at() > one.next_at());
    }

    #[test]
    fn a_lost_segment_stalls_all_behind_it_and_nothing_before_it() {
        let lossy = Shape {
            loss: 1.0,
            ..shape()
        };
        let (mut line, mut flow) = (Line::new(shape(), 1), Flow::default());
        flow.offer(&mut line, MS(0), Bytes::from_static(&[0; 28]));
        line.set_shape(lossy);
        flow.offer(&mut line, MS(0), Bytes::from_static(&[0; 28]));
        line.set_shape(shape());
        flow.offer(&mut line, MS(0), Bytes::from_static(&[0; 28]));
        // 450 ms for the first loss, doubling, six times.
        let stalled = MS(20 + 150 + 450 * 63);
        assert_eq!(arrivals(&mut flow), [MS(160), stalled, stalled]);
    }

    #[test]
    fn without_a_shape_everything_arrives_at_once() {
        let (mut line, mut flow) = (Line::new(Shape::FREE, 1), Flow::default());
        flow.offer(&mut line, MS(7), Bytes::from(vec![0; 9_999]));
        assert!(arrivals(&mut flow).iter().all(|at| *at == MS(7)));
        assert_eq!(flow.bytes(), 0);
    }

    proptest! {
        /// Whatever is offered whenever: in order, whole, never faster than the wire.
        #[test]
        fn order_rate_and_bytes_hold_for_any_traffic(
            offers in prop::collection::vec((0_u64..2_000, 1_usize..5_000), 1..40),
            jitter_ms in 0_u64..500,
            loss in 0.0_f64..0.5,
            seed in any::<u64>(),
        ) {
            let shape = Shape { jitter: MS(jitter_ms), loss, ..shape() };
            let (mut line, mut flow) = (Line::new(shape, seed), Flow::default());
            let (mut now, mut sent) = (Duration::ZERO, Vec::new());
            for (mark, (pause_ms, bytes)) in (0_u8..).zip(&offers) {
                now += MS(*pause_ms);
                let part = vec![mark; *bytes];
                sent.extend_from_slice(&part);
                flow.offer(&mut line, now, part.into());
            }
            let (mut got, mut last) = (Vec::new(), Duration::ZERO);
            while let Some(at) = flow.next_at() {
                prop_assert!(at >= last);
                prop_assert!(flow.take(at.saturating_sub(Duration::from_nanos(1))).is_none());
                got.extend_from_slice(&flow.take(at).expect("due"));
                last = at;
                let wire_s = got.len() as f64 / 8_000.0;
                prop_assert!(at.as_secs_f64() >= wire_s, "{} bytes by {at:?}", got.len());
            }
            prop_assert_eq!(got, sent);
        }
    }
}
