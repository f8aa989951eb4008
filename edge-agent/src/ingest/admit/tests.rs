use proptest::prelude::*;
use proto::Plate;
use proto::passage::{ConfidencePermille, Direction, LengthCm};
use proto::plate::PlateText;

use super::fields::FIELDS_MAX;
use super::*;

/// 2025-04-05T10:20:00Z
const NOW_MS: i64 = 1_743_848_400_000;

fn rules() -> Rules {
    Rules {
        device: DeviceId::new("KV12345").unwrap(),
        plates: PlatePolicy::Kept,
        future_ms_max: 300_000,
    }
}

fn admit(text: &str) -> Result<Admitted, ItemError> {
    Judge::new(&rules(), NOW_MS).admit(7, text)
}

/// An item with one more field.
fn with(field: &str) -> String {
    format!(r#"{{"timestamp":"2025-04-05T10:15:30Z",{field}}}"#)
}

#[test]
fn the_customers_example_is_admitted() {
    let text = r#"{"kvfv_id": "KV12345", "timestamp": "2025-04-05T10:15:30Z", "vehicle_speed": 85.2, "plate_number": "A123БВ68"}"#;
    let passage = admit(text).unwrap().passage;
    assert_eq!(passage.event_time.as_millis(), 1_743_848_130_000);
    assert_eq!(passage.speed.unwrap().centi_kmh(), 8_520);
    assert_eq!(
        passage.plate,
        Plate::Text(PlateText::new("A123БВ68").unwrap())
    );
    assert_eq!(passage.extra, None);
}

#[test]
fn all_known_fields_and_the_others_are_kept() {
    let text = with(
        r#""event_id":"e-1","lane":2,"direction":"NE","vehicle_class":5,"length_m":4.56,
           "speed_limit":90,"violation":true,"confidence":0.987,"weather":{"t":-3.5},"a\tb":[1, 2]"#,
    );
    let Admitted { passage, event_id } = admit(&text).unwrap();
    assert_eq!(passage.lane, Lane::new(2));
    assert_eq!(passage.direction, Some(Direction::NorthEast));
    assert_eq!(passage.vehicle_class, VehicleClass::new(5));
    assert_eq!(passage.length, LengthCm::new(456));
    assert_eq!(passage.speed_limit, SpeedLimitKmh::new(90));
    assert!(passage.violation);
    assert_eq!(passage.confidence, ConfidencePermille::new(987));
    assert_eq!(
        passage.extra.as_deref(),
        Some(r#"{"weather":{"t":-3.5},"a\tb":[1, 2]}"#)
    );
    assert!(event_id.is_some());
    assert_eq!(
        event_id,
        admit(&with(r#""event_id":"e\u002d1""#)).unwrap().event_id
    );
}

#[test]
fn null_is_the_same_as_absent_and_an_empty_plate_as_no_plate() {
    let all_null = with(
        r#""kvfv_id":null,"vehicle_speed":null,"plate_number":null,"event_id":null,"lane":null,
           "direction":null,"vehicle_class":null,"length_m":null,"speed_limit":null,
           "violation":null,"confidence":null"#,
    );
    let bare = admit(r#"{"timestamp":"2025-04-05T13:15:30+03:00"}"#).unwrap();
    assert_eq!(admit(&all_null).unwrap(), bare);
    assert_eq!(admit(&with(r#""plate_number":"""#)).unwrap(), bare);
    assert_eq!(bare.passage.event_time.as_millis(), 1_743_848_130_000);
}

#[test]
fn a_finer_fraction_is_cut_to_milliseconds() {
    for (fraction, ms) in [("0009", 0), ("9999999", 999), ("123456789", 123)] {
        let text = format!(r#"{{"timestamp":"2025-04-05T10:15:30.{fraction}Z"}}"#);
        let time = admit(&text).unwrap().passage.event_time;
        assert_eq!(time.as_millis(), 1_743_848_130_000 + ms);
    }
}

#[test]
fn faults_name_their_field_and_their_limit() {
    let time = |text: &str| format!(r#"{{"timestamp":"{text}"}}"#);
    for (text, field, problem) in [
        ("{}".to_owned(), "timestamp", "is missing"),
        (
            r#"{"timestamp":null}"#.to_owned(),
            "timestamp",
            "is missing",
        ),
        (
            r#"{"timestamp":1743848130}"#.to_owned(),
            "timestamp",
            "has the wrong type",
        ),
        (
            time("2025-04-05T10:15:30"),
            "timestamp",
            "is not a time with an offset from UTC",
        ),
        (
            time("yesterday"),
            "timestamp",
            "is not a time with an offset from UTC",
        ),
        (
            time("1969-12-31T23:59:59.9999Z"),
            "timestamp",
            "lies outside the years 1970 to 9999",
        ),
        (
            time("2025-04-05T10:25:01Z"),
            "timestamp",
            "lies 301 s in the future",
        ),
        (
            with(r#""kvfv_id":"KV54321""#),
            "kvfv_id",
            "is not the name of this unit",
        ),
        (with(r#""kvfv_id":12345"#), "kvfv_id", "has the wrong type"),
        (
            with(r#""vehicle_speed":-1"#),
            "vehicle_speed",
            "speed -1 km/h is below the limit of 0 km/h",
        ),
        (
            with(r#""vehicle_speed":401"#),
            "vehicle_speed",
            "speed 401 km/h is above the limit of 400 km/h",
        ),
        (
            with(r#""vehicle_speed":1e999"#),
            "vehicle_speed",
            "speed is not a number",
        ),
        (
            with(r#""vehicle_speed":"85""#),
            "vehicle_speed",
            "has the wrong type",
        ),
        (
            with(r#""plate_number":"\u0000""#),
            "plate_number",
            "number plate contains the control character '\\0'",
        ),
        (with(r#""event_id":"""#), "event_id", "has the wrong length"),
        (
            with(&format!(r#""event_id":"{}""#, "x".repeat(257))),
            "event_id",
            "has the wrong length",
        ),
        (with(r#""lane":16"#), "lane", "is out of range"),
        (with(r#""lane":1.5"#), "lane", "is out of range"),
        (with(r#""lane":true"#), "lane", "has the wrong type"),
        (with(r#""direction":"up""#), "direction", "is no direction"),
        (
            with(r#""vehicle_class":-1"#),
            "vehicle_class",
            "is out of range",
        ),
        (
            with(r#""vehicle_class":16"#),
            "vehicle_class",
            "is out of range",
        ),
        (with(r#""length_m":100.01"#), "length_m", "is out of range"),
        (with(r#""length_m":-0.001"#), "length_m", "is out of range"),
        (
            with(r#""speed_limit":201"#),
            "speed_limit",
            "is out of range",
        ),
        (with(r#""violation":1"#), "violation", "has the wrong type"),
        (with(r#""confidence":1.1"#), "confidence", "is out of range"),
    ] {
        let error = admit(&text).unwrap_err();
        assert_eq!(
            (error.field.as_deref(), error.problem.as_str()),
            (Some(field), problem),
            "{text}"
        );
        assert!(error.limit.is_some(), "{text}");
        assert_eq!(error.index, 7);
    }
}

#[test]
fn what_is_no_object_or_says_a_thing_twice_is_refused_as_a_whole() {
    for (text, problem) in [
        ("7", "invalid type: integer `7`, expected a JSON object"),
        (
            r#"{"timestamp":"a","timestamp":"b"}"#,
            "has the field \"timestamp\" twice",
        ),
        (r#"{"x":1,"\u0078":2}"#, "has the field \"x\" twice"),
        (
            r#"{"vehicle_speed":NaN}"#,
            "is not valid JSON: expected value at column 18",
        ),
        (
            "",
            "is not valid JSON: EOF while parsing a value at column 0",
        ),
    ] {
        let error = admit(text).unwrap_err();
        assert_eq!((error.field, error.problem.as_str()), (None, problem));
    }
}

#[test]
fn other_fields_that_the_database_cannot_hold_are_refused() {
    let long = "x".repeat(3_000);
    for field in [
        r#""a":"\u0000""#,
        r#""a":1e999"#,
        r#""a":"\ud800""#,
        &format!(r#""a":"{long}""#),
    ] {
        let error = admit(&with(field)).unwrap_err();
        assert_eq!(error.field.as_deref(), Some("extra"), "{field}");
        assert!(error.value.unwrap().chars().count() <= SHOWN_CHARS_MAX + 1);
    }
}

#[test]
fn values_at_their_limits_are_admitted() {
    let id = format!(r#""event_id":"{}""#, "x".repeat(256));
    for field in [
        r#""vehicle_speed":400"#,
        r#""lane":15"#,
        r#""vehicle_class":15"#,
        r#""length_m":100"#,
        r#""speed_limit":200"#,
        r#""confidence":1"#,
        &id,
    ] {
        assert!(admit(&with(field)).is_ok(), "{field}");
    }
}

#[test]
fn an_item_of_more_fields_than_allowed_is_refused() {
    let other = |fields: usize| {
        let fields: Vec<String> = (0..fields).map(|n| format!(r#""f{n}":1"#)).collect();
        admit(&with(&fields.join(",")))
    };
    // The time is one of them.
    assert!(other(FIELDS_MAX - 1).is_ok());
    let error = other(FIELDS_MAX).unwrap_err();
    assert_eq!(
        (error.field, error.problem.as_str()),
        (None, "has more than 128 fields")
    );
}

#[test]
fn a_long_value_is_cut_where_an_error_shows_it() {
    let value = |text: &str| {
        let error = admit(&with(&format!(r#""lane":"{text}""#))).unwrap_err();
        error.value.unwrap()
    };
    let whole = "x".repeat(SHOWN_CHARS_MAX - 2);
    assert_eq!(value(&whole), format!("\"{whole}\""));
    let cut = value(&"ж".repeat(3_000));
    assert_eq!(cut.chars().count(), SHOWN_CHARS_MAX + 1);
    assert!(cut.ends_with("ж…"), "{cut}");
}

#[test]
fn the_text_of_an_error_names_item_field_value_and_limit() {
    assert_eq!(
        admit(&with(r#""lane":16"#)).unwrap_err().to_string(),
        "item 7: lane 16 is out of range, allowed is a whole number from 0 to 15"
    );
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(text in ".{0,200}") {
        let _verdict = admit(&text);
    }

    #[test]
    fn speeds_keep_their_hundredths(centi in 0..=40_000_u32) {
        let text = with(&format!(r#""vehicle_speed":{}"#, f64::from(centi) / 100.0));
        let speed = admit(&text).unwrap().passage.speed.unwrap();
        prop_assert_eq!(u32::from(speed.centi_kmh()), centi);
    }
}
