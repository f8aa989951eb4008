//! Motorway traffic as a camera unit sees it: an endless, seeded run of passages in order of time.
//!
//! Pure. The same profile and seed give the same passages on every machine.
//!
//! What is modelled, because windows, compression and dashboards depend on it:
//! - headways: each lane is a renewal process after Cowan's M3 (Cowan 1975, "Useful headway
//!   models"): followers keep a small headway, free vehicles have an exponential one on top; the
//!   share of free vehicles falls with the flow, exp(−b·Δ·q) (Akçelik & Chung 1994). So vehicles
//!   come in platoons;
//! - speeds, in whole 0.1 km/h as units report them: wishes per class and lane, followers at about
//!   the speed of whoever leads them, a few passages without a speed;
//! - plates of the Russian civil pattern (GOST R 50577), most of them of the home region, a few
//!   foreign, a few unread;
//! - lanes half and half in both directions, slow and heavy vehicles on the right;
//! - flow over the day with two peaks, or even.

mod plates;

use proto::limits::LANES;
use proto::passage::{Direction, Lane, SpeedLimitKmh, VehicleClass};
use proto::{EventTime, Passage, Speed};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The least headway in a platoon; shorter only where the asked flow would not fit otherwise.
const FOLLOWING_HEADWAY_S: f64 = 1.2;
/// Of the mean headway, what the following headway may take at most.
const FOLLOWING_SHARE_MAX: f64 = 0.6;
/// The `b` of exp(−b·Δ·q).
const BUNCHING: f64 = 0.6;

/// A violation is reported above the limit plus this, in 0.1 km/h (KoAP 12.9 fines from 20 km/h).
const VIOLATION_MARGIN_DECI_KMH: i32 = 200;
const SPEED_MIN_DECI_KMH: i32 = 50;
const SPEED_MAX_DECI_KMH: i32 = 2_400;

/// One passage in this many has no speed.
const NO_SPEED_ONE_IN: u32 = 300;
/// Flow by hour of the day, per thousand of the day's mean.
const HOURS: [u32; 24] = [
    330, 230, 190, 190, 270, 560, 1_050, 1_500, 1_640, 1_470, 1_300, 1_240, 1_230, 1_260, 1_330,
    1_460, 1_620, 1_730, 1_600, 1_270, 980, 770, 590, 190,
];
const HOUR_MS: i64 = 3_600_000;

/// Kinds of vehicles (numbers of FHWA's scheme F): class, share per thousand on the rightmost and
/// on the leftmost lane, mean and spread of the wished speed in 0.1 km/h.
const KINDS: [(u8, u32, u32, i32, i32); 6] = [
    (2, 520, 880, 1_020, 110),
    (3, 150, 100, 980, 110),
    (1, 5, 10, 1_080, 160),
    (4, 25, 5, 920, 70),
    (5, 110, 5, 880, 70),
    (9, 190, 0, 840, 50),
];
/// What each lane to the left adds to the wish of a car, in 0.1 km/h.
const LANE_STEP_DECI_KMH: i32 = 70;

/// How the flow runs over the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Day {
    /// The same at every hour.
    Even,
    /// Two peaks, by the hour of this offset from UTC.
    Peaks {
        /// Local time less UTC.
        utc_offset_ms: i64,
    },
}

/// The road in front of a unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Road {
    /// Passages per second over the whole road, the mean of a day. Above what vehicles could do on
    /// that many lanes (about 0.6/s each) the headways shrink instead.
    pub passages_per_s: f64,
    /// Lanes, 1 to 16; the first half approaches, the second recedes.
    pub lanes: u8,
    /// The posted limit.
    pub limit_kmh: u8,
    /// How the flow runs over the day.
    pub day: Day,
}

impl Road {
    /// A motorway of eight lanes with an even flow.
    #[must_use]
    pub const fn motorway(passages_per_s: f64) -> Self {
        Self {
            passages_per_s,
            lanes: 8,
            limit_kmh: 110,
            day: Day::Even,
        }
    }
}

