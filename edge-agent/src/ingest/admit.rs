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
mod tests;
