//! One vehicle passing at one event time, in the units that the whole system uses.

use serde::{Deserialize, Serialize};

use crate::limits::{
    CLASSES, EVENT_MS_MAX, LANES, LENGTH_CM_MAX, SPEED_CENTI_KMH_MAX, SPEED_LIMIT_KMH_MAX,
};
use crate::plate::Plate;

/// When it happened by the unit's clock: whole milliseconds since 1970-01-01T00:00:00Z.
/// Never the time of arrival.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct EventTime(i64);

impl EventTime {
    /// Any count of milliseconds. Whether a passage may bear it is [`EventTime::is_plausible`].
    #[must_use]
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Within the years 1970 to 9999, which every party can represent.
    #[must_use]
    pub const fn is_plausible(self) -> bool {
        0 <= self.0 && self.0 <= EVENT_MS_MAX
    }
}

/// Speed of a vehicle in whole 0.01 km/h, from 0 to 400 km/h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Speed(u16);

/// A speed that no road vehicle has.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SpeedError {
    /// NaN or infinite.
    #[error("speed is not a number")]
    NotANumber,
    /// Below zero.
    #[error("speed {0} km/h is below the limit of 0 km/h")]
    Negative(f64),
    /// Above 400 km/h.
    #[error("speed {0} km/h is above the limit of 400 km/h")]
    TooHigh(f64),
}

impl Speed {
    /// From km/h, rounded to the nearest 0.01 km/h.
    ///
    /// # Errors
    /// When it is not a number, negative, or above 400 km/h.
    pub fn from_kmh(kmh: f64) -> Result<Self, SpeedError> {
        if !kmh.is_finite() {
            return Err(SpeedError::NotANumber);
        }
        if kmh < 0.0 {
            return Err(SpeedError::Negative(kmh));
        }
        let centi = (kmh * 100.0).round();
        if centi > f64::from(SPEED_CENTI_KMH_MAX) {
            return Err(SpeedError::TooHigh(kmh));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within 0 to 40,000 by the checks above"
        )]
        Ok(Self(centi as u16))
    }

    /// From 0.01 km/h; none above 400 km/h.
    #[must_use]
    pub const fn from_centi_kmh(centi_kmh: u16) -> Option<Self> {
        if centi_kmh <= SPEED_CENTI_KMH_MAX {
            Some(Self(centi_kmh))
        } else {
            None
        }
    }

    /// In 0.01 km/h.
    #[must_use]
    pub const fn centi_kmh(self) -> u16 {
        self.0
    }

    /// In km/h.
    #[must_use]
    pub fn kmh(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl TryFrom<u16> for Speed {
    type Error = SpeedError;
    fn try_from(centi_kmh: u16) -> Result<Self, SpeedError> {
        Self::from_centi_kmh(centi_kmh).ok_or(SpeedError::TooHigh(f64::from(centi_kmh) / 100.0))
    }
}

impl From<Speed> for u16 {
    fn from(speed: Speed) -> Self {
        speed.0
    }
}

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident($inner:ty) <= $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($inner);

        impl $name {
            /// None above the limit.
            #[must_use]
            pub const fn new(value: $inner) -> Option<Self> {
                if value <= $max { Some(Self(value)) } else { None }
            }

            /// The plain number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }
    };
}

#[expect(clippy::cast_possible_truncation, reason = "constants of 16")]
const LANE_MAX: u8 = LANES as u8 - 1;
#[expect(clippy::cast_possible_truncation, reason = "constants of 16")]
const CLASS_MAX: u8 = CLASSES as u8 - 1;

bounded! {
    /// A lane, 0 to 15, as the unit numbers them.
    Lane(u8) <= LANE_MAX
}
bounded! {
    /// A vehicle class, 0 to 15, as the unit classifies (FHWA's 13 classes fit).
    VehicleClass(u8) <= CLASS_MAX
}
bounded! {
    /// Length of a vehicle in cm, up to 100 m.
    LengthCm(u16) <= LENGTH_CM_MAX
}
bounded! {
    /// The posted limit in km/h, up to 200.
    SpeedLimitKmh(u8) <= SPEED_LIMIT_KMH_MAX
}
bounded! {
    /// How sure the unit is of its reading, in thousandths.
    ConfidencePermille(u16) <= 1_000
}

/// Which way the vehicle went: relative to the camera, or by compass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// Towards the camera.
    Approaching = 0,
    /// Away from the camera.
    Receding = 1,
    /// Northbound, and so on clockwise.
    North = 2,
    /// North-east.
    NorthEast = 3,
    /// East.
    East = 4,
    /// South-east.
    SouthEast = 5,
    /// South.
    South = 6,
    /// South-west.
    SouthWest = 7,
    /// West.
    West = 8,
    /// North-west.
    NorthWest = 9,
}

impl Direction {
    /// Each direction with the word for it in input, database and answers; the place is its code.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::Approaching, "approaching"),
        (Self::Receding, "receding"),
        (Self::North, "N"),
        (Self::NorthEast, "NE"),
        (Self::East, "E"),
        (Self::SouthEast, "SE"),
        (Self::South, "S"),
        (Self::SouthWest, "SW"),
        (Self::West, "W"),
        (Self::NorthWest, "NW"),
    ];

    /// The direction of a code on the wire.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL
            .get(usize::from(code))
            .map(|(direction, _)| *direction)
    }

    /// Its code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The direction of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(direction, _)| *direction)
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::ALL[usize::from(self.code())].1
    }
}

