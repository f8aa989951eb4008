//! From what the buffer holds to the frames that leave. Pure.
//!
//! Every frame states the stream's durable mark and the unit's frontier as they are when it is made.

use proto::frame::Up;
use proto::header::UpHeader;
use proto::heartbeat::{Backlog, CameraLink, Heartbeat, HeldStream};
use proto::limits::{IN_FLIGHT_BYTES_MAX, RANGES_MAX, STREAMS_MAX, SUMMARY_DELTAS_MAX};
use proto::loss::{Loss, Losses};
use proto::summary::{Summary, SummaryEntry};
use proto::{PassageBatch, Seq, SeqRange, SeqSet, StreamId};

use super::frontier::Statements;
use crate::buffer::BufferState;
use crate::clock::Reading;

/// Stands in the header of a heartbeat while the unit has no stream: nothing is claimed of it.
const NO_STREAM: StreamId = StreamId::from_bytes([0; 16]);

/// Makes the frames of one run.
#[derive(Debug, Clone)]
pub struct Framer {
    statements: Statements,
}

/// A summary that is ready to leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramedSummary {
    /// The frame.
    pub frame: Vec<u8>,
    /// The range that its header claims.
    pub claimed: SeqRange,
    /// What it stands for.
    pub seqs: SeqSet,
    /// How many entries it has.
    pub entries: usize,
}

impl Framer {
    /// With the statements of completeness of this run.
    #[must_use]
    pub const fn new(statements: Statements) -> Self {
        Self { statements }
    }

    /// See [`Statements::exceed`].
    pub fn exceed(&mut self, run: u32, counter: u64) -> Option<u32> {
        self.statements.exceed(run, counter)
    }

    /// A run of passages.
    pub fn passages(
        &mut self,
        state: &BufferState,
        at: Reading,
        stream: StreamId,
        first: Seq,
        batch: PassageBatch,
    ) -> Vec<u8> {
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let header = self.header(state, at, stream, first, count);
        Up::Passages(batch).encode(&header)
    }

    /// As many of the summaries as fit a frame of reasonable size; none of none.
    pub fn summary(
        &mut self,
        state: &BufferState,
        at: Reading,
        stream: StreamId,
        mut entries: Vec<SummaryEntry>,
    ) -> Option<FramedSummary> {
        let mut deltas = 0;
        entries.retain(|entry| {
            deltas += entry.deltas.len();
            deltas <= SUMMARY_DELTAS_MAX
        });
        loop {
            let seqs: SeqSet = entries
                .iter()
                .flat_map(|e| e.seqs.ranges())
                .copied()
                .collect();
            let first = seqs.ranges().first()?.first();
            let count = u32::try_from(seqs.count()).unwrap_or(u32::MAX);
            let claimed = SeqRange::from_count(first, u64::from(count)).ok()?;
            let header = self.header(state, at, stream, first, count);
            let frame = Up::Summary(Summary {
                entries: entries.clone(),
            })
            .encode(&header);
            if frame.len() <= IN_FLIGHT_BYTES_MAX / 2 || entries.len() == 1 {
                return Some(FramedSummary {
                    frame,
                    claimed,
                    seqs,
                    entries: entries.len(),
                });
            }
            entries.truncate(entries.len() / 2);
        }
    }

    /// Declared losses of a stream; none of none.
    pub fn losses(
        &mut self,
        state: &BufferState,
        at: Reading,
        stream: StreamId,
        losses: Vec<Loss>,
    ) -> Option<Vec<u8>> {
        let first = losses.iter().map(|loss| loss.range.first()).min()?;
        let count: u64 = losses.iter().map(|loss| loss.range.count()).sum();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let header = self.header(state, at, stream, first, count);
        Some(Up::Loss(Losses { losses }).encode(&header))
    }

