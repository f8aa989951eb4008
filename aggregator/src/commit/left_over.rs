//! What a flush did not take, until the next one. Pure.
//!
//! A device whose messages touch more windows than a flush takes of it has something left over flush
//! after flush: hours of sparse traffic for some seconds, somebody who means harm for as long as he
//! likes. It goes along with whatever is flushed next. A flush for its sake alone begins only when as
//! much time has passed as the one before it took, so that it has half of the time at most, and what
//! others send comes in between.

use std::time::{Duration, Instant};

use crate::intake::decode::Message;

/// See the module.
#[derive(Debug, Default)]
pub struct LeftOvers {
    messages: Vec<Message>,
    due: Option<Instant>,
}

impl LeftOvers {
    /// Takes over what a flush left, that ended now and took so long.
    pub fn wait(&mut self, messages: Vec<Message>, now: Instant, took: Duration) {
        self.due = (!messages.is_empty()).then(|| now + took);
        self.messages = messages;
    }

    /// When a flush begins for its sake, if anything waits.
    #[must_use]
    pub const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Gives out what waits, in the order in which it came.
    pub fn take(&mut self) -> Vec<Message> {
        std::mem::take(self).messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{batch, passage};

    #[test]
    fn flushes_for_its_sake_alone_have_half_of_the_time() {
        let (start, took) = (service::clock::monotonic(), Duration::from_millis(40));
        let mut left = LeftOvers::default();
        assert_eq!(left.due(), None);
        left.wait(vec![batch("KV1", 1, 1, &[passage(0, 5_000)])], start, took);
        assert_eq!(left.due(), Some(start + took));
        assert_eq!(left.take().len(), 1);
        assert_eq!((left.due(), left.take().len()), (None, 0));
        left.wait(Vec::new(), start, took);
        assert_eq!(left.due(), None);
    }
}