/// One vehicle passing a unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Passage {
    /// When, by the unit's clock.
    pub event_time: EventTime,
    /// How fast; a missing speed is a missing speed, not 0.
    pub speed: Option<Speed>,
    /// Who; kept, hashed or dropped before it ever reached the disk.
    pub plate: Plate,
    /// Where on the road.
    pub lane: Option<Lane>,
    /// Which way.
    pub direction: Option<Direction>,
    /// What kind of vehicle.
    pub vehicle_class: Option<VehicleClass>,
    /// How long it is.
    pub length: Option<LengthCm>,
    /// The limit in force.
    pub speed_limit: Option<SpeedLimitKmh>,
    /// Whether the unit reported a violation.
    pub violation: bool,
    /// How sure the unit is.
    pub confidence: Option<ConfidencePermille>,
    /// All other fields as one JSON object, checked by [`crate::passage::check_extra`].
    pub extra: Option<Box<str>>,
}

pub use extra::{ExtraError, check_extra};

mod extra {
    use serde_json::Value;

    use crate::limits::{EXTRA_BYTES_MAX, EXTRA_DEPTH_MAX};

    /// Unknown fields that a JSONB column could not take.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    pub enum ExtraError {
        /// More than 2 KiB.
        #[error("the other fields take {0} bytes, the limit is {EXTRA_BYTES_MAX}")]
        TooLong(usize),
        /// Not JSON, or JSON that PostgreSQL refuses: lone surrogates, numbers beyond a double.
        #[error("the other fields are not valid JSON: {0}")]
        NotJson(String),
        /// JSON, but not an object.
        #[error("the other fields are not a JSON object")]
        NotAnObject,
        /// `\u0000`, which PostgreSQL's text cannot hold.
        #[error("the other fields contain the character U+0000, which the database cannot hold")]
        Nul,
        /// Too deeply nested.
        #[error("the other fields are nested deeper than {EXTRA_DEPTH_MAX} levels")]
        TooDeep,
    }

    /// Whether the database can take this text as a JSONB object.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn check_extra(text: &str) -> Result<(), ExtraError> {
        if text.len() > EXTRA_BYTES_MAX {
            return Err(ExtraError::TooLong(text.len()));
        }
        let value: Value =
            serde_json::from_str(text).map_err(|error| ExtraError::NotJson(error.to_string()))?;
        if !value.is_object() {
            return Err(ExtraError::NotAnObject);
        }
        check_value(&value, 1)
    }

    fn check_value(value: &Value, depth: usize) -> Result<(), ExtraError> {
        if depth > EXTRA_DEPTH_MAX {
            return Err(ExtraError::TooDeep);
        }
        match value {
            Value::String(text) if text.contains('\0') => Err(ExtraError::Nul),
            Value::Array(items) => items
                .iter()
                .try_for_each(|item| check_value(item, depth + 1)),
            Value::Object(fields) => fields.iter().try_for_each(|(name, item)| {
                if name.contains('\0') {
                    return Err(ExtraError::Nul);
                }
                check_value(item, depth + 1)
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_are_rounded_to_the_nearest_hundredth() {
        assert_eq!(Speed::from_kmh(85.2).unwrap().centi_kmh(), 8_520);
        assert_eq!(Speed::from_kmh(0.0).unwrap().centi_kmh(), 0);
        assert_eq!(Speed::from_kmh(400.0).unwrap().centi_kmh(), 40_000);
        assert_eq!(
            Speed::from_kmh(400.01).unwrap_err(),
            SpeedError::TooHigh(400.01)
        );
        assert_eq!(
            Speed::from_kmh(-0.1).unwrap_err(),
            SpeedError::Negative(-0.1)
        );
        assert_eq!(
            Speed::from_kmh(f64::NAN).unwrap_err(),
            SpeedError::NotANumber
        );
    }

    #[test]
    fn each_direction_survives_its_code_and_its_word() {
        for (place, (direction, word)) in Direction::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(direction.code()), place);
            assert_eq!(Direction::from_code(direction.code()), Some(direction));
            assert_eq!(Direction::from_word(word), Some(direction));
        }
    }

    #[test]
    fn extra_fields_that_jsonb_cannot_hold_are_refused() {
        assert_eq!(check_extra(r#"{"a":[1,{"b":"c"}]}"#), Ok(()));
        assert_eq!(check_extra(r#"{"a":"\u0000"}"#), Err(ExtraError::Nul));
        assert_eq!(check_extra(r#"{"\u0000":1}"#), Err(ExtraError::Nul));
        assert_eq!(check_extra("[1]"), Err(ExtraError::NotAnObject));
        assert!(matches!(
            check_extra(r#"{"a":1e999}"#),
            Err(ExtraError::NotJson(_))
        ));
        assert!(matches!(
            check_extra(r#"{"a":"\ud800"}"#),
            Err(ExtraError::NotJson(_))
        ));
        // The object is a level, and so is what is in the innermost list.
        let deep = |lists: usize| format!("{{\"a\":{}1{}}}", "[".repeat(lists), "]".repeat(lists));
        assert_eq!(check_extra(&deep(14)), Ok(()));
        assert_eq!(check_extra(&deep(15)), Err(ExtraError::TooDeep));
        let full = format!("{{\"a\":\"{}\"}}", "x".repeat(EXTRA_LONG - 8));
        assert_eq!((full.len(), check_extra(&full)), (EXTRA_LONG, Ok(())));
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(EXTRA_LONG));
        assert!(matches!(check_extra(&long), Err(ExtraError::TooLong(_))));
    }

    const EXTRA_LONG: usize = crate::limits::EXTRA_BYTES_MAX;
}
