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

mod fields;
mod values;

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use proto::DeviceId;
use proto::limits::{CLASSES, EXTRA_BYTES_MAX, LANES, SPEED_LIMIT_KMH_MAX};
use proto::passage::{EventTime, Lane, Passage, SpeedLimitKmh, VehicleClass, check_extra};
use serde::Serialize;

use self::fields::Fields;
use self::values::{Value, confidence, direction, event_key, length, plate_text, speed};
use super::plates::{PlatePolicy, Plates};
use crate::buffer::Admitted;

/// Bytes of an `event_id`, at most.
pub const EVENT_ID_BYTES_MAX: usize = 256;

/// Characters of a refused value that are repeated in the answer.
const SHOWN_CHARS_MAX: usize = 64;

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

#[cfg(test)]
mod tests;
