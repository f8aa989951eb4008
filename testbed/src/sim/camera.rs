//! ● A camera: posts in the customer's format, and again until it is answered.

use std::collections::BTreeSet;

use jiff::Timestamp;
use proto::DeviceId;

use super::dice::Dice;

/// Attempts at one post; then the camera gives up, and nobody has promised anything.
const ATTEMPTS_MAX: u32 = 20;

/// One post.
#[derive(Debug, Clone)]
pub(super) struct Post {
    /// The items' JSON.
    pub(super) items: Vec<String>,
    /// Their event times, each of which no other passage of the unit has.
    pub(super) times: Vec<i64>,
    attempts: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Camera {
    device: DeviceId,
    ids: bool,
    /// Whether another camera hands over passages under the same name.
    is_copy: bool,
    made: u64,
    used: BTreeSet<i64>,
    /// Posted and not answered yet.
    open: Option<Post>,
    /// Whether the answer is still to come.
    asked: bool,
    /// Items that were given up, until somebody asks.
    pub(super) turned_away: u64,
    /// Times of passages that no database takes, until somebody asks.
    pub(super) poison: Vec<i64>,
}

impl Camera {
    pub(super) const fn new(device: DeviceId, ids: bool, is_copy: bool) -> Self {
        Self {
            device,
            ids,
            is_copy,
            made: 0,
            used: BTreeSet::new(),
            open: None,
            asked: false,
            turned_away: 0,
            poison: Vec::new(),
        }
    }

    /// What is posted now: again what was not answered, or something new if cameras still see any.
    pub(super) fn next(
        &mut self,
        dice: &mut Dice,
        wall_ms: i64,
        passages_max: u64,
        sees: bool,
        poison_one_in: u64,
    ) -> Option<Post> {
        if self.asked {
            return None;
        }
        if let Some(given_up) = self.open.take_if(|post| post.attempts >= ATTEMPTS_MAX) {
            self.turned_away += given_up.items.len() as u64;
        }
        if self.open.is_none() && sees {
            let count = dice.between(1, passages_max);
            let made = (0..count).map(|_| self.item(dice, wall_ms, poison_one_in));
            let (items, times) = made.unzip();
            self.open = Some(Post {
                items,
                times,
                attempts: 0,
            });
        }
        let post = self.open.as_mut()?;
        post.attempts += 1;
        self.asked = true;
        Some(post.clone())
    }

    fn item(&mut self, dice: &mut Dice, wall_ms: i64, poison_one_in: u64) -> (String, i64) {
        self.made += 1;
        let late_ms = match dice.between(1, 100) {
            1..=80 => dice.between(0, 5_000),
            81..=95 => dice.between(0, 3_000_000),
            96..=99 => dice.between(0, 5 * 86_400_000),
            _ => 61 * 86_400_000,
        };
        let event_ms = wall_ms - i64::try_from(late_ms).unwrap_or(0);
        // The thousandths tell the passages of a unit apart, and those of its copy.
        let thousandths = (self.made * 2 + u64::from(self.is_copy)) % 1_000;
        let thousandths = i64::try_from(thousandths).unwrap_or(0);
        let event_ms = event_ms.max(0);
        let mut event_ms = event_ms - event_ms.rem_euclid(1_000) + thousandths;
        // A clock that was set back shows the same times again.
        while !self.used.insert(event_ms) {
            event_ms += 1_000;
        }
        if poison_one_in > 0 && dice.between(1, poison_one_in) == 1 {
            self.poison.push(event_ms);
        }
        let time = Timestamp::from_millisecond(event_ms).unwrap_or_default();
        let mut item = format!(r#"{{"kvfv_id":"{}","timestamp":"{time}""#, self.device);
        if dice.percent(95) {
            let speed = dice.between(0, 2_500);
            item += &format!(r#","vehicle_speed":{}.{}"#, speed / 10, speed % 10);
        }
        if dice.percent(70) {
            item += &format!(
                r#","lane":{},"vehicle_class":{}"#,
                dice.between(0, 3),
                dice.between(0, 9)
            );
        }
        if dice.percent(10) {
            item += &format!(
                r#","violation":true,"plate_number":"A{:03}BC77""#,
                self.made % 1_000
            );
        }
        if dice.percent(5) {
            item += &format!(r#","site":{{"pole":{}}}"#, self.made);
        }
        if self.ids {
            let whose = if self.is_copy { "copy" } else { "own" };
            item += &format!(r#","event_id":"{whose}-{}""#, self.made);
        }
        item.push('}');
        (item, event_ms)
    }

    /// These are durable; the others were refused, and are posted again.
    pub(super) fn answered(&mut self, times: &[i64]) {
        self.asked = false;
        if let Some(post) = &mut self.open {
            let (items, all) = (
                std::mem::take(&mut post.items),
                std::mem::take(&mut post.times),
            );
            let left = items.into_iter().zip(all);
            let left = left.filter(|(_, time)| !times.contains(time));
            (post.items, post.times) = left.unzip();
        }
        self.open = self.open.take().filter(|post| !post.items.is_empty());
    }

    /// Refused, or the agent went away: posted again.
    pub(super) const fn unanswered(&mut self) {
        self.asked = false;
    }

    /// Items that were ever made.
    pub(super) const fn items_made(&self) -> u64 {
        self.made
    }

    /// Whether something was posted that is not answered.
    pub(super) const fn is_waiting(&self) -> bool {
        self.open.is_some()
    }
}