    /// The unit's state.
    pub fn heartbeat(
        &mut self,
        state: &BufferState,
        at: Reading,
        camera: CameraLink,
        drain_per_min: Option<i64>,
    ) -> Vec<u8> {
        let held = state
            .streams
            .iter()
            .rev()
            .take(STREAMS_MAX)
            .map(|stream| HeldStream {
                stream: stream.id,
                accepted_to: stream.accepted_to,
                released: first_ranges(&stream.stored.union(&stream.lost)),
                held: stream.kept.cover(RANGES_MAX),
            });
        let heartbeat = Heartbeat {
            held: held.collect(),
            backlog: Backlog {
                drain_per_min,
                ..state.unsent
            },
            camera,
            clock_offset_ms: at.offset_ms(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            disk: state.disk,
        };
        let stream = state.streams.last().map_or(NO_STREAM, |stream| stream.id);
        let header = self.header(state, at, stream, Seq::FIRST, 0);
        Up::Heartbeat(heartbeat).encode(&header)
    }

    fn header(
        &mut self,
        state: &BufferState,
        at: Reading,
        stream: StreamId,
        first: Seq,
        count: u32,
    ) -> UpHeader {
        let known = state.streams.iter().find(|known| known.id == stream);
        UpHeader {
            stream,
            first,
            count,
            accepted_to: known.map_or(0, |known| known.accepted_to),
            frontier: self.statements.next(state.oldest_uncounted, at.now),
            sent_at: at.wall,
        }
    }
}

/// As much of a set as may stand in a message.
fn first_ranges(set: &SeqSet) -> SeqSet {
    set.ranges().iter().take(RANGES_MAX).copied().collect()
}

/// A state of the buffer for tests.
#[cfg(test)]
pub(crate) mod fixtures {
    use std::sync::Arc;

    use proto::EventTime;
    use proto::heartbeat::{Backlog, Disk};

    use super::{BufferState, SeqSet, StreamId};
    use crate::buffer::{Counters, StoreHealth, StreamState};

    pub(crate) const STREAM: StreamId = StreamId::from_bytes([7; 16]);

