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

use proto::limits::LANES;
use proto::passage::{Direction, Lane, SpeedLimitKmh, VehicleClass};
use proto::plate::PlateText;
use proto::{EventTime, Passage, Plate, Speed};
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
/// One plate in this many is not read.
const NO_PLATE_ONE_IN: u32 = 60;
/// One plate in this many is not of the civil pattern.
const FOREIGN_PLATE_ONE_IN: u32 = 50;

const LETTERS: [char; 12] = ['А', 'В', 'Е', 'К', 'М', 'Н', 'О', 'Р', 'С', 'Т', 'У', 'Х'];

/// Region codes seen from a motorway near Moscow, with how often per thousand; the rest is spread
/// over all two-digit codes.
const REGIONS: [(u16, u32); 24] = [
    (50, 105),
    (150, 85),
    (190, 75),
    (750, 55),
    (77, 80),
    (99, 55),
    (97, 50),
    (177, 65),
    (197, 55),
    (199, 50),
    (777, 45),
    (799, 40),
    (40, 25),
    (71, 25),
    (69, 20),
    (33, 20),
    (62, 15),
    (76, 15),
    (67, 15),
    (32, 12),
    (57, 10),
    (36, 10),
    (52, 10),
    (78, 13),
];
const REGION_CODES: u16 = 95;

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
        let has_speed = !self.one_in(NO_SPEED_ONE_IN);
        let limit = i32::from(self.road.limit_kmh) * 10;
        Passage {
            event_time: EventTime::from_millis(to_i64(at_ms)),
            speed: u16::try_from(speed * 10)
                .ok()
                .filter(|_| has_speed)
                .and_then(Speed::from_centi_kmh),
            plate: self.plate(),
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

    fn plate(&mut self) -> Plate {
        if self.one_in(NO_PLATE_ONE_IN) {
            return Plate::Absent;
        }
        let foreign = self.one_in(FOREIGN_PLATE_ONE_IN);
        let mut text = PlateBuffer::default();
        let number = self.random.random_range(1..1_000_u16);
        if foreign {
            // The pattern of Belarus, the commonest foreign one: 1234 AB-7.
            text.digits(number, 3);
            text.digits(self.random.random_range(0..10), 1);
            text.push(' ');
            text.push(self.latin());
            text.push(self.latin());
            text.push('-');
            text.digits(self.random.random_range(1..8), 1);
        } else {
            text.push(self.letter());
            text.digits(number, 3);
            text.push(self.letter());
            text.push(self.letter());
            let region = self.region();
            text.digits(region, if region < 100 { 2 } else { 3 });
        }
        PlateText::new(text.as_str()).map_or(Plate::Absent, Plate::Text)
    }

    fn region(&mut self) -> u16 {
        let mut draw = self.random.random_range(0..1_000_u32);
        for (code, share) in REGIONS {
            if draw < share {
                return code;
            }
            draw -= share;
        }
        self.random.random_range(1..=REGION_CODES)
    }

    fn letter(&mut self) -> char {
        LETTERS[self.random.random_range(0..LETTERS.len())]
    }

    fn latin(&mut self) -> char {
        char::from(b'A' + self.random.random_range(0..26_u8))
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_range(0..n) == 0
    }
}

/// A plate in the making: at most 15 characters of at most two bytes.
#[derive(Default)]
struct PlateBuffer {
    bytes: [u8; 31],
    len: usize,
}

impl PlateBuffer {
    fn push(&mut self, c: char) {
        let end = self.len + c.len_utf8();
        c.encode_utf8(&mut self.bytes[self.len..end]);
        self.len = end;
    }

