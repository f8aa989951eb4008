//! Many passages in columns: the body of a `Passages` frame, and the form in which both sides hold
//! them.
//!
//! A column that no passage uses costs one byte. Missing values are counted apart from the values,
//! so that they cannot widen the packing of those that are there. The order of passages is kept.

mod wire;

use crate::passage::{
    ConfidencePermille, Direction, EventTime, Lane, LengthCm, Passage, Speed, SpeedLimitKmh,
    VehicleClass,
};
use crate::plate::{Civil, Plate, PlateText};

pub use wire::BatchError;

/// Stands for a missing value in a column of bytes.
pub(crate) const NONE_U8: u8 = u8::MAX;
/// Stands for a missing value in a column of 16-bit numbers.
pub(crate) const NONE_U16: u16 = u16::MAX;

/// Passages in columns, at most [`BATCH_PASSAGES_MAX`](crate::limits::BATCH_PASSAGES_MAX) of them
/// where they come from the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassageBatch {
    pub(crate) event_ms: Vec<i64>,
    pub(crate) speed: Vec<u16>,
    pub(crate) lane: Vec<u8>,
    pub(crate) class: Vec<u8>,
    pub(crate) violation: Vec<bool>,
    direction: Vec<u8>,
    length_cm: Vec<u16>,
    speed_limit: Vec<u8>,
    confidence: Vec<u16>,
    plates: Vec<PlateCode>,
    plate_texts: Vec<PlateText>,
    /// Place and text, in ascending order of place; few passages have any.
    extra: Vec<(u32, Box<str>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlateCode {
    Absent,
    Civil(Civil),
    /// A place in `plate_texts`.
    Text(u32),
    Hash([u8; 8]),
}

impl PassageBatch {
    /// No passages yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many passages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.event_ms.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.event_ms.is_empty()
    }

    /// Appends one passage.
    pub fn push(&mut self, passage: &Passage) {
        let place = to_u32(self.len());
        self.event_ms.push(passage.event_time.as_millis());
        self.speed
            .push(passage.speed.map_or(NONE_U16, Speed::centi_kmh));
        self.lane.push(passage.lane.map_or(NONE_U8, Lane::get));
        self.class
            .push(passage.vehicle_class.map_or(NONE_U8, VehicleClass::get));
        self.violation.push(passage.violation);
        self.direction
            .push(passage.direction.map_or(NONE_U8, Direction::code));
        self.length_cm
            .push(passage.length.map_or(NONE_U16, LengthCm::get));
        self.speed_limit
            .push(passage.speed_limit.map_or(NONE_U8, SpeedLimitKmh::get));
        self.confidence
            .push(passage.confidence.map_or(NONE_U16, ConfidencePermille::get));
        let plate = self.plate_code(&passage.plate);
        self.plates.push(plate);
        if let Some(extra) = &passage.extra {
            self.extra.push((place, extra.clone()));
        }
    }

    /// Appends the passages of another batch in their order.
    pub fn extend(&mut self, other: &Self) {
        let (places, texts) = (to_u32(self.len()), to_u32(self.plate_texts.len()));
        self.event_ms.extend_from_slice(&other.event_ms);
        self.speed.extend_from_slice(&other.speed);
        self.lane.extend_from_slice(&other.lane);
        self.class.extend_from_slice(&other.class);
        self.violation.extend_from_slice(&other.violation);
        self.direction.extend_from_slice(&other.direction);
        self.length_cm.extend_from_slice(&other.length_cm);
        self.speed_limit.extend_from_slice(&other.speed_limit);
        self.confidence.extend_from_slice(&other.confidence);
        self.plates
            .extend(other.plates.iter().map(|plate| match plate {
                PlateCode::Text(text) => PlateCode::Text(text + texts),
                other => *other,
            }));
        self.plate_texts.extend_from_slice(&other.plate_texts);
        self.extra.extend(
            other
                .extra
                .iter()
                .map(|(place, text)| (place + places, text.clone())),
        );
    }

    /// The event time of the passage at a place.
    ///
    /// # Panics
    /// When there is no such place.
    #[must_use]
    pub fn event_time(&self, place: usize) -> EventTime {
        EventTime::from_millis(self.event_ms[place])
    }

    /// The least and the greatest event time; none when there are no passages.
    #[must_use]
    pub fn event_span(&self) -> Option<(EventTime, EventTime)> {
        let least = *self.event_ms.iter().min()?;
        let greatest = *self.event_ms.iter().max()?;
        Some((
            EventTime::from_millis(least),
            EventTime::from_millis(greatest),
        ))
    }

    /// The passage at a place.
    ///
    /// # Panics
    /// When there is no such place.
    #[must_use]
    pub fn passage(&self, place: usize) -> Passage {
        Passage {
            event_time: self.event_time(place),
            speed: Speed::from_centi_kmh(self.speed[place]),
            plate: self.plate(place),
            lane: Lane::new(self.lane[place]),
            direction: Direction::from_code(self.direction[place]),
            vehicle_class: VehicleClass::new(self.class[place]),
            length: LengthCm::new(self.length_cm[place]),
            speed_limit: SpeedLimitKmh::new(self.speed_limit[place]),
            violation: self.violation[place],
            confidence: ConfidencePermille::new(self.confidence[place]),
            extra: self.extra_at(place).map(Into::into),
        }
    }

    /// All passages in their order.
    pub fn iter(&self) -> impl Iterator<Item = Passage> + '_ {
        (0..self.len()).map(|place| self.passage(place))
    }

    /// The plate of the passage at a place.
    ///
    /// # Panics
    /// When there is no such place.
    #[must_use]
    pub fn plate(&self, place: usize) -> Plate {
        match self.plates[place] {
            PlateCode::Absent => Plate::Absent,
            PlateCode::Civil(civil) => civil.to_text().map_or(Plate::Absent, Plate::Text),
            PlateCode::Text(text) => Plate::Text(self.plate_texts[text as usize]),
            PlateCode::Hash(hash) => Plate::Hash(hash),
        }
    }

    /// The unknown fields of the passage at a place, as JSON text.
    #[must_use]
    pub fn extra_at(&self, place: usize) -> Option<&str> {
        let place = u32::try_from(place).ok()?;
        let found = self
            .extra
            .binary_search_by_key(&place, |(at, _)| *at)
            .ok()?;
        Some(&self.extra[found].1)
    }

    fn plate_code(&mut self, plate: &Plate) -> PlateCode {
        match plate {
            Plate::Absent => PlateCode::Absent,
            Plate::Hash(hash) => PlateCode::Hash(*hash),
            Plate::Text(text) => Civil::from_text(text.as_str()).map_or_else(
                || {
                    self.plate_texts.push(*text);
                    PlateCode::Text(to_u32(self.plate_texts.len() - 1))
                },
                PlateCode::Civil,
            ),
        }
    }
}

impl FromIterator<Passage> for PassageBatch {
    fn from_iter<I: IntoIterator<Item = Passage>>(passages: I) -> Self {
        let mut batch = Self::new();
        passages
            .into_iter()
            .for_each(|passage| batch.push(&passage));
        batch
    }
}

fn to_u32(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