    /// One stream that accepted 1,000 passages and holds none.
    pub(crate) fn buffer_state() -> BufferState {
        let stream = StreamState {
            id: STREAM,
            current: true,
            accepted_to: 1_000,
            offered: SeqSet::new(),
            held: SeqSet::new(),
            kept: SeqSet::new(),
            unsent: SeqSet::new(),
            summed: SeqSet::new(),
            counted: SeqSet::new(),
            stored: SeqSet::new(),
            lost: SeqSet::new(),
            again: SeqSet::new(),
            oldest_unsent: None,
        };
        BufferState {
            streams: vec![Arc::new(stream)],
            unsent: Backlog::default(),
            oldest_uncounted: Some(EventTime::from_millis(5)),
            losses: Vec::new(),
            summarised: 0,
            disk: Disk::default(),
            held_bytes: 0,
            run: 1,
            health: StoreHealth::Ok,
            centre: None,
            centre_time: None,
            counters: Counters::default(),
            alarms: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::frame::UpFrame;
    use proto::loss::{LossReason, LossScope};
    use proto::{EventTime, Passage, window};

    use super::fixtures::buffer_state;
    use super::*;

    const STREAM: StreamId = super::fixtures::STREAM;
    const WALL: Reading = Reading::right(EventTime::from_millis(200_000_000));

    fn range(first: u64, last: u64) -> SeqRange {
        SeqRange::new(Seq::new(first).unwrap(), Seq::new(last).unwrap()).unwrap()
    }

    fn state(stored: SeqSet) -> BufferState {
        let mut state = buffer_state();
        let stream = Arc::make_mut(&mut state.streams[0]);
        stream.counted.clone_from(&stored);
        stream.stored = stored;
        state
    }

    fn framer() -> Framer {
        Framer::new(Statements::new(9, 86_400_000))
    }

    fn batch(count: i64) -> PassageBatch {
        let mut batch = PassageBatch::new();
        for place in 0..count {
            let event_time = EventTime::from_millis(place * 400_000);
            batch.push(&Passage {
                event_time,
                ..Passage::default()
            });
        }
        batch
    }

    #[test]
    fn a_frame_states_range_durable_mark_and_frontier() {
        let mut framer = framer();
        let state = state(SeqSet::new());
        let first = Seq::new(11).unwrap();
        let frame = framer.passages(&state, WALL, STREAM, first, batch(3));
        let open = UpFrame::open(&frame).unwrap();
        assert_eq!(open.header.range(), Some(range(11, 13)));
        assert_eq!(
            (open.header.stream, open.header.accepted_to),
            (STREAM, 1_000)
        );
        let frontier = open.header.frontier;
        assert_eq!(
            (frontier.before.as_millis(), frontier.run, frontier.counter),
            (5, 9, 1)
        );
        assert_eq!(open.message().unwrap(), Up::Passages(batch(3)));
    }

    #[test]
    fn a_unit_whose_clock_is_wrong_shows_it_and_states_by_what_it_was_told() {
        let mut state = state(SeqSet::new());
        state.oldest_uncounted = None;
        for wall_ms in [0, 1 << 42] {
            let at = Reading {
                wall: EventTime::from_millis(wall_ms),
                is_told: true,
                ..WALL
            };
            let frame = framer().heartbeat(&state, at, CameraLink::Unknown, None);
            let open = UpFrame::open(&frame).unwrap();
            let day_ago = EventTime::from_millis(200_000_000 - 86_400_000);
            assert_eq!(open.header.frontier.before, day_ago);
            assert_eq!(open.header.sent_at, at.wall);
            let Ok(Up::Heartbeat(heartbeat)) = open.message() else {
                panic!("not a heartbeat")
            };
            assert_eq!(heartbeat.clock_offset_ms, Some(wall_ms - 200_000_000));
        }
    }

    #[test]
    fn a_summary_takes_what_fits_and_claims_what_it_took() {
        let mut framer = framer();
        let entries: Vec<_> = (0..20)
            .map(|place| SummaryEntry {
                seqs: range(1 + place * 100, 100 + place * 100).into(),
                deltas: window::fold(&batch(100), |_| true),
            })
            .collect();
        let framed = framer
            .summary(&state(SeqSet::new()), WALL, STREAM, entries)
            .unwrap();
        let open = UpFrame::open(&framed.frame).unwrap();
        assert!(framed.frame.len() <= IN_FLIGHT_BYTES_MAX / 2);
        assert_eq!(framed.seqs, range(1, 1_000).into());
        assert_eq!(open.header.range(), Some(framed.claimed));
        assert!(matches!(open.message(), Ok(Up::Summary(summary)) if summary.entries.len() == 10));
        assert_eq!(
            framer.summary(&state(SeqSet::new()), WALL, STREAM, Vec::new()),
            None
        );
    }

    #[test]
    fn losses_stand_for_all_their_passages() {
        let loss = |range| Loss {
            range,
            scope: LossScope::All,
            reason: LossReason::Quota,
            event_min: None,
            event_max: None,
        };
        let losses = vec![loss(range(50, 59)), loss(range(10, 14))];
        let frame = framer()
            .losses(&state(SeqSet::new()), WALL, STREAM, losses.clone())
            .unwrap();
        let open = UpFrame::open(&frame).unwrap();
        assert_eq!((open.header.first.get(), open.header.count), (10, 15));
        assert_eq!(open.message().unwrap(), Up::Loss(Losses { losses }));
    }

    #[test]
    fn a_heartbeat_lists_what_is_held_within_the_limits_of_a_message() {
        let ragged: SeqSet = (0..200)
            .map(|hole| range(1 + hole * 4, 2 + hole * 4))
            .collect();
        let frame = framer().heartbeat(&state(ragged), WALL, CameraLink::Unknown, Some(5));
        let open = UpFrame::open(&frame).unwrap();
        assert_eq!((open.header.count, open.header.range()), (0, None));
        let Ok(Up::Heartbeat(heartbeat)) = open.message() else {
            panic!("not a heartbeat")
        };
        assert_eq!(heartbeat.held[0].released.range_count(), RANGES_MAX);
    }
}
