//! The body of a `Passages` frame: one packed column per field.

use serde::{Deserialize, Serialize};

use super::{NONE_U8, NONE_U16, PassageBatch, PlateCode};
use crate::column::{Column, ColumnError};
use crate::limits::{
    BATCH_PASSAGES_MAX, BODY_BYTES_MAX, CLASSES, EVENT_MS_MAX, LANES, LENGTH_CM_MAX,
    SPEED_CENTI_KMH_MAX, SPEED_LIMIT_KMH_MAX,
};
use crate::passage::{Direction, EventTime, ExtraError, check_extra};
use crate::plate::{Civil, PlateError, PlateText};

/// The body on the wire.
#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    /// How many passages: a constant column has no length of its own, and must not fit any count.
    count: u32,
    first_event_ms: i64,
    /// Zigzag differences from one event time to the next, beginning with 0.
    event_time: Column,
    speed: Option<OptionalColumn>,
    lane: Option<OptionalColumn>,
    class: Option<OptionalColumn>,
    direction: Option<OptionalColumn>,
    length_cm: Option<OptionalColumn>,
    speed_limit: Option<OptionalColumn>,
    confidence: Option<OptionalColumn>,
    violation: Column,
    #[serde(borrow)]
    plates: Option<PlateColumns<'a>>,
    #[serde(borrow)]
    extra: Vec<(u32, &'a str)>,
}

#[derive(Serialize, Deserialize)]
struct OptionalColumn {
    /// None: every passage has the value.
    present: Option<Column>,
    values: Column,
}

#[derive(Serialize, Deserialize)]
struct PlateColumns<'a> {
    kind: Column,
    civil_body: Column,
    civil_region: Column,
    #[serde(borrow)]
    texts: Vec<&'a str>,
    hashes: &'a [u8],
}

const KIND_ABSENT: u64 = 0;
const KIND_CIVIL: u64 = 1;
const KIND_TEXT: u64 = 2;
const KIND_HASH: u64 = 3;

