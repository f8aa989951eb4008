//! One item of the customer's format, judged: a passage in the system's units, or the field, the
//! value and the limit that it breaks.
//!
//! ```json
//! {"kvfv_id": "KV12345", "timestamp": "2025-04-05T10:15:30Z", "vehicle_speed": 85.2, "plate_number": "A123БВ68"}
//! ```
//! Optional besides: `event_id`, `lane`, `direction`, `vehicle_class`, `length_m`, `speed_limit`,
//! `violation`, `confidence`. All other fields are kept as they are (`extra`). `null` is the same as
//! absent. Field values are cut out as texts first, so that every fault can name its field.
//!
//! Pure.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use proto::DeviceId;
use proto::limits::{
    CLASSES, EXTRA_BYTES_MAX, LANES, LENGTH_CM_MAX, PLATE_BYTES_MAX, SPEED_CENTI_KMH_MAX,
    SPEED_LIMIT_KMH_MAX,
};
use proto::passage::{
    ConfidencePermille, Direction, EventTime, Lane, LengthCm, Passage, Speed, SpeedLimitKmh,
    VehicleClass, check_extra,
};
use proto::plate::PlateText;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::plates::{PlatePolicy, Plates};
use crate::buffer::{Admitted, EventKey};

/// Bytes of an `event_id`, at most.
pub const EVENT_ID_BYTES_MAX: usize = 256;

/// Characters of a refused value that are repeated in the answer.
const SHOWN_CHARS_MAX: usize = 64;

/// Fields of one item, at most.
const FIELDS_MAX: usize = 128;

/// What an item is judged by.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The unit's own name.
    pub device: DeviceId,
    /// What becomes of number plates.
    pub plates: PlatePolicy,
    /// How far ahead of the agent's clock an event time may lie, ms.
    pub future_ms_max: i64,
}

/// Why an item was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
pub struct ItemError {
    /// Which one, from 0.
    pub index: usize,
    /// The field at fault, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The value at fault, cut to 64 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
}

impl fmt::Display for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "item {}", self.index)?;
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        if let Some(value) = &self.value {
            write!(f, " {value}")?;
        }
        write!(f, " {}", self.problem)?;
        self.limit
            .as_ref()
            .map_or(Ok(()), |limit| write!(f, ", allowed is {limit}"))
    }
}

/// Judges the items of one request.
#[derive(Debug)]
pub struct Judge<'a> {
    rules: &'a Rules,
    now_ms: i64,
    plates: Plates<'a>,
}

/// A fault without its place in the request.
struct Fault {
    field: Option<Cow<'static, str>>,
    value: Option<String>,
    problem: Cow<'static, str>,
    limit: Option<Cow<'static, str>>,
}

impl<'a> Judge<'a> {
    /// For one request that came at `now_ms` by the agent's clock, milliseconds since 1970.
    #[must_use]
    pub fn new(rules: &'a Rules, now_ms: i64) -> Self {
        Self {
            rules,
            now_ms,
            plates: Plates::new(&rules.plates),
        }
    }

