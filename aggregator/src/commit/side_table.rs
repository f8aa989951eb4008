//! ● A passage as the side table keeps it: JSON, in the units of the raw table. The event time stands in
//! a column of its own.
//!
//! Invariant: what is read is what was written.

use proto::passage::{
    ConfidencePermille, Direction, EventTime, Lane, LengthCm, Passage, Speed, SpeedLimitKmh,
    VehicleClass,
};
use proto::plate::{Plate, PlateText};
use serde_json::{Map, Value, json};

/// A field that Verst never writes. Its value is not quoted: it may be a plate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the field {0:?} does not hold what a passage has there")]
pub struct ForeignField(String);

/// Without the fields that the passage lacks.
#[must_use]
pub fn as_json(passage: &Passage) -> Value {
    let (plate, plate_hash) = match &passage.plate {
        Plate::Absent => (None, None),
        Plate::Text(text) => (Some(text.as_str().to_owned()), None),
        Plate::Hash(hash) => (None, Some(format!("{:016x}", u64::from_be_bytes(*hash)))),
    };
    let extra: Option<Value> = passage
        .extra
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok());
    let mut json = json!({
        "speed_ckmh": passage.speed.map(Speed::centi_kmh),
        "lane": passage.lane.map(Lane::get),
        "direction": passage.direction.map(Direction::word),
        "vehicle_class": passage.vehicle_class.map(VehicleClass::get),
        "length_cm": passage.length.map(LengthCm::get),
        "speed_limit_kmh": passage.speed_limit.map(SpeedLimitKmh::get),
        "confidence_permille": passage.confidence.map(ConfidencePermille::get),
        "violation": passage.violation,
        "plate": plate,
        "plate_hash": plate_hash,
        "extra": extra,
    });
    if let Some(fields) = json.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    json
}

/// The passage again.
///
/// # Errors
/// Names the first field that is not as [`as_json`] writes it.
pub fn from_json(
    event_time: EventTime,
    fields: &Map<String, Value>,
) -> Result<Passage, ForeignField> {
    let mut passage = Passage {
        event_time,
        ..Passage::default()
    };
    for (field, value) in fields {
        set(&mut passage, field, value).ok_or_else(|| ForeignField(field.clone()))?;
    }
    Ok(passage)
}

fn set(passage: &mut Passage, field: &str, value: &Value) -> Option<()> {
    let byte = || u8::try_from(value.as_u64()?).ok();
    let short = || u16::try_from(value.as_u64()?).ok();
    match field {
        "speed_ckmh" => passage.speed = Some(Speed::from_centi_kmh(short()?)?),
        "lane" => passage.lane = Some(Lane::new(byte()?)?),
        "direction" => passage.direction = Some(Direction::from_word(value.as_str()?)?),
        "vehicle_class" => passage.vehicle_class = Some(VehicleClass::new(byte()?)?),
        "length_cm" => passage.length = Some(LengthCm::new(short()?)?),
        "speed_limit_kmh" => passage.speed_limit = Some(SpeedLimitKmh::new(byte()?)?),
        "confidence_permille" => passage.confidence = Some(ConfidencePermille::new(short()?)?),
        "violation" => passage.violation = value.as_bool()?,
        "plate" => passage.plate = Plate::Text(PlateText::new(value.as_str()?).ok()?),
        "plate_hash" => {
            let hash = u64::from_str_radix(value.as_str()?, 16).ok()?;
            passage.plate = Plate::Hash(hash.to_be_bytes());
        }
        "extra" => passage.extra = Some(value.as_object().map(|_| value.to_string())?.into()),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plate() -> impl Strategy<Value = Plate> {
        prop_oneof![
            Just(Plate::Absent),
            Just(Plate::Text(PlateText::new("А123ВС68").unwrap())),
            any::<[u8; 8]>().prop_map(Plate::Hash),
        ]
    }

    prop_compose! {
        fn any_passage()(
            event_ms in 0i64..4_000_000_000_000,
            speed in proptest::option::of(0u16..=40_000),
            plate in plate(),
            lane in proptest::option::of(0u8..16),
            direction in proptest::option::of(0u8..10),
            class in proptest::option::of(0u8..16),
            length in proptest::option::of(0u16..=10_000),
            limit in proptest::option::of(0u8..=200),
            violation: bool,
            confidence in proptest::option::of(0u16..=1_000),
            extra in proptest::option::of("[a-z]{1,9}"),
        ) -> Passage {
            Passage {
                event_time: EventTime::from_millis(event_ms),
                speed: speed.and_then(Speed::from_centi_kmh),
                plate,
                lane: lane.and_then(Lane::new),
                direction: direction.and_then(Direction::from_code),
                vehicle_class: class.and_then(VehicleClass::new),
                length: length.and_then(LengthCm::new),
                speed_limit: limit.and_then(SpeedLimitKmh::new),
                violation,
                confidence: confidence.and_then(ConfidencePermille::new),
                extra: extra.map(|name| json!({ name: [1, null] }).to_string().into()),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(passage in any_passage()) {
            let json = as_json(&passage);
            let read = from_json(passage.event_time, json.as_object().unwrap());
            prop_assert_eq!(read, Ok(passage));
        }
    }

    #[test]
    fn what_verst_never_writes_is_refused_without_being_quoted() {
        for field in [
            "speed_ckmh",
            "lane",
            "direction",
            "plate",
            "extra",
            "colour",
        ] {
            let json = json!({ field: -7 });
            let error =
                from_json(EventTime::from_millis(0), json.as_object().unwrap()).unwrap_err();
            assert!(error.to_string().contains(field) && !error.to_string().contains("-7"));
        }
    }
}
