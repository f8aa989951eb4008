//! The value of one known field: from its text to the system's units. Pure.

use std::borrow::Cow;

use proto::limits::{LENGTH_CM_MAX, PLATE_BYTES_MAX, SPEED_CENTI_KMH_MAX};
use proto::passage::{ConfidencePermille, Direction, LengthCm, Speed};
use proto::plate::PlateText;
use sha2::{Digest, Sha256};

use super::{EVENT_ID_BYTES_MAX, Fault, shown};
use crate::buffer::EventKey;

/// The text of one known field.
pub(super) struct Value<'a> {
    pub(super) field: &'static str,
    pub(super) text: &'a str,
}

impl<'a> Value<'a> {
    pub(super) fn fault(
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

    pub(super) fn string(&self) -> Result<Cow<'a, str>, Fault> {
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

    pub(super) fn number(&self) -> Result<f64, Fault> {
        let is_number = self
            .text
            .starts_with(|c: char| c.is_ascii_digit() || c == '-');
        let number = is_number.then(|| self.text.parse().ok()).flatten();
        number.ok_or_else(|| self.fault("has the wrong type", "a number"))
    }

    pub(super) fn boolean(&self) -> Result<bool, Fault> {
        match self.text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.fault("has the wrong type", "true or false")),
        }
    }

    /// A whole number from 0 to `max`.
    pub(super) fn small<T>(&self, new: fn(u8) -> Option<T>, max: usize) -> Result<T, Fault> {
        let limit = || format!("a whole number from 0 to {max}");
        self.number()?;
        let number = self.text.parse::<u8>().ok().and_then(new);
        number.ok_or_else(|| self.fault("is out of range", limit()))
    }
}

pub(super) fn speed(value: &Value<'_>) -> Result<Speed, Fault> {
    Speed::from_kmh(value.number()?).map_err(|error| {
        let limit = format!("0 to {} km/h", SPEED_CENTI_KMH_MAX / 100);
        value.fault(error.to_string(), limit)
    })
}

/// An empty plate is what cameras send for one that they could not read.
pub(super) fn plate_text(value: &Value<'_>) -> Result<Option<PlateText>, Fault> {
    let text = value.string()?;
    if text.is_empty() {
        return Ok(None);
    }
    let limit = || format!("1 to {PLATE_BYTES_MAX} bytes without control characters");
    PlateText::new(&text)
        .map(Some)
        .map_err(|error| value.fault(error.to_string(), limit()))
}

pub(super) fn event_key(value: &Value<'_>) -> Result<EventKey, Fault> {
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

pub(super) fn direction(value: &Value<'_>) -> Result<Direction, Fault> {
    Direction::from_word(&value.string()?).ok_or_else(|| {
        let words: Vec<_> = Direction::ALL.iter().map(|(_, word)| *word).collect();
        value.fault("is no direction", words.join(", "))
    })
}

pub(super) fn length(value: &Value<'_>) -> Result<LengthCm, Fault> {
    scaled(value.number()?, 100.0)
        .and_then(LengthCm::new)
        .ok_or_else(|| value.fault("is out of range", format!("0 to {} m", LENGTH_CM_MAX / 100)))
}

pub(super) fn confidence(value: &Value<'_>) -> Result<ConfidencePermille, Fault> {
    scaled(value.number()?, 1_000.0)
        .and_then(ConfidencePermille::new)
        .ok_or_else(|| value.fault("is out of range", "0 to 1"))
}

/// The number in finer units, rounded; none outside of 16 bits.
pub(super) fn scaled(number: f64, scale: f64) -> Option<u16> {
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