    /// Judges one item from its text.
    ///
    /// # Errors
    /// Names the first fault.
    pub fn admit(&mut self, index: usize, text: &str) -> Result<Admitted, ItemError> {
        let item = serde_json::from_str::<Fields<'_>>(text).map_err(|error| Fault {
            field: None,
            value: Some(shown(text)),
            problem: problem_of(&error).into(),
            limit: None,
        });
        let admitted = item.and_then(|fields| self.judge(&fields));
        admitted.map_err(|fault| ItemError {
            index,
            field: fault.field.map(Cow::into_owned),
            value: fault.value,
            problem: fault.problem.into_owned(),
            limit: fault.limit.map(Cow::into_owned),
        })
    }

    fn judge(&mut self, fields: &Fields<'_>) -> Result<Admitted, Fault> {
        let mut passage = Passage::default();
        let mut event_id = None;
        let mut plate = None;
        let mut extra = String::new();
        let mut timestamp = None;
        for (name, raw) in &fields.fields {
            if let Some(known) = KNOWN.iter().find(|known| **known == name.as_ref()) {
                let value = Value {
                    field: known,
                    text: raw,
                };
                if value.text == "null" {
                    continue;
                }
                match value.field {
                    "kvfv_id" => self.check_device(&value)?,
                    "timestamp" => timestamp = Some(self.event_time(&value)?),
                    "vehicle_speed" => passage.speed = Some(speed(&value)?),
                    "plate_number" => plate = plate_text(&value)?,
                    "event_id" => event_id = Some(event_key(&value)?),
                    "lane" => passage.lane = Some(value.small(Lane::new, LANES - 1)?),
                    "direction" => passage.direction = Some(direction(&value)?),
                    "vehicle_class" => {
                        passage.vehicle_class = Some(value.small(VehicleClass::new, CLASSES - 1)?);
                    }
                    "length_m" => passage.length = Some(length(&value)?),
                    "speed_limit" => {
                        let limit = value.small(SpeedLimitKmh::new, SPEED_LIMIT_KMH_MAX.into())?;
                        passage.speed_limit = Some(limit);
                    }
                    "violation" => passage.violation = value.boolean()?,
                    _ => passage.confidence = Some(confidence(&value)?),
                }
            } else {
                append_extra(&mut extra, name, raw);
            }
        }
        passage.event_time = timestamp.ok_or(Fault {
            field: Some("timestamp".into()),
            value: None,
            problem: "is missing".into(),
            limit: Some("RFC 3339 with an offset".into()),
        })?;
        if let Some(plate) = plate {
            passage.plate = self.plates.apply(plate, passage.event_time);
        }
        if !extra.is_empty() {
            extra.push('}');
            check_extra(&extra).map_err(|error| Fault {
                field: Some("extra".into()),
                value: Some(shown(&extra)),
                problem: error.to_string().into(),
                limit: Some(format!("{EXTRA_BYTES_MAX} bytes of JSON").into()),
            })?;
            passage.extra = Some(extra.into());
        }
        Ok(Admitted { passage, event_id })
    }

    fn check_device(&self, value: &Value<'_>) -> Result<(), Fault> {
        if value.string()? == self.rules.device.as_str() {
            return Ok(());
        }
        let limit = format!("{:?} or absent", self.rules.device.as_str());
        Err(value.fault("is not the name of this unit", limit))
    }

    fn event_time(&self, value: &Value<'_>) -> Result<EventTime, Fault> {
        let limit = "RFC 3339 with an offset";
        let text = value.string()?;
        let time: Timestamp = text
            .parse()
            .map_err(|_| value.fault("is not a time with an offset from UTC", limit))?;
        let ms = i64::try_from(time.as_nanosecond().div_euclid(1_000_000)).unwrap_or(i64::MAX);
        let time = EventTime::from_millis(ms);
        if !time.is_plausible() {
            return Err(value.fault("lies outside the years 1970 to 9999", limit));
        }
        let ahead_ms = ms.saturating_sub(self.now_ms);
        if ahead_ms > self.rules.future_ms_max {
            let problem = format!("lies {} s in the future", ahead_ms / 1_000);
            return Err(value.fault(problem, format!("{} s", self.rules.future_ms_max / 1_000)));
        }
        Ok(time)
    }
}

const KNOWN: [&str; 12] = [
    "kvfv_id",
    "timestamp",
    "vehicle_speed",
    "plate_number",
    "event_id",
    "lane",
    "direction",
    "vehicle_class",
    "length_m",
    "speed_limit",
    "violation",
    "confidence",
];

/// The text of one known field.
struct Value<'a> {
    field: &'static str,
    text: &'a str,
}

impl<'a> Value<'a> {
    fn fault(
        &self,
        problem: impl Into<Cow<'static, str>>,
        limit: impl Into<Cow<'static, str>>,
    ) -> Fault {
        Fault {
            field: Some(self.field.into()),
            value: Some(shown(self.text)),
            problem: problem.into(),
            limit: Some(limit.into()),
        }
    }

    fn string(&self) -> Result<Cow<'a, str>, Fault> {
        let inside = self
            .text
            .strip_prefix('"')
            .and_then(|text| text.strip_suffix('"'));
        let inside = inside.ok_or_else(|| self.fault("has the wrong type", "a string"))?;
        if !inside.contains('\\') {
            return Ok(Cow::Borrowed(inside));
        }
        serde_json::from_str(self.text)
            .map(Cow::Owned)
            .map_err(|_| self.fault("is not valid text", "a string"))
    }

    fn number(&self) -> Result<f64, Fault> {
        let is_number = self
            .text
            .starts_with(|c: char| c.is_ascii_digit() || c == '-');
        let number = is_number.then(|| self.text.parse().ok()).flatten();
        number.ok_or_else(|| self.fault("has the wrong type", "a number"))
    }

    fn boolean(&self) -> Result<bool, Fault> {
        match self.text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.fault("has the wrong type", "true or false")),
        }
    }

    /// A whole number from 0 to `max`.
    fn small<T>(&self, new: fn(u8) -> Option<T>, max: usize) -> Result<T, Fault> {
        let limit = || format!("a whole number from 0 to {max}");
        self.number()?;
        let number = self.text.parse::<u8>().ok().and_then(new);
        number.ok_or_else(|| self.fault("is out of range", limit()))
    }
}