/// Passages without end, in order of time.
#[derive(Debug)]
pub struct Traffic {
    random: ChaCha8Rng,
    road: Road,
    lanes: Vec<LaneState>,
}

#[derive(Debug)]
struct LaneState {
    /// When its next vehicle passes, in milliseconds; the fraction keeps the flow exact.
    next_ms: f64,
    /// Whether that vehicle follows the one before.
    follows: bool,
    leader_deci_kmh: i32,
    /// 0 is the rightmost of its direction.
    from_right: u8,
    /// Lanes of its direction.
    of: u8,
    direction: Direction,
}

impl Traffic {
    /// The traffic on a road after `start`.
    #[must_use]
    pub fn new(road: Road, seed: u64, start: EventTime) -> Self {
        let lanes = road.lanes.clamp(1, to_u8(LANES));
        let approaching = lanes.div_ceil(2);
        let mut traffic = Self {
            random: ChaCha8Rng::seed_from_u64(seed),
            road: Road { lanes, ..road },
            lanes: (0..lanes)
                .map(|lane| {
                    let (from_right, of, direction) = match lane.checked_sub(approaching) {
                        None => (lane, approaching, Direction::Approaching),
                        Some(lane) => (lane, lanes - approaching, Direction::Receding),
                    };
                    LaneState {
                        next_ms: to_f64(start.as_millis()),
                        follows: false,
                        leader_deci_kmh: 0,
                        from_right,
                        of,
                        direction,
                    }
                })
                .collect(),
        };
        // A stationary start: the first vehicle of each lane comes somewhere within a mean headway.
        for lane in 0..traffic.lanes.len() {
            let mean_ms = traffic.mean_headway_ms(traffic.lanes[lane].next_ms);
            let part: f64 = traffic.random.random();
            traffic.lanes[lane].next_ms += part * 2.0 * mean_ms;
        }
        traffic
    }

    /// When the next vehicle passes.
    #[must_use]
    pub fn next_at(&self) -> EventTime {
        EventTime::from_millis(to_i64(self.lanes[self.first_lane()].next_ms))
    }

    /// The next vehicle.
    pub fn next_passage(&mut self) -> Passage {
        let index = self.first_lane();
        let at_ms = self.lanes[index].next_ms;
        let (class, wish) = self.vehicle(index);
        let lane = &mut self.lanes[index];
        let speed = if lane.follows {
            let nearly = lane.leader_deci_kmh + self.random.random_range(-25..=15);
            wish.min(nearly)
        } else {
            wish
        }
        .clamp(SPEED_MIN_DECI_KMH, SPEED_MAX_DECI_KMH);
        lane.leader_deci_kmh = speed;
        let direction = lane.direction;
        self.advance(index);
        let has_speed = !one_in(&mut self.random, NO_SPEED_ONE_IN);
        let limit = i32::from(self.road.limit_kmh) * 10;
        Passage {
            event_time: EventTime::from_millis(to_i64(at_ms)),
            speed: u16::try_from(speed * 10)
                .ok()
                .filter(|_| has_speed)
                .and_then(Speed::from_centi_kmh),
            plate: plates::draw(&mut self.random),
            lane: Lane::new(to_u8(index)),
            direction: Some(direction),
            vehicle_class: VehicleClass::new(class),
            length: None,
            speed_limit: SpeedLimitKmh::new(self.road.limit_kmh),
            violation: has_speed && speed > limit + VIOLATION_MARGIN_DECI_KMH,
            confidence: None,
            extra: None,
        }
    }

    fn first_lane(&self) -> usize {
        let mut first = 0;
        for (index, lane) in self.lanes.iter().enumerate().skip(1) {
            if lane.next_ms < self.lanes[first].next_ms {
                first = index;
            }
        }
        first
    }

