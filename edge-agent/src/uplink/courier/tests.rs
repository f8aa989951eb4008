use proto::frame::UpFrame;
use proto::receipt::{Centre, Receipt};
use proto::{CentreId, EventTime};

use super::*;
use crate::buffer::QuotaPolicy;
use crate::buffer::model::settings;
use crate::uplink::backoff::Jitter;
use crate::uplink::frontier::Statements;
use crate::uplink::machine::tests::PACE;

const AT: EventTime = EventTime::from_millis(1_743_848_130_000);

/// What is passed on of what the centre corrects.
fn told(courier: &mut Courier, correction: Option<Correction>) -> Vec<Option<EventTime>> {
    let centre = Centre {
        id: CentreId::from_bytes([1; 16]),
        timeline: 1,
    };
    let receipt = Receipt {
        centre,
        streams: Vec::new(),
        correction,
    };
    courier.feed(0, Input::Receipt(receipt));
    let errands = std::iter::from_fn(|| courier.next(Reading::right(AT)));
    let corrected = errands.filter_map(|errand| match errand {
        Errand::Corrected(told) => Some(told),
        _ => None,
    });
    corrected.collect()
}

/// The run that a heartbeat states.
fn stated(courier: &mut Courier) -> u32 {
    courier.heartbeat(Reading::right(AT), CameraLink::Unknown, None);
    let Some(Errand::Hand { frame, .. }) = courier.next(Reading::right(AT)) else {
        panic!("no frame")
    };
    UpFrame::open(&frame).unwrap().header.frontier.run
}

#[test]
fn a_correction_is_passed_on_and_what_is_stated_next_goes_above_the_run_that_the_centre_knows() {
    let directory = tempfile::tempdir().unwrap();
    let settings = settings(directory.path(), 1 << 20, QuotaPolicy::DropOldest);
    let (buffer, owner) = Buffer::open(&settings).unwrap();
    let machine = Machine::new(PACE, None, Jitter::new(1));
    let framer = Framer::new(Statements::new(7, 0));
    let mut courier = Courier::new(machine, framer, buffer);
    assert_eq!(stated(&mut courier), 7);
    let known = Correction {
        at: AT,
        run: 2_500_000_000,
        counter: 9,
    };
    assert_eq!(told(&mut courier, Some(known)), [Some(AT)]);
    assert_eq!(stated(&mut courier), 2_500_000_001);
    assert_eq!(told(&mut courier, None), [None]);
    assert_eq!(told(&mut courier, None), []);
    assert_eq!(stated(&mut courier), 2_500_000_001);
    drop(courier);
    owner.run();
}