/// A body that is not a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The header promises more than anybody may send, or nothing.
    #[error("batch of {0} passages, allowed are 1 to {BATCH_PASSAGES_MAX}")]
    Count(usize),
    /// The header promises another number.
    #[error("batch of {body} passages where its header promises {header}")]
    Promise {
        /// What the header says.
        header: usize,
        /// What the body says.
        body: u32,
    },
    /// More bytes than anybody may send.
    #[error("batch of {0} bytes, the limit is {BODY_BYTES_MAX}")]
    TooLong(usize),
    /// Not the layout of a batch.
    #[error("batch is malformed: {0}")]
    Malformed(#[from] postcard::Error),
    /// Bytes after the end.
    #[error("batch has {0} bytes after its end")]
    TrailingBytes(usize),
    /// A column that does not hold together.
    #[error("column {column} {problem}")]
    Column {
        /// Which one.
        column: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A plate that is none.
    #[error(transparent)]
    Plate(#[from] PlateError),
    /// Unknown fields that the database could not take.
    #[error("passage at place {place}: {source}")]
    Extra {
        /// Which one, from 0.
        place: u32,
        /// Why.
        source: ExtraError,
    },
}

impl PassageBatch {
    /// The body of a frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut before = self.event_ms.first().copied().unwrap_or(0);
        let times: Vec<u64> = self
            .event_ms
            .iter()
            .map(|ms| zigzag(ms - std::mem::replace(&mut before, *ms)))
            .collect();
        let violations: Vec<u64> = self.violation.iter().map(|flag| u64::from(*flag)).collect();
        let wire = Wire {
            count: super::to_u32(self.len()),
            first_event_ms: self.event_ms.first().copied().unwrap_or(0),
            event_time: Column::pack(&times),
            speed: pack(&self.speed, NONE_U16),
            lane: pack(&self.lane, NONE_U8),
            class: pack(&self.class, NONE_U8),
            direction: pack(&self.direction, NONE_U8),
            length_cm: pack(&self.length_cm, NONE_U16),
            speed_limit: pack(&self.speed_limit, NONE_U8),
            confidence: pack(&self.confidence, NONE_U16),
            violation: Column::pack(&violations),
            plates: None,
            extra: self
                .extra
                .iter()
                .map(|(place, text)| (*place, text.as_ref()))
                .collect(),
        };
        let hashes = self.hashes();
        let wire = Wire {
            plates: self.plate_columns(&hashes),
            ..wire
        };
        postcard::to_stdvec(&wire).unwrap_or_default()
    }

    /// Reads the body of a frame whose header promises `count` passages.
    ///
    /// # Errors
    /// When it is anything else than exactly such a batch with every value in its bounds.
    pub fn decode(body: &[u8], count: usize) -> Result<Self, BatchError> {
        if count == 0 || count > BATCH_PASSAGES_MAX {
            return Err(BatchError::Count(count));
        }
        if body.len() > BODY_BYTES_MAX {
            return Err(BatchError::TooLong(body.len()));
        }
        let (wire, rest) = postcard::take_from_bytes::<Wire<'_>>(body)?;
        if !rest.is_empty() {
            return Err(BatchError::TrailingBytes(rest.len()));
        }
        if usize::try_from(wire.count) != Ok(count) {
            let (header, body) = (count, wire.count);
            return Err(BatchError::Promise { header, body });
        }
        let mut unpacker = Unpacker {
            count,
            scratch: Vec::with_capacity(count),
        };
        let (plates, plate_texts) = unpacker.plates(wire.plates.as_ref())?;
        Ok(Self {
            event_ms: unpacker.event_times(wire.first_event_ms, &wire.event_time)?,
            speed: unpacker.u16s("speed", wire.speed.as_ref(), SPEED_CENTI_KMH_MAX)?,
            lane: unpacker.u8s("lane", wire.lane.as_ref(), LANES as u64 - 1)?,
            class: unpacker.u8s("class", wire.class.as_ref(), CLASSES as u64 - 1)?,
            direction: unpacker.u8s(
                "direction",
                wire.direction.as_ref(),
                Direction::ALL.len() as u64 - 1,
            )?,
            length_cm: unpacker.u16s("length", wire.length_cm.as_ref(), LENGTH_CM_MAX)?,
            speed_limit: unpacker.u8s(
                "speed limit",
                wire.speed_limit.as_ref(),
                u64::from(SPEED_LIMIT_KMH_MAX),
            )?,
            confidence: unpacker.u16s("confidence", wire.confidence.as_ref(), 1_000)?,
            violation: unpacker
                .column("violation", &wire.violation, count, 1)?
                .iter()
                .map(|flag| *flag == 1)
                .collect(),
            plates,
            plate_texts,
            extra: unpacker.extra(&wire.extra)?,
        })
    }

    fn hashes(&self) -> Vec<u8> {
        self.plates
            .iter()
            .filter_map(|plate| {
                if let PlateCode::Hash(hash) = plate {
                    Some(*hash)
                } else {
                    None
                }
            })
            .flatten()
            .collect()
    }

    fn plate_columns<'a>(&'a self, hashes: &'a [u8]) -> Option<PlateColumns<'a>> {
        if self.plates.iter().all(|plate| *plate == PlateCode::Absent) {
            return None;
        }
        let kinds: Vec<u64> = self.plates.iter().map(|plate| plate.kind()).collect();
        let (bodies, regions): (Vec<u64>, Vec<u64>) = self
            .plates
            .iter()
            .filter_map(|plate| match plate {
                PlateCode::Civil(civil) => Some((u64::from(civil.body), u64::from(civil.region))),
                _ => None,
            })
            .unzip();
        Some(PlateColumns {
            kind: Column::pack(&kinds),
            civil_body: Column::pack(&bodies),
            civil_region: Column::pack(&regions),
            texts: self.plate_texts.iter().map(PlateText::as_str).collect(),
            hashes,
        })
    }
}

impl PlateCode {
    const fn kind(self) -> u64 {
        match self {
            Self::Absent => KIND_ABSENT,
            Self::Civil(_) => KIND_CIVIL,
            Self::Text(_) => KIND_TEXT,
            Self::Hash(_) => KIND_HASH,
        }
    }
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}

fn pack<T: Copy + PartialEq + Into<u64>>(values: &[T], none: T) -> Option<OptionalColumn> {
    let there: Vec<u64> = values
        .iter()
        .filter(|value| **value != none)
        .map(|value| (*value).into())
        .collect();
    if there.is_empty() {
        return None;
    }
    let present = (there.len() < values.len()).then(|| {
        let flags: Vec<u64> = values
            .iter()
            .map(|value| u64::from(*value != none))
            .collect();
        Column::pack(&flags)
    });
    Some(OptionalColumn {
        present,
        values: Column::pack(&there),
    })
}

/// Unpacks the columns of one batch, with one scratch buffer for all of them.
struct Unpacker {
    count: usize,
    scratch: Vec<u64>,
}

impl Unpacker {
    fn column(
        &mut self,
        name: &'static str,
        column: &Column,
        count: usize,
        max: u64,
    ) -> Result<&[u64], BatchError> {
        column
            .unpack(count, max, &mut self.scratch)
            .map_err(|error| broken(name, &error))?;
        Ok(&self.scratch)
    }

    fn event_times(&mut self, first_ms: i64, column: &Column) -> Result<Vec<i64>, BatchError> {
        let out_of_bounds = || {
            broken(
                "event time",
                &ColumnError::Value(EVENT_MS_MAX.unsigned_abs()),
            )
        };
        if !EventTime::from_millis(first_ms).is_plausible() {
            return Err(out_of_bounds());
        }
        let max_step = 2 * EVENT_MS_MAX.unsigned_abs() + 1;
        let steps = self.column("event time", column, self.count, max_step)?;
        // Each step has at most 49 bits and there are at most 4,096: no sum can overflow.
        let mut now = first_ms;
        let times: Vec<i64> = steps
            .iter()
            .map(|step| {
                now += unzigzag(*step);
                now
            })
            .collect();
        let plausible = times
            .iter()
            .all(|ms| EventTime::from_millis(*ms).is_plausible());
        if plausible {
            Ok(times)
        } else {
            Err(out_of_bounds())
        }
    }

    fn u8s(
        &mut self,
        name: &'static str,
        column: Option<&OptionalColumn>,
        max: u64,
    ) -> Result<Vec<u8>, BatchError> {
        self.optional(name, column, max, NONE_U8)
    }

    fn u16s(
        &mut self,
        name: &'static str,
        column: Option<&OptionalColumn>,
        max: u16,
    ) -> Result<Vec<u16>, BatchError> {
        self.optional(name, column, u64::from(max), NONE_U16)
    }

    fn optional<T: Copy + TryFrom<u64>>(
        &mut self,
        name: &'static str,
        column: Option<&OptionalColumn>,
        max: u64,
        none: T,
    ) -> Result<Vec<T>, BatchError> {
        let Some(column) = column else {
            return Ok(vec![none; self.count]);
        };
        let narrow = |value: &u64| T::try_from(*value).unwrap_or(none);
        let Some(present) = &column.present else {
            let values = self.column(name, &column.values, self.count, max)?;
            return Ok(values.iter().map(narrow).collect());
        };
        let present = self.column(name, present, self.count, 1)?.to_vec();
        let there = present.iter().filter(|flag| **flag == 1).count();
        let mut values = self.column(name, &column.values, there, max)?.iter();
        let value_at = |flag: &u64| {
            if *flag == 1 {
                values.next().map_or(none, narrow)
            } else {
                none
            }
        };
        Ok(present.iter().map(value_at).collect())
    }

    fn plates(
        &mut self,
        columns: Option<&PlateColumns<'_>>,
    ) -> Result<(Vec<PlateCode>, Vec<PlateText>), BatchError> {
        let Some(columns) = columns else {
            return Ok((vec![PlateCode::Absent; self.count], Vec::new()));
        };
        let kinds = self
            .column("plate kind", &columns.kind, self.count, KIND_HASH)?
            .to_vec();
        let of_kind = |wanted: u64| kinds.iter().filter(|kind| **kind == wanted).count();
        let civil = of_kind(KIND_CIVIL);
        let max_body = u64::from(Civil::BODIES) - 1;
        let bodies = self
            .column("plate", &columns.civil_body, civil, max_body)?
            .to_vec();
        let max_region = u64::from(Civil::REGIONS) - 1;
        let regions = self.column("plate region", &columns.civil_region, civil, max_region)?;
        let (hashes, torn) = columns.hashes.as_chunks::<8>();
        if columns.texts.len() != of_kind(KIND_TEXT)
            || hashes.len() != of_kind(KIND_HASH)
            || !torn.is_empty()
        {
            return Err(BatchError::Column {
                column: "plate",
                problem: "has another number of texts or hashes than its kinds say".to_owned(),
            });
        }
        let texts: Vec<PlateText> = columns
            .texts
            .iter()
            .map(|text| PlateText::new(text))
            .collect::<Result<_, _>>()?;
        let mut civils = bodies.iter().zip(regions).map(|(body, region)| {
            let body = u32::try_from(*body).unwrap_or(0);
            let region = u16::try_from(*region).unwrap_or(0);
            PlateCode::Civil(Civil { body, region })
        });
        let mut hashes = hashes.iter().map(|hash| PlateCode::Hash(*hash));
        let mut text_places = (0..).map(PlateCode::Text);
        let plates = kinds.iter().map(|kind| {
            let next = match *kind {
                KIND_CIVIL => civils.next(),
                KIND_TEXT => text_places.next(),
                KIND_HASH => hashes.next(),
                _ => None,
            };
            next.unwrap_or(PlateCode::Absent)
        });
        Ok((plates.collect(), texts))
    }

    fn extra(&self, wire: &[(u32, &str)]) -> Result<Vec<(u32, Box<str>)>, BatchError> {
        let ascending = wire.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let inside = wire
            .last()
            .is_none_or(|(place, _)| (*place as usize) < self.count);
        if !ascending || !inside {
            return Err(BatchError::Column {
                column: "extra",
                problem: "names a passage twice, out of order, or beyond the batch".to_owned(),
            });
        }
        wire.iter()
            .map(|(place, text)| {
                check_extra(text).map_err(|source| BatchError::Extra {
                    place: *place,
                    source,
                })?;
                Ok((*place, (*text).into()))
            })
            .collect()
    }
}

fn broken(column: &'static str, error: &ColumnError) -> BatchError {
    BatchError::Column {
        column,
        problem: error.to_string(),
    }
}
