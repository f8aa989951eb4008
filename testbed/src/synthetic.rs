//! ● A file in the customer's format with everything that real units do to a pipeline.
//!
//! Real motorway traffic from [`crate::fleet::traffic`], then what the field adds: whole seconds,
//! steps back in time, exact repetitions that are separate vehicles, speeds of 0, missing speeds,
//! fields that nobody knows, foreign time zones, and stretches that arrive hours late.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use proto::{EventTime, Passage, Plate};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

use crate::fleet::traffic::{Road, Traffic};

/// Moscow.
const LOCAL_OFFSET_HOURS: i8 = 3;
/// One in so many passages is repeated to the letter.
const REPEATED_ONE_IN: u32 = 40;
/// One in so many stands before its predecessor in time.
const STEP_BACK_ONE_IN: u32 = 25;
/// One in so many has the speed 0.
const STANDING_ONE_IN: u32 = 50;
/// One in so many brings fields of its own.
const EXTRA_ONE_IN: u32 = 15;
/// A step back is at most this long.
const STEP_BACK_MS_MAX: i64 = 90_000;
/// The passages of this share of the time, per thousand, arrive at the very end.
const LATE_PERMILLE: usize = 150;

/// What to generate for one unit.
#[derive(Debug, Clone)]
pub struct Synthetic {
    /// The unit.
    pub device: String,
    /// How many passages, repetitions not counted.
    pub passages: usize,
    /// Time of the first.
    pub start_ms: i64,
    /// Passages per second, in the mean.
    pub passages_per_s: f64,
    /// The same seed gives the same file.
    pub seed: u64,
    /// Whether each passage bears an `event_id`; repetitions bear none, they are other vehicles.
    pub event_ids: bool,
}

impl Synthetic {
    /// The lines, in the order of arrival.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ 0x5eed);
        let start = EventTime::from_millis(self.start_ms);
        let mut traffic = Traffic::new(Road::motorway(self.passages_per_s), self.seed, start);
        let mut lines = Vec::with_capacity(self.passages + self.passages / 30);
        for number in 0..self.passages {
            let mut event = customer_event(&self.device, &traffic.next_passage(), &mut random);
            if one_in(&mut random, STANDING_ONE_IN) {
                event.insert("vehicle_speed".to_owned(), json!(0));
            }
            if one_in(&mut random, EXTRA_ONE_IN) {
                event.insert(
                    "camera".to_owned(),
                    json!({"exposure_ms": 1.25, "mode": "ночь"}),
                );
                event.insert("frame".to_owned(), json!(number));
            }
            if !self.event_ids && one_in(&mut random, REPEATED_ONE_IN) {
                lines.push(Value::Object(event.clone()).to_string());
            }
            if self.event_ids {
                let id = format!("{}-{}-{number}", self.device, self.seed);
                event.insert("event_id".to_owned(), json!(id));
            }
            lines.push(Value::Object(event).to_string());
        }
        // A stretch from the middle comes last, hours after its neighbours.
        let late = lines.len() * LATE_PERMILLE / 1_000;
        let from = lines.len() / 3;
        let stretch: Vec<String> = lines.drain(from..from + late).collect();
        lines.extend(stretch);
        lines
    }
}

/// A passage as the camera's software would post it.
#[must_use]
pub fn customer_event(
    device: &str,
    passage: &Passage,
    random: &mut ChaCha8Rng,
) -> Map<String, Value> {
    let mut event = Map::new();
    let mut put = |name: &str, value: Value| {
        event.insert(name.to_owned(), value);
    };
    put("kvfv_id", json!(device));
    put("timestamp", json!(timestamp(passage.event_time, random)));
    if let Some(speed) = passage.speed {
        put("vehicle_speed", json!(speed.kmh()));
    }
    if let Plate::Text(text) = &passage.plate {
        put("plate_number", json!(text.as_str()));
    }
    if let Some(lane) = passage.lane {
        put("lane", json!(lane.get()));
    }
    if let Some(direction) = passage.direction {
        put("direction", json!(direction.word()));
    }
    if let Some(class) = passage.vehicle_class {
        put("vehicle_class", json!(class.get()));
    }
    if let Some(limit) = passage.speed_limit {
        put("speed_limit", json!(limit.get()));
    }
    if passage.violation {
        put("violation", json!(true));
    }
    event
}

/// RFC 3339 in UTC with milliseconds, in local time with microseconds, or whole seconds a while ago.
fn timestamp(time: EventTime, random: &mut ChaCha8Rng) -> String {
    let at = Timestamp::from_millisecond(time.as_millis()).unwrap_or_default();
    if one_in(random, STEP_BACK_ONE_IN) {
        let back = random.random_range(0..STEP_BACK_MS_MAX);
        let earlier = time.as_millis().saturating_sub(back).max(0) / 1_000;
        return Timestamp::from_second(earlier)
            .unwrap_or_default()
            .to_string();
    }
    if random.random() {
        return at.to_string();
    }
    let local = at.to_zoned(TimeZone::fixed(Offset::constant(LOCAL_OFFSET_HOURS)));
    local.strftime("%Y-%m-%dT%H:%M:%S.%6f%:z").to_string()
}

fn one_in(random: &mut ChaCha8Rng, count: u32) -> bool {
    random.random_range(0..count) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recompute::event::{Event, PlateFact};

    #[test]
    fn the_file_holds_every_oddity_that_it_promises() {
        let synthetic = Synthetic {
            device: "KV1".to_owned(),
            passages: 4_000,
            start_ms: 1_750_000_000_000,
            passages_per_s: 0.2,
            seed: 7,
            event_ids: false,
        };
        let lines = synthetic.lines();
        assert_eq!(lines, synthetic.lines(), "the seed decides all");
        assert!(
            lines.windows(2).any(|pair| pair[0] == pair[1]),
            "repetitions"
        );
        let facts: Vec<_> = lines
            .iter()
            .map(|line| Event::parse(line).expect("an event").fact().expect("facts"))
            .collect();
        let latest = facts.iter().map(|fact| fact.event_ms).max().expect("some");
        let last = facts.last().expect("some").event_ms;
        assert!(latest - last > 2 * 3_600_000, "hours late");
        assert!(
            facts
                .windows(2)
                .any(|pair| pair[1].event_ms < pair[0].event_ms),
            "steps back"
        );
        assert!(
            facts.iter().any(|fact| fact.speed_ckmh.is_none()),
            "missing speeds"
        );
        assert!(
            facts.iter().any(|fact| fact.speed_ckmh == Some(0)),
            "zero speeds"
        );
        assert!(
            facts.iter().any(|fact| fact.speed_ckmh > Some(11_000)),
            "motorway speeds"
        );
        assert!(facts.iter().any(|fact| fact.extra.is_some()), "extras");
        let civil = |fact: &crate::recompute::Fact| match &fact.plate {
            PlateFact::Text(text) => text.chars().count() == 9,
            _ => false,
        };
        assert!(
            facts.iter().filter(|fact| civil(fact)).count() > 1_000,
            "civil plates"
        );
        assert!(
            lines.iter().any(|line| line.contains("+03:00")),
            "local time"
        );
    }
}
