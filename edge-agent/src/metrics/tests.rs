use proto::EventTime;

use super::*;
use crate::buffer::ForeignStore;
use crate::uplink::frames::fixtures::buffer_state;

#[test]
fn the_page_shows_what_buffer_and_uplink_published() {
    let mut state = buffer_state();
    state.counters.accepted = 41;
    state.alarms = vec![Alarm::StoreForeign(ForeignStore {
        directory: "foreign-1".into(),
        begun_for: None,
    })];
    state.counters.lost[Counters::place(LossReason::Quota)] = 7;
    let mut view = UplinkView::new(EventTime::default(), Some(EventTime::default()));
    view.tally.refused_later = 3;
    view.held = Some(Held::Hours);
    let (_buffer, buffer) = watch::channel(Arc::new(state));
    let (_uplink, uplink) = watch::channel(view);
    let (_flow, flow) = watch::channel(Flow {
        in_per_s: 2.0,
        out_per_s: 1.0,
        known: true,
        ..Flow::default()
    });
    let door = Arc::default();
    let published = Published {
        buffer,
        uplink,
        flow,
        door,
    };
    let (registry, metrics) = register(published, Histogram::new([0.1]));
    metrics.receipt_seconds.observe(0.3);
    let mut page = String::new();
    prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
    for line in [
        "verst_agent_passages_accepted_total 41",
        "verst_agent_passages_lost_total{reason=\"quota\"} 7",
        "verst_agent_passages_lost_total{reason=\"operator\"} 0",
        "verst_agent_refusals_total{class=\"later\"} 3",
        "verst_agent_commit_seconds_bucket{le=\"0.1\"} 0",
        "verst_agent_link_up 0",
        "verst_agent_buffered_drain_per_minute -60",
        "verst_agent_link_held 1",
        "verst_agent_store_healthy 1",
        "verst_agent_foreign_stores 1",
        "verst_agent_alarms 1",
        "verst_agent_receipt_seconds_bucket{le=\"0.5\"} 1",
    ] {
        assert!(
            page.lines().any(|found| found == line),
            "{line} is missing in\n{page}"
        );
    }
}
