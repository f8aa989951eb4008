//! What tests of several modules need: headers, streams, messages without a broker.

use proto::device::{DeviceId, StreamId};
use proto::frame::Up;
use proto::header::{Frontier, UpHeader};
use proto::passage::EventTime;
use proto::ranges::Seq;

use crate::intake::admit::{Door, DoorLimits};
use crate::intake::decode::{Message, decode};

/// A stream by a small number.
pub(crate) fn stream(n: u8) -> StreamId {
    StreamId::from_bytes([n; 16])
}

/// A header that states no frontier.
pub(crate) fn header(stream_number: u8, first: u64, count: u32, accepted_to: u64) -> UpHeader {
    UpHeader {
        stream: stream(stream_number),
        first: Seq::new(first).unwrap(),
        count,
        accepted_to,
        frontier: Frontier {
            before: EventTime::from_millis(0),
            run: 1,
            counter: 1,
        },
        sent_at: EventTime::from_millis(0),
    }
}

/// A message as it comes from the threads that decode.
pub(crate) fn message(device: &str, header: &UpHeader, up: &Up, raw: bool) -> Message {
    let limits = DoorLimits {
        bytes_max: 1 << 30,
        device_frames_max: 1 << 20,
        devices_max: 9,
    };
    let topic = proto::topic::up(&DeviceId::new(device).unwrap());
    let frame = Door::new(limits)
        .admit(&topic, up.encode(header).into())
        .unwrap();
    decode(frame, raw).unwrap()
}
