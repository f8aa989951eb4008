//! What waits, how fast it drains, when it will be done, and how long the buffer lasts. Pure.

use serde::{Deserialize, Serialize};

use super::rates::Flow;
use crate::buffer::BufferState;
use crate::uplink::view::{LinkPhase, UplinkView};
use proto::EventTime;

/// Seconds of traffic that are on their way to a receipt as a matter of course: not a backlog.
const USUAL_WAIT_S: f64 = 30.0;

/// Longest time that is foretold: beyond, the rates of now say nothing.
const FORETOLD_S_MAX: f64 = 366.0 * 86_400.0;

/// What waits for a receipt. Times are milliseconds since 1970 by the unit's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BufferedReport {
    /// Passages.
    pub passages: u64,
    /// Logical bytes.
    pub bytes: u64,
    /// The least event time among them.
    pub oldest_ms: Option<i64>,
    /// The greatest.
    pub newest_ms: Option<i64>,
    /// How old the oldest is.
    pub oldest_age_ms: Option<i64>,
    /// Passages whose sums wait for a receipt: their raw form was dropped or follows.
    pub summarised: u64,
    /// Passages by which it shrinks in a minute, over the last one; below 0 while it grows.
    pub drain_per_min: Option<i64>,
    /// `nothing`, `keeping_up` (no more than is on its way as a matter of course), `draining` or
    /// `held`.
    pub state: String,
    /// Why it is held.
    pub reason: Option<String>,
    /// When it is done, if it goes on so.
    pub done_at_ms: Option<i64>,
    /// Seconds until the quota is full of passages without a receipt if none leaves, at the traffic
    /// of the last day.
    pub buffer_lasts_s: Option<u64>,
}

impl BufferedReport {
    /// Of the buffer and the link as they are.
    #[must_use]
    pub fn new(now: EventTime, buffer: &BufferState, uplink: &UplinkView, flow: Flow) -> Self {
        let now_ms = now.as_millis();
        let unsent = &buffer.unsent;
        let oldest_ms = unsent.oldest.map(EventTime::as_millis);
        let passages = float(unsent.passages);
        let shrinks_per_s = flow.out_per_s - flow.in_per_s;
        let done_in_s = (flow.known && shrinks_per_s > 0.0).then(|| passages / shrinks_per_s);
        let why_held = held(uplink, flow, done_in_s);
        let (state, reason) = if unsent.passages == 0 {
            ("nothing", None)
        } else if uplink.phase.is_up() && passages <= flow.in_per_s * USUAL_WAIT_S {
            ("keeping_up", None)
        } else if why_held.is_none() {
            ("draining", None)
        } else {
            ("held", why_held)
        };
        let done_in_s = done_in_s.filter(|_| state == "draining");
        let done_in_s = done_in_s.and_then(whole_seconds);
        let in_ms = |s: u64| now_ms + i64::try_from(s).unwrap_or(i64::MAX / 1_000) * 1_000;
        Self {
            passages: unsent.passages,
            bytes: unsent.bytes,
            oldest_ms,
            newest_ms: unsent.newest.map(EventTime::as_millis),
            oldest_age_ms: oldest_ms.map(|oldest| now_ms.saturating_sub(oldest)),
            summarised: buffer.summarised,
            drain_per_min: flow.drain_per_min(),
            state: state.to_owned(),
            reason,
            done_at_ms: done_in_s.map(in_ms),
            buffer_lasts_s: lasts_s(buffer, flow),
        }
    }
}

/// Why what waits does not become less.
fn held(uplink: &UplinkView, flow: Flow, done_in_s: Option<f64>) -> Option<String> {
    if uplink.phase != LinkPhase::Up {
        let why = uplink.reason.as_deref().unwrap_or("not connected yet");
        return Some(format!("link is {}: {why}", uplink.phase.word()));
    }
    if let Some(held) = uplink.held {
        return Some(held.words().to_owned());
    }
    let why = match done_in_s {
        Some(_) => return None,
        None if !flow.known => "not known yet: the agent has just started",
        None if flow.out_per_s > 0.0 => "as much comes in as the link takes",
        None => "no receipt came in the last minute",
    };
    Some(why.to_owned())
}

