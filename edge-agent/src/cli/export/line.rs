//! A passage as a line: the fields and units in which a camera posts it ([`crate::ingest`]), and the name
//! that the centre knows it by, stream and number. A field that it lacks is left out. Pure.

use std::io::{self, Write};

use jiff::Timestamp;
use proto::DeviceId;
use proto::passage::{
    ConfidencePermille, Direction, EventTime, Lane, LengthCm, Speed, SpeedLimitKmh, VehicleClass,
};
use proto::plate::Plate;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::buffer::export::Exported;

#[derive(Serialize)]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kvfv_id: Option<&'a str>,
    stream: String,
    seq: u64,
    timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vehicle_speed: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plate_number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plate_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vehicle_class: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length_m: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed_limit: Option<u8>,
    violation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a RawValue>,
}

/// Writes the line and its end.
pub(super) fn write(out: &mut impl Write, exported: &Exported<'_>) -> io::Result<()> {
    let passage = &exported.passage;
    // A text in JSON has no line breaks; between the fields that a camera posted there may be some.
    let extra = passage.extra.as_deref();
    let extra = extra.map(|text| text.replace(['\n', '\r'], " "));
    let (plate_number, plate_hash) = match &passage.plate {
        Plate::Absent => (None, None),
        Plate::Text(text) => (Some(text.as_str()), None),
        Plate::Hash(hash) => (None, Some(format!("{:016x}", u64::from_be_bytes(*hash)))),
    };
    let line = Line {
        kvfv_id: exported.device.map(DeviceId::as_str),
        stream: exported.stream.to_string(),
        seq: exported.seq.get(),
        timestamp: timestamp(passage.event_time),
        vehicle_speed: passage.speed.map(Speed::kmh),
        plate_number,
        plate_hash,
        lane: passage.lane.map(Lane::get),
        direction: passage.direction.map(Direction::word),
        vehicle_class: passage.vehicle_class.map(VehicleClass::get),
        length_m: passage
            .length
            .map(|length: LengthCm| f64::from(length.get()) / 100.0),
        speed_limit: passage.speed_limit.map(SpeedLimitKmh::get),
        violation: passage.violation,
        confidence: passage
            .confidence
            .map(|confidence: ConfidencePermille| f64::from(confidence.get()) / 1_000.0),
        extra: extra.as_deref().map(serde_json::from_str).transpose()?,
    };
    serde_json::to_writer(&mut *out, &line)?;
    out.write_all(b"\n")
}

/// RFC 3339 in UTC, with the milliseconds.
pub(super) fn timestamp(time: EventTime) -> String {
    Timestamp::from_millisecond(time.as_millis()).map_or_else(
        |_| format!("{} ms since 1970", time.as_millis()),
        |time| format!("{time:.3}"),
    )
}

#[cfg(test)]
mod tests {
    use proto::passage::Passage;
    use proto::plate::PlateText;
    use proto::{Seq, StreamId};

    use super::*;

    fn line(device: Option<&str>, passage: Passage) -> String {
        let device = device.map(|name| DeviceId::new(name).unwrap());
        let exported = Exported {
            device: device.as_ref(),
            stream: StreamId::from_bytes([0xA5; 16]),
            seq: Seq::new(17).unwrap(),
            passage,
        };
        let mut out = Vec::new();
        write(&mut out, &exported).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_field_bears_the_name_and_the_unit_of_a_post() {
        let passage = Passage {
            event_time: EventTime::from_millis(1_743_848_130_007),
            speed: Speed::from_kmh(85.2).ok(),
            plate: Plate::Text(PlateText::new("A123БВ68").unwrap()),
            lane: Lane::new(2),
            direction: Some(Direction::NorthEast),
            vehicle_class: VehicleClass::new(3),
            length: LengthCm::new(455),
            speed_limit: SpeedLimitKmh::new(90),
            violation: true,
            confidence: ConfidencePermille::new(998),
            extra: Some(
                "{\"weather\":\"snow\\n\",\n\"sum\":1.10,\r\n \"n\":18446744073709551615}".into(),
            ),
        };
        assert_eq!(
            line(Some("KV1"), passage),
            "{\"kvfv_id\":\"KV1\",\"stream\":\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\",\"seq\":17,\
             \"timestamp\":\"2025-04-05T10:15:30.007Z\",\"vehicle_speed\":85.2,\
             \"plate_number\":\"A123БВ68\",\"lane\":2,\"direction\":\"NE\",\"vehicle_class\":3,\
             \"length_m\":4.55,\"speed_limit\":90,\"violation\":true,\"confidence\":0.998,\
             \"extra\":{\"weather\":\"snow\\n\", \"sum\":1.10,   \"n\":18446744073709551615}}\n"
        );
    }

    #[test]
    fn what_a_passage_lacks_is_left_out() {
        let passage = Passage {
            plate: Plate::Hash([0, 1, 2, 3, 4, 5, 6, 0xFF]),
            ..Passage::default()
        };
        assert_eq!(
            line(None, passage),
            "{\"stream\":\"a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5\",\"seq\":17,\
             \"timestamp\":\"1970-01-01T00:00:00.000Z\",\"plate_hash\":\"00010203040506ff\",\
             \"violation\":false}\n"
        );
    }
}
