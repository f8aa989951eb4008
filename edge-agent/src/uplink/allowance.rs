//! What may travel by the owner's rules for the link: at which hours the backlog, and how much in a
//! day. Pure.
//!
//! The backlog stops first: outside its hours, and when the day's volume is used up but for the
//! reserve. Live passages, summaries and losses go on from the reserve; when that is used up, too,
//! they wait in the buffer until the next day, and heartbeats come [`SPARING`] times more rarely.
//! Heartbeats and keep-alives are the only bytes beyond the cap.
//!
//! A day is a calendar day at the configured offset from UTC. The offset is fixed: a unit has no
//! database of time zones, and a summer time would move the hours by one.

use proto::EventTime;
use serde::Deserialize;

use super::lanes::Lane;
use super::rate::FRAMING_BYTES;

/// How much rarer heartbeats are once nothing else may travel.
pub const SPARING: u64 = 20;

/// What a connection costs: TCP, TLS with both certificates, CONNECT, SUBSCRIBE, beacon.
pub const CONNECTION_BYTES: usize = 6 * 1024;

/// What a keep-alive costs, both ways.
pub const KEEP_ALIVE_BYTES: usize = 200;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// What may travel now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Allowed {
    /// No rule forbids anything.
    #[default]
    Everything,
    /// All but the backlog.
    Live,
    /// Heartbeats alone.
    Nothing,
}

impl Allowed {
    /// Whether messages of a lane may travel.
    #[must_use]
    pub fn lets(self, lane: Lane) -> bool {
        match self {
            Self::Everything => true,
            Self::Live => lane == Lane::Live,
            Self::Nothing => false,
        }
    }
}

/// Hours of the day, from the first minute up to the last, which is not among them. May span
/// midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hours {
    from_min: u16,
    to_min: u16,
}

/// Text that is not `HH:MM-HH:MM`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not HH:MM-HH:MM with two different times of day, 00:00 to 24:00")]
pub struct HoursError(String);

impl TryFrom<String> for Hours {
    type Error = HoursError;

    fn try_from(text: String) -> Result<Self, HoursError> {
        let parsed = text.split_once('-').and_then(|(from, to)| {
            let (from_min, to_min) = (minute_of_day(from)?, minute_of_day(to)?);
            (from_min != to_min).then_some(Self { from_min, to_min })
        });
        parsed.ok_or(HoursError(text))
    }
}

impl Hours {
    fn contains(self, minute: u16) -> bool {
        if self.from_min < self.to_min {
            (self.from_min..self.to_min).contains(&minute)
        } else {
            minute >= self.from_min || minute < self.to_min
        }
    }
}

/// `HH:MM`, up to 24:00.
fn minute_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two_digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !two_digits(hours) || !two_digits(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= 24 * 60).then_some(minute)
}

/// A fixed distance from UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UtcOffset {
    minutes: i16,
}

/// Text that is not `+HH:MM` or `-HH:MM`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an offset from UTC, -14:00 to +14:00")]
pub struct UtcOffsetError(String);

impl TryFrom<String> for UtcOffset {
    type Error = UtcOffsetError;

    fn try_from(text: String) -> Result<Self, UtcOffsetError> {
        let parsed = match text.split_at_checked(1) {
            Some(("+", rest)) => minute_of_day(rest).map(|minutes| (1, minutes)),
            Some(("-", rest)) => minute_of_day(rest).map(|minutes| (-1, minutes)),
            _ => None,
        };
        let within = parsed.filter(|(_, minutes)| *minutes <= 14 * 60);
        let signed = within.and_then(|(sign, minutes)| Some(sign * i16::try_from(minutes).ok()?));
        signed
            .map(|minutes| Self { minutes })
            .ok_or(UtcOffsetError(text))
    }
}

impl UtcOffset {
    fn local_ms(self, at: EventTime) -> i64 {
        at.as_millis() + i64::from(self.minutes) * MINUTE_MS
    }

    fn utc(self, local_ms: i64) -> EventTime {
        EventTime::from_millis(local_ms - i64::from(self.minutes) * MINUTE_MS)
    }
}

/// The owner's rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// When the backlog may travel; at all times, without any.
    pub backlog_hours: Vec<Hours>,
    /// Where midnight is.
    pub offset: UtcOffset,
    /// Bytes of one day, both ways.
    pub daily_bytes_max: Option<u64>,
    /// Percent of these that the backlog may not use.
    pub reserve_percent: u64,
}