    fn mean_headway_ms(&self, at_ms: f64) -> f64 {
        let per_lane = self.road.passages_per_s / f64::from(self.road.lanes);
        let of_day = match self.road.day {
            Day::Even => 1.0,
            Day::Peaks { utc_offset_ms } => of_mean(to_i64(at_ms) + utc_offset_ms),
        };
        1_000.0 / (per_lane * of_day).max(1e-6)
    }

    /// Draws when the next vehicle of a lane comes, and whether it follows.
    fn advance(&mut self, index: usize) {
        let mean_ms = self.mean_headway_ms(self.lanes[index].next_ms);
        let following_ms = (FOLLOWING_HEADWAY_S * 1_000.0).min(mean_ms * FOLLOWING_SHARE_MAX);
        let free_share = (-BUNCHING * following_ms / mean_ms).exp();
        let follows = self.random.random::<f64>() >= free_share;
        let headway_ms = if follows {
            following_ms
        } else {
            // Mean Δ + (1/q − Δ)/α of the free ones makes 1/q over all.
            let above: f64 = 1.0 - self.random.random::<f64>();
            following_ms - above.ln() * (mean_ms - following_ms) / free_share
        };
        let lane = &mut self.lanes[index];
        lane.next_ms += headway_ms;
        lane.follows = follows;
    }

    /// Class and wished speed in 0.1 km/h.
    fn vehicle(&mut self, index: usize) -> (u8, i32) {
        let (from_right, of) = (self.lanes[index].from_right, self.lanes[index].of);
        let span = u32::from(of.max(2)) - 1;
        let left = u32::from(from_right);
        let mut draw = self.random.random_range(0..1_000_u32);
        let mut chosen = KINDS[0];
        for kind in KINDS {
            let share = (kind.1 * (span - left.min(span)) + kind.2 * left.min(span)) / span;
            if draw < share {
                chosen = kind;
                break;
            }
            draw -= share;
        }
        let (class, _, _, mean, spread) = chosen;
        let step = if class <= 3 {
            LANE_STEP_DECI_KMH * i32::from(from_right)
        } else {
            0
        };
        (class, mean + step + normal(&mut self.random, spread))
    }
}

fn one_in(random: &mut ChaCha8Rng, n: u32) -> bool {
    random.random_range(0..n) == 0
}

/// The flow at a local time over the day's mean, interpolated between the hours.
fn of_mean(local_ms: i64) -> f64 {
    let of_day = local_ms.rem_euclid(24 * HOUR_MS);
    let hour = usize::try_from(of_day / HOUR_MS).unwrap_or(0);
    let part = to_f64(of_day % HOUR_MS) / to_f64(HOUR_MS);
    let (here, there) = (
        f64::from(HOURS[hour]),
        f64::from(HOURS[(hour + 1) % HOURS.len()]),
    );
    (here + (there - here) * part) / 1_000.0
}

/// Nearly normal around 0 (the sum of four even draws), in whole units.
fn normal(random: &mut impl Rng, spread: i32) -> i32 {
    // Four draws of 0..65,536 have a standard deviation of 2 × 65,536 / √12.
    const DEVIATION: i64 = 37_837;
    let bits = random.next_u64();
    let sum: i64 = (0..4)
        .map(|word| (bits >> (16 * word) & 0xffff).cast_signed())
        .sum();
    i32::try_from((sum - 2 * 65_535) * i64::from(spread) / DEVIATION).unwrap_or(0)
}

fn to_u8(small: usize) -> u8 {
    u8::try_from(small).unwrap_or(u8::MAX)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "milliseconds since 1970 fit 52 bits"
)]
const fn to_f64(ms: i64) -> f64 {
    ms as f64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "milliseconds since 1970 fit 52 bits"
)]
const fn to_i64(ms: f64) -> i64 {
    ms as i64
}

#[cfg(test)]
mod tests;
