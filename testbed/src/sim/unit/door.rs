//! ● The door: what the camera posts is judged by the agent's admission and handed to its buffer.

use edge_agent::buffer::Admitted;
use edge_agent::ingest::admit::{Judge, Rules};
use edge_agent::ingest::plates::PlatePolicy;

use super::super::queue::wall_ms;
use super::super::stage::{Stage, UnitEvent};
use super::{Done, Unit};

/// Ahead of the agent's clock, as by default.
const FUTURE_MS_MAX: i64 = 600_000;

impl Unit {
    pub(super) fn post(&mut self, stage: &mut Stage) {
        let camera_wall = if self.setup.camera_clock {
            wall_ms(stage.now())
        } else {
            self.wall_ms(stage.now())
        };
        let sees = !stage.weather.calm;
        let poison_one_in = stage.scenario.poison_one_in;
        let post = self.camera.next(
            &mut stage.dice,
            camera_wall,
            self.setup.post_passages_max,
            sees,
            poison_one_in,
        );
        stage.oracle.tally.turned_away += std::mem::take(&mut self.camera.turned_away);
        let wait = stage
            .dice
            .between(self.setup.post_every_ms / 4, self.setup.post_every_ms);
        self.later(stage, wait, UnitEvent::Post);
        let Some(post) = post else { return };
        let rules = Rules {
            device: self.name.clone(),
            plates: PlatePolicy::Kept,
            future_ms_max: FUTURE_MS_MAX,
        };
        let present_ms = self.reading(stage.now()).present_ms(FUTURE_MS_MAX);
        let mut judge = Judge::new(&rules, present_ms);
        let mut passages: Vec<Admitted> = Vec::new();
        let (mut times, mut early) = (Vec::new(), 0);
        for (index, (item, time)) in post.items.iter().zip(&post.times).enumerate() {
            let is_early = time.saturating_sub(present_ms) > FUTURE_MS_MAX;
            match judge.admit(index, item) {
                Ok(passage) if !is_early => {
                    passages.push(passage);
                    times.push(*time);
                }
                Err(_) if is_early => early += 1,
                Ok(_) => stage
                    .oracle
                    .fail(format!("the door took {time} at {present_ms}")),
                Err(error) => stage
                    .oracle
                    .fail(format!("the door refused a good passage: {error}")),
            }
        }
        stage.say(format_args!(
            "{}: {} posted, {early} refused as of the future",
            self.name,
            passages.len()
        ));
        stage.oracle.tally.early += early;
        if passages.is_empty() {
            return self.camera.answered(&[]);
        }
        let Some(running) = &self.running else {
            return;
        };
        let buffer = running.courier.buffer().clone();
        self.ask(stage, async move {
            let appended = buffer.append(passages).await;
            Done::Posted { times, appended }
        });
    }
}
