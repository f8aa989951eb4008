//! Names, topics, plates and unknown fields.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::passage::{EventTime, Passage, check_extra};
use proto::plate::{Plate, PlateText};
use proto::topic::{self, Topic};
use proto::{DeviceId, PassageBatch};

fuzz_target!(|text: &str| {
    if let Some(known) = Topic::parse(text) {
        let again = match &known {
            Topic::Up(device) => topic::up(device),
            Topic::Down(device) => topic::down(device),
            Topic::Beacon(shard) => topic::beacon(*shard),
        };
        assert_eq!(again, text);
    }
    if let Ok(device) = DeviceId::new(text) {
        assert_eq!(Topic::parse(&topic::up(&device)), Some(Topic::Up(device)));
    }
    let plate = PlateText::new(text).map_or(Plate::Absent, Plate::Text);
    let extra = check_extra(text).is_ok().then(|| text.into());
    let passage = Passage {
        event_time: EventTime::from_millis(1),
        plate,
        extra,
        ..Passage::default()
    };
    let batch: PassageBatch = [passage.clone()].into_iter().collect();
    let again = PassageBatch::decode(&batch.encode(), 1).expect("readable");
    assert_eq!(again.passage(0), passage);
});
