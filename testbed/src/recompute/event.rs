//! ● One posted event in the customer's format, as the facts that the database must know of it.

use jiff::Timestamp;
use proto::{Passage, Plate};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Words for directions in the order of their codes in the database.
const DIRECTIONS: [&str; 10] = [
    "approaching",
    "receding",
    "N",
    "NE",
    "E",
    "SE",
    "S",
    "SW",
    "W",
    "NW",
];

/// The customer's event. Whatever is not named here is an extra field.
#[derive(Debug, Clone, Deserialize)]
pub struct Event {
    /// The unit.
    pub kvfv_id: String,
    /// RFC 3339 with offset.
    pub timestamp: String,
    /// km/h.
    pub vehicle_speed: Option<f64>,
    /// As read by the camera.
    pub plate_number: Option<String>,
    /// Makes a retried post count once; not kept.
    pub event_id: Option<String>,
    /// 0 to 15.
    pub lane: Option<u8>,
    /// One of ten words.
    pub direction: Option<String>,
    /// 0 to 15.
    pub vehicle_class: Option<u8>,
    /// Metres.
    pub length_m: Option<f64>,
    /// km/h.
    pub speed_limit: Option<u8>,
    /// Reported as a violation.
    pub violation: Option<bool>,
    /// 0 to 1.
    pub confidence: Option<f64>,
    /// All other fields.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the unit kept of a plate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlateFact {
    /// Nothing.
    Absent,
    /// As read.
    Text(String),
    /// A keyed hash.
    Hash(Vec<u8>),
}

/// What is known of one vehicle, in the units of the database. Two equal facts are two vehicles.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fact {
    /// Milliseconds since 1970, finer fractions cut.
    pub event_ms: i64,
    /// 0.01 km/h.
    pub speed_ckmh: Option<i32>,
    /// Lane.
    pub lane: Option<i16>,
    /// Code of the direction.
    pub direction: Option<i16>,
    /// Class.
    pub vehicle_class: Option<i16>,
    /// Centimetres.
    pub length_cm: Option<i16>,
    /// km/h.
    pub speed_limit_kmh: Option<i16>,
    /// Thousandths.
    pub confidence_permille: Option<i16>,
    /// Violation.
    pub violation: bool,
    /// The plate as the unit kept it.
    pub plate: PlateFact,
    /// The extra fields in one spelling, see [`canonical`].
    pub extra: Option<String>,
}

/// A line that is not an event.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Not the JSON of an event.
    #[error("not an event in the customer's format: {0}")]
    Json(#[from] serde_json::Error),
    /// Not a time.
    #[error("timestamp {text:?}: {source}")]
    Time {
        /// As posted.
        text: String,
        /// What is wrong.
        source: jiff::Error,
    },
    /// Not a direction.
    #[error("direction {0:?} is none of {DIRECTIONS:?}")]
    Direction(String),
}

impl Event {
    /// Reads one line.
    ///
    /// # Errors
    /// [`EventError::Json`].
    pub fn parse(line: &str) -> Result<Self, EventError> {
        Ok(serde_json::from_str(line)?)
    }

    /// The facts, for a unit that keeps plates as they are.
    ///
    /// # Errors
    /// A time or a direction that the agent would refuse too.
    pub fn fact(&self) -> Result<Fact, EventError> {
        let time: Timestamp = self.timestamp.parse().map_err(|source| EventError::Time {
            text: self.timestamp.clone(),
            source,
        })?;
        let direction = match &self.direction {
            None => None,
            Some(word) => {
                let code = (0..).zip(DIRECTIONS).find(|(_, known)| known == word);
                Some(code.ok_or_else(|| EventError::Direction(word.clone()))?.0)
            }
        };
        let extra = Value::Object(self.extra.clone());
        Ok(Fact {
            event_ms: time.as_millisecond(),
            speed_ckmh: self.vehicle_speed.map(|kmh| scaled(kmh, 100.0)),
            lane: self.lane.map(i16::from),
            direction,
            vehicle_class: self.vehicle_class.map(i16::from),
            length_cm: self.length_m.map(|metres| short(scaled(metres, 100.0))),
            speed_limit_kmh: self.speed_limit.map(i16::from),
            confidence_permille: self.confidence.map(|share| short(scaled(share, 1_000.0))),
            violation: self.violation.unwrap_or(false),
            // An empty plate is what cameras send for one that they could not read.
            plate: match self.plate_number.as_deref() {
                None | Some("") => PlateFact::Absent,
                Some(text) => PlateFact::Text(text.to_owned()),
            },
            extra: (!self.extra.is_empty()).then(|| canonical(&extra)),
        })
    }
}