/// The bytes of a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Days since 1970 at the offset.
    pub day: i64,
    /// Bytes, both ways, headers estimated.
    pub bytes: u64,
}

impl Spent {
    /// As a line of text.
    #[must_use]
    pub fn line(self) -> String {
        format!("{} {}\n", self.day, self.bytes)
    }

    /// Reads such a line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (day, bytes) = line.trim_end().split_once(' ')?;
        Some(Self {
            day: day.parse().ok()?,
            bytes: bytes.parse().ok()?,
        })
    }
}

/// What the rules say, why, and until when they say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// What may travel.
    pub allowed: Allowed,
    /// Why not everything.
    pub why: Option<Held>,
    /// When the rules change by themselves.
    pub until: Option<EventTime>,
}

/// Why not everything may travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// These are not the backlog's hours.
    Hours,
    /// What a day has for the backlog is used up.
    Volume,
    /// All that a day has is used up.
    AllVolume,
}

impl Held {
    /// The words for it in status and logs.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Hours => "outside uplink.backlog_hours",
            Self::Volume => "uplink.daily_mb_max is used up but for the reserve",
            Self::AllVolume => "uplink.daily_mb_max is used up, reserve included",
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Allowance {
    rules: Rules,
    spent: Spent,
}

impl Allowance {
    /// With what was spent before this start.
    #[must_use]
    pub const fn new(rules: Rules, spent: Spent) -> Self {
        Self { rules, spent }
    }

    /// A frame went, one way or the other.
    pub fn spend(&mut self, wall: EventTime, frame_bytes: usize) {
        self.spend_bytes(wall, frame_bytes + FRAMING_BYTES);
    }

    /// So many bytes went, headers included.
    pub fn spend_bytes(&mut self, wall: EventTime, bytes: usize) {
        let day = self.rules.offset.local_ms(wall).div_euclid(DAY_MS);
        if day != self.spent.day {
            self.spent = Spent { day, bytes: 0 };
        }
        self.spent.bytes = self.spent.bytes.saturating_add(bytes as u64);
    }

    /// The bytes of the day in which something was spent last.
    #[must_use]
    pub const fn spent(&self) -> Spent {
        self.spent
    }

    /// The bytes of the day that it is at this time.
    #[must_use]
    pub fn spent_by(&self, wall: EventTime) -> u64 {
        let day = self.rules.offset.local_ms(wall).div_euclid(DAY_MS);
        if day == self.spent.day {
            self.spent.bytes
        } else {
            0
        }
    }

    /// The bytes of a day, where they are limited.
    #[must_use]
    pub const fn daily_bytes_max(&self) -> Option<u64> {
        self.rules.daily_bytes_max
    }

    /// What may travel at this time.
    #[must_use]
    pub fn judge(&self, wall: EventTime) -> Judgement {
        let offset = self.rules.offset;
        let local_ms = offset.local_ms(wall);
        let day = local_ms.div_euclid(DAY_MS);
        let tomorrow = offset.utc((day + 1) * DAY_MS);
        let spent = self.spent_by(wall);
        if let Some(most) = self.rules.daily_bytes_max {
            let for_backlog = most - most / 100 * self.rules.reserve_percent;
            let held = if spent >= most {
                Some((Allowed::Nothing, Held::AllVolume))
            } else if spent >= for_backlog {
                Some((Allowed::Live, Held::Volume))
            } else {
                None
            };
            if let Some((allowed, why)) = held {
                return Judgement {
                    allowed,
                    why: Some(why),
                    until: Some(tomorrow),
                };
            }
        }
        let hours = &self.rules.backlog_hours;
        let minute = u16::try_from(local_ms.rem_euclid(DAY_MS) / MINUTE_MS).unwrap_or(0);
        let open = hours.is_empty() || hours.iter().any(|hours| hours.contains(minute));
        let edges = hours
            .iter()
            .flat_map(|hours| [hours.from_min, hours.to_min]);
        let ahead = edges.map(|edge| {
            let wait = (i64::from(edge) - i64::from(minute)).rem_euclid(24 * 60);
            if wait == 0 { 24 * 60 } else { wait }
        });
        let until = ahead.min().map(|wait| {
            let this_minute = local_ms.div_euclid(MINUTE_MS);
            offset.utc((this_minute + wait) * MINUTE_MS)
        });
        Judgement {
            allowed: if open {
                Allowed::Everything
            } else {
                Allowed::Live
            },
            why: (!open).then_some(Held::Hours),
            until,
        }
    }
}

#[cfg(test)]
mod tests;