fn speed(value: &Value<'_>) -> Result<Speed, Fault> {
    Speed::from_kmh(value.number()?).map_err(|error| {
        let limit = format!("0 to {} km/h", SPEED_CENTI_KMH_MAX / 100);
        value.fault(error.to_string(), limit)
    })
}

/// An empty plate is what cameras send for one that they could not read.
fn plate_text(value: &Value<'_>) -> Result<Option<PlateText>, Fault> {
    let text = value.string()?;
    if text.is_empty() {
        return Ok(None);
    }
    let limit = || format!("1 to {PLATE_BYTES_MAX} bytes without control characters");
    PlateText::new(&text)
        .map(Some)
        .map_err(|error| value.fault(error.to_string(), limit()))
}

fn event_key(value: &Value<'_>) -> Result<EventKey, Fault> {
    let text = value.string()?;
    if text.is_empty() || text.len() > EVENT_ID_BYTES_MAX {
        return Err(value.fault(
            "has the wrong length",
            format!("1 to {EVENT_ID_BYTES_MAX} bytes"),
        ));
    }
    let hash: [u8; 32] = Sha256::digest(text.as_bytes()).into();
    Ok(EventKey(std::array::from_fn(|place| hash[place])))
}

fn direction(value: &Value<'_>) -> Result<Direction, Fault> {
    Direction::from_word(&value.string()?).ok_or_else(|| {
        let words: Vec<_> = Direction::ALL.iter().map(|(_, word)| *word).collect();
        value.fault("is no direction", words.join(", "))
    })
}

fn length(value: &Value<'_>) -> Result<LengthCm, Fault> {
    scaled(value.number()?, 100.0)
        .and_then(LengthCm::new)
        .ok_or_else(|| value.fault("is out of range", format!("0 to {} m", LENGTH_CM_MAX / 100)))
}

fn confidence(value: &Value<'_>) -> Result<ConfidencePermille, Fault> {
    scaled(value.number()?, 1_000.0)
        .and_then(ConfidencePermille::new)
        .ok_or_else(|| value.fault("is out of range", "0 to 1"))
}

/// The number in finer units, rounded; none outside of 16 bits.
fn scaled(number: f64, scale: f64) -> Option<u16> {
    let fine = (number * scale).round();
    if !(0.0..=f64::from(u16::MAX)).contains(&fine) || number < 0.0 {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 16 bits by the check above"
    )]
    Some(fine as u16)
}

fn append_extra(extra: &mut String, name: &str, raw: &str) {
    extra.push(if extra.is_empty() { '{' } else { ',' });
    // A text always has a JSON form.
    extra.push_str(&serde_json::to_string(name).unwrap_or_default());
    extra.push(':');
    extra.push_str(raw);
}

fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

/// serde_json's own words, without "at line 1" for a text of one line.
fn problem_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let cause = text.split(" at line ").next().unwrap_or_default();
    if error.is_data() {
        cause.to_owned()
    } else {
        format!("is not valid JSON: {cause} at column {}", error.column())
    }
}

/// The fields of an item as texts, in their order, each name once.
struct Fields<'a> {
    fields: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        use serde::de::Error;
        let mut fields: Vec<(Cow<'de, str>, &'de str)> = Vec::with_capacity(8);
        while let Some(Name(name)) = map.next_key()? {
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!(
                    "has the field {:?} twice",
                    shown(&name)
                )));
            }
            if fields.len() == FIELDS_MAX {
                return Err(A::Error::custom(format!(
                    "has more than {FIELDS_MAX} fields"
                )));
            }
            fields.push((name, map.next_value::<&'de RawValue>()?.get()));
        }
        Ok(Fields { fields })
    }
}

/// A field's name, borrowed unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::Plate;

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
            (with(r#""lane":16"#), "lane", "is out of range"),
            (with(r#""lane":1.5"#), "lane", "is out of range"),
            (with(r#""lane":true"#), "lane", "has the wrong type"),
            (with(r#""direction":"up""#), "direction", "is no direction"),
            (
                with(r#""vehicle_class":-1"#),
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
}