    fn digits(&mut self, number: u16, count: u32) {
        for place in (0..count).rev() {
            let digit = u32::from(number) / 10_u32.pow(place) % 10;
            self.push(char::from_digit(digit, 10).unwrap_or('0'));
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
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
mod tests {
    use super::*;

    const START: EventTime = EventTime::from_millis(1_750_000_000_000);

    fn passages(road: Road, seed: u64, count: usize) -> Vec<Passage> {
        let mut traffic = Traffic::new(road, seed, START);
        (0..count).map(|_| traffic.next_passage()).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_traffic_and_another_seed_another() {
        let road = Road::motorway(12.0);
        assert_eq!(passages(road, 1, 2_000), passages(road, 1, 2_000));
        assert_ne!(passages(road, 1, 2_000), passages(road, 2, 2_000));
    }

    #[test]
    fn passages_come_in_order_of_time_at_the_announced_moment() {
        let mut traffic = Traffic::new(Road::motorway(12.0), 3, START);
        let mut before = START;
        for _ in 0..5_000 {
            let announced = traffic.next_at();
            let passage = traffic.next_passage();
            assert_eq!(passage.event_time, announced);
            assert!(passage.event_time >= before);
            before = passage.event_time;
        }
    }

    #[test]
    fn the_mean_flow_is_what_was_asked_for() {
        for rate in [0.2, 3.0, 11.6, 200.0] {
            let all = passages(Road::motorway(rate), 4, 20_000);
            let last = all.last().unwrap().event_time.as_millis();
            let seconds = to_f64(last - START.as_millis()) / 1_000.0;
            let flow = 20_000.0 / seconds;
            assert!((flow / rate - 1.0).abs() < 0.05, "{flow} for {rate}");
        }
    }

    #[test]
    fn the_day_averages_to_one_and_peaks_in_the_afternoon() {
        assert_eq!(HOURS.iter().sum::<u32>(), 24_000);
        assert!(of_mean(17 * HOUR_MS) > 1.6);
        assert!(of_mean(3 * HOUR_MS) < 0.2);
        let road = Road {
            day: Day::Peaks {
                utc_offset_ms: 3 * HOUR_MS,
            },
            ..Road::motorway(1.0)
        };
        let count = |utc_hour: i64| {
            let start = EventTime::from_millis(20_000 * 24 * HOUR_MS + utc_hour * HOUR_MS);
            let mut traffic = Traffic::new(road, 5, start);
            let end = start.as_millis() + HOUR_MS;
            std::iter::from_fn(|| Some(traffic.next_passage()))
                .take_while(|passage| passage.event_time.as_millis() < end)
                .count()
        };
        assert!(count(14) > 5 * count(0), "{} {}", count(14), count(0));
    }

    #[test]
    fn vehicles_are_as_on_a_road() {
        let all = passages(Road::motorway(12.0), 6, 50_000);
        let share = |which: &dyn Fn(&Passage) -> bool| {
            all.iter().filter(|passage| which(passage)).count() * 1_000 / all.len()
        };
        assert!((10..=25).contains(&share(&|p| p.plate == Plate::Absent)));
        assert!((1..=6).contains(&share(&|p| p.speed.is_none())));
        assert!(
            (20..=150).contains(&share(&|p| p.violation)),
            "{}",
            share(&|p| p.violation)
        );
        assert!((430..=570).contains(&share(&|p| p.direction == Some(Direction::Receding))));
        let mean = |lane: u8| {
            let speeds: Vec<f64> = all
                .iter()
                .filter(|p| p.lane.is_some_and(|l| l.get() == lane))
                .filter_map(|p| p.speed.map(Speed::kmh))
                .collect();
            speeds.iter().sum::<f64>() / speeds.len() as f64
        };
        assert!(mean(3) > mean(0) + 10.0);
        assert!((80.0..125.0).contains(&mean(0)) && (80.0..125.0).contains(&mean(3)));
        for passage in &all {
            if let Some(speed) = passage.speed {
                assert_eq!(speed.centi_kmh() % 10, 0, "tenths of km/h");
            }
        }
    }

    #[test]
    fn headways_bunch() {
        let road = Road {
            lanes: 1,
            ..Road::motorway(0.3)
        };
        let all = passages(road, 7, 20_000);
        let headways: Vec<i64> = all
            .windows(2)
            .map(|pair| pair[1].event_time.as_millis() - pair[0].event_time.as_millis())
            .collect();
        let followers = headways
            .iter()
            .filter(|ms| (1_199..=1_201).contains(*ms))
            .count();
        let share = followers * 100 / headways.len();
        assert!((15..=25).contains(&share), "{share} % follow");
        assert!(headways.iter().all(|ms| *ms >= 1_199));
    }
}