impl From<&Passage> for Fact {
    /// What a simulated unit posts is not JSON: the facts of its passage as it was generated.
    fn from(passage: &Passage) -> Self {
        let extra = passage
            .extra
            .as_ref()
            .map(|text| serde_json::from_str(text));
        Self {
            event_ms: passage.event_time.as_millis(),
            speed_ckmh: passage.speed.map(|speed| i32::from(speed.centi_kmh())),
            lane: passage.lane.map(|lane| i16::from(lane.get())),
            direction: passage
                .direction
                .map(|direction| i16::from(direction.code())),
            vehicle_class: passage.vehicle_class.map(|class| i16::from(class.get())),
            length_cm: passage.length.map(|length| short(i32::from(length.get()))),
            speed_limit_kmh: passage.speed_limit.map(|limit| i16::from(limit.get())),
            confidence_permille: passage
                .confidence
                .map(|share| short(i32::from(share.get()))),
            violation: passage.violation,
            plate: match &passage.plate {
                Plate::Absent => PlateFact::Absent,
                Plate::Text(text) => PlateFact::Text(text.as_str().to_owned()),
                Plate::Hash(hash) => PlateFact::Hash(hash.to_vec()),
            },
            extra: extra.map(|value| canonical(&value.unwrap_or_default())),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "speeds, lengths and shares are small"
)]
fn scaled(value: f64, factor: f64) -> i32 {
    (value * factor).round() as i32
}

fn short(value: i32) -> i16 {
    i16::try_from(value).unwrap_or(i16::MAX)
}

/// JSON in one spelling: keys in order, no spaces, whole numbers without fraction. The database
/// keeps JSONB, which forgets how a number or an object was written.
#[must_use]
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| name.as_str());
            let parts: Vec<String> = sorted
                .into_iter()
                .map(|(name, item)| format!("{}:{}", Value::from(name.as_str()), canonical(item)))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => {
            let parts: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", parts.join(","))
        }
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (None, Some(real)) => real.to_string(),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_customers_event_becomes_facts_in_units_of_the_database() {
        let line = r#"{"kvfv_id":"KV12345","timestamp":"2025-04-05T13:15:30.9999+03:00",
            "vehicle_speed":85.2,"plate_number":"A123БВ68","lane":2,"direction":"NE",
            "length_m":4.57,"confidence":0.987,"camera":{"b":1.0,"a":[2,"x"]}}"#;
        let fact = Event::parse(line).expect("an event").fact().expect("facts");
        let expected = Fact {
            event_ms: 1_743_848_130_999,
            speed_ckmh: Some(8_520),
            lane: Some(2),
            direction: Some(3),
            vehicle_class: None,
            length_cm: Some(457),
            speed_limit_kmh: None,
            confidence_permille: Some(987),
            violation: false,
            plate: PlateFact::Text("A123БВ68".to_owned()),
            extra: Some(r#"{"camera":{"a":[2,"x"],"b":1}}"#.to_owned()),
        };
        assert_eq!(fact, expected);
    }

    #[test]
    fn a_missing_speed_is_not_zero() {
        let read = |speed: &str| {
            let line = format!(r#"{{"kvfv_id":"a","timestamp":"2025-04-05T10:00:00Z"{speed}}}"#);
            Event::parse(&line)
                .expect("an event")
                .fact()
                .expect("facts")
                .speed_ckmh
        };
        assert_eq!(read(""), None);
        assert_eq!(read(r#","vehicle_speed":null"#), None);
        assert_eq!(read(r#","vehicle_speed":0"#), Some(0));
    }

    #[test]
    fn what_is_no_event_is_refused_with_its_text() {
        let line = r#"{"kvfv_id":"a","timestamp":"yesterday"}"#;
        let error = Event::parse(line)
            .expect("JSON")
            .fact()
            .expect_err("no time");
        assert!(
            error.to_string().starts_with("timestamp \"yesterday\""),
            "{error}"
        );
        assert!(matches!(Event::parse("{}"), Err(EventError::Json(_))));
    }
}