fn lasts_s(buffer: &BufferState, flow: Flow) -> Option<u64> {
    let (bytes, passages) = if buffer.unsent.passages > 0 {
        (buffer.unsent.bytes, buffer.unsent.passages)
    } else {
        let held = buffer.streams.iter().map(|stream| stream.held.count());
        (buffer.held_bytes, held.sum())
    };
    let room = buffer.disk.quota_bytes.saturating_sub(buffer.unsent.bytes);
    let per_s = flow.usual_in_per_s * float(bytes) / float(passages);
    // Nothing was ever held, or nothing comes in: no number is a number.
    whole_seconds(float(room) / per_s)
}

fn whole_seconds(seconds: f64) -> Option<u64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within a year, and not below 0"
    )]
    (0.0..FORETOLD_S_MAX)
        .contains(&seconds)
        .then_some(seconds as u64)
}

#[expect(clippy::cast_precision_loss, reason = "for a forecast")]
const fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::allowance::Held;
    use crate::uplink::frames::fixtures::buffer_state;

    const NOW: EventTime = EventTime::from_millis(1_743_850_530_000);

    fn buffer(passages: u64) -> BufferState {
        let mut buffer = buffer_state();
        buffer.unsent.passages = passages;
        buffer.unsent.bytes = passages * 20;
        buffer.disk.quota_bytes = 1_000_000 + buffer.unsent.bytes;
        buffer
    }

    fn up() -> UplinkView {
        let mut view = UplinkView::new(NOW, None);
        view.phase = LinkPhase::Up;
        view
    }

    fn flow(in_per_s: f64, out_per_s: f64) -> Flow {
        Flow {
            in_per_s,
            out_per_s,
            usual_in_per_s: 5.0,
            known: true,
        }
    }

    #[test]
    fn a_backlog_that_drains_is_done_at_a_time() {
        let report = BufferedReport::new(NOW, &buffer(60_000), &up(), flow(10.0, 110.0));
        assert_eq!(report.state, "draining");
        assert_eq!(report.drain_per_min, Some(6_000));
        assert_eq!(report.done_at_ms, Some(NOW.as_millis() + 600_000));
        assert_eq!(
            report.buffer_lasts_s,
            Some(10_000),
            "50,000 passages at 5 a second"
        );
    }

    #[test]
    fn the_end_of_a_backlog_is_foretold_for_a_year() {
        for (days, foretold) in [(360.0, true), (370.0, false)] {
            let out_per_s = 10.0 + 60_000.0 / (days * 86_400.0);
            let report = BufferedReport::new(NOW, &buffer(60_000), &up(), flow(10.0, out_per_s));
            assert_eq!(report.state, "draining");
            assert_eq!(report.done_at_ms.is_some(), foretold, "{days} days");
        }
    }

    #[test]
    fn one_that_does_not_says_why() {
        type Spoil = fn(&mut UplinkView, &mut Flow);
        let table: [(Spoil, &str); 5] = [
            (
                |v, _| v.phase = LinkPhase::Down,
                "link is down: not connected yet",
            ),
            (
                |v, _| v.held = Some(Held::Hours),
                "outside uplink.backlog_hours",
            ),
            (
                |_, f| f.known = false,
                "not known yet: the agent has just started",
            ),
            (
                |_, f| f.out_per_s = 10.0,
                "as much comes in as the link takes",
            ),
            (
                |_, f| f.out_per_s = 0.0,
                "no receipt came in the last minute",
            ),
        ];
        for (spoil, reason) in table {
            let (mut view, mut flow) = (up(), flow(10.0, 110.0));
            spoil(&mut view, &mut flow);
            let report = BufferedReport::new(NOW, &buffer(60_000), &view, flow);
            assert_eq!(
                (report.state.as_str(), report.reason.as_deref()),
                ("held", Some(reason))
            );
            assert_eq!(report.done_at_ms, None);
        }
    }

    #[test]
    fn what_is_on_its_way_as_a_matter_of_course_is_no_backlog() {
        let report = BufferedReport::new(NOW, &buffer(300), &up(), flow(10.0, 10.0));
        assert_eq!((report.state.as_str(), report.reason), ("keeping_up", None));
        let report = BufferedReport::new(NOW, &buffer(0), &up(), Flow::default());
        assert_eq!(
            (report.state.as_str(), report.buffer_lasts_s),
            ("nothing", None)
        );
    }
}
