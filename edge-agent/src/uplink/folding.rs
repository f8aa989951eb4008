//! Which streams are folded into summaries before anything of their backlog leaves. Pure.
//!
//! When passages may flow again, each stream is asked about in turn, the oldest first. The buffer
//! folds some at a time, and nothing while all of it is young; once something old was found the rest
//! is folded however young it is, so that the windows are exact at once.

use std::collections::VecDeque;

use proto::{EventTime, StreamId};

use super::backoff::Millis;
use crate::buffer::{FoldScope, Folded};

/// Windows that end later than this from now take no summaries: the centre's limit.
const SUMMARIES_AHEAD_MS: i64 = 10 * 60_000;

/// A part of the backlog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// Its stream.
    pub stream: StreamId,
    /// Its last number.
    pub to: u64,
}

impl Backlog {
    /// What of it is folded at this time: nothing, unless some of it is older than
    /// this, and of that what lies in windows which began no longer ago than this.
    #[must_use]
    pub fn scope(
        &self,
        now: EventTime,
        older_than_ms: Option<Millis>,
        age_max_ms: Option<u64>,
    ) -> FoldScope {
        let now_ms = now.as_millis();
        let ago = |ms: u64| {
            let ms = i64::try_from(ms).unwrap_or(i64::MAX);
            EventTime::from_millis(now_ms.saturating_sub(ms))
        };
        FoldScope {
            to: self.to,
            if_before: older_than_ms.map(ago),
            windows_from: age_max_ms.map_or(EventTime::from_millis(0), ago),
            windows_to: EventTime::from_millis(now_ms.saturating_add(SUMMARIES_AHEAD_MS)),
        }
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Folding {
    waiting: VecDeque<Backlog>,
    asked: Option<Backlog>,
    is_late: bool,
}

impl Folding {
    /// Passages may flow: these wait, the oldest first.
    pub fn begin(&mut self, backlog: impl IntoIterator<Item = Backlog>) {
        self.waiting = backlog.into_iter().collect();
        self.is_late = false;
    }

    /// Passages may flow no longer: what is not folded waits for the next time.
    pub fn stop(&mut self) {
        self.waiting.clear();
    }

    /// What to ask the buffer to fold now, and whether it is to be folded however young it is.
    pub fn ask(&mut self) -> Option<(Backlog, bool)> {
        if self.asked.is_some() {
            return None;
        }
        self.asked = self.waiting.front().copied();
        self.asked.map(|asked| (asked, self.is_late))
    }

    /// The buffer answered. Returns what it was asked, if it folded some of that.
    pub fn answered(&mut self, folded: Folded) -> Option<Backlog> {
        let asked = self.asked.take()?;
        self.is_late |= folded.passages > 0;
        if !folded.more && self.waiting.front() == Some(&asked) {
            self.waiting.pop_front();
        }
        (folded.passages > 0).then_some(asked)
    }

    /// Whether something is yet to be folded.
    #[must_use]
    pub fn is_active(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn backlog(stream: u8, to: u64) -> Backlog {
        let stream = StreamId::from_bytes([stream; 16]);
        Backlog { stream, to }
    }

    const fn folded(passages: u64, more: bool) -> Folded {
        Folded { passages, more }
    }

    #[test]
    fn streams_are_folded_in_turn_and_once_something_is_old_all_of_them() {
        let (one, two, three) = (backlog(1, 10), backlog(2, 20), backlog(3, 30));
        let mut folding = Folding::default();
        folding.begin([one, two, three]);
        assert_eq!(folding.ask(), Some((one, false)));
        assert_eq!(folding.ask(), None, "one question at a time");
        assert_eq!(folding.answered(folded(0, false)), None);
        assert_eq!(folding.ask(), Some((two, false)));
        assert_eq!(folding.answered(folded(9, true)), Some(two));
        assert_eq!(folding.ask(), Some((two, true)));
        assert_eq!(folding.answered(folded(3, false)), Some(two));
        assert_eq!(folding.ask(), Some((three, true)));
        assert!(folding.is_active());
        folding.answered(folded(0, false));
        assert!(!folding.is_active() && folding.ask().is_none());
    }

    #[test]
    fn an_answer_from_before_an_interruption_ends_nothing_that_began_after() {
        let mut folding = Folding::default();
        folding.begin([backlog(1, 10)]);
        folding.ask();
        folding.stop();
        folding.begin([backlog(1, 50)]);
        assert_eq!(folding.ask(), None);
        folding.answered(folded(0, false));
        assert_eq!(folding.ask(), Some((backlog(1, 50), false)));
    }
}
