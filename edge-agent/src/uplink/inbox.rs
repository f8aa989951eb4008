//! Receipts on their way to the buffer: one at a time, in order, the newest word of each stream.
//!
//! Pure. A receipt names the whole committed cursor, so a later one of the same life of the centre
//! stands for all before it, and the queue is bounded by the streams that a unit may have.

use std::collections::{BTreeMap, VecDeque};

use proto::StreamId;
use proto::receipt::{Centre, StreamReceipt};

/// Different centres, or lives of one, that may wait; beyond, the oldest word is dropped: whatever
/// it would have freed is sent and answered again.
const CENTRES_MAX: usize = 8;

/// Words of the centre that the buffer has not been told yet.
#[derive(Debug, Clone, Default)]
pub struct Inbox {
    waiting: VecDeque<(Centre, BTreeMap<StreamId, StreamReceipt>)>,
}

impl Inbox {
    /// Adds a word.
    pub fn push(&mut self, centre: Centre, streams: Vec<StreamReceipt>) {
        if self.waiting.back().is_none_or(|(last, _)| *last != centre) {
            self.waiting.push_back((centre, BTreeMap::new()));
        }
        if self.waiting.len() > CENTRES_MAX {
            self.waiting.pop_front();
        }
        if let Some((_, words)) = self.waiting.back_mut() {
            for mut receipt in streams {
                // Takes the place of one that was not heard yet, and says what that one said.
                receipt.afresh |= words.get(&receipt.stream).is_some_and(|word| word.afresh);
                words.insert(receipt.stream, receipt);
            }
        }
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<(Centre, Vec<StreamReceipt>)> {
        let (centre, words) = self.waiting.pop_front()?;
        Some((centre, words.into_values().collect()))
    }
}

#[cfg(test)]
mod tests {
    use proto::{CentreId, Seq, SeqRange, SeqSet};

    use super::*;

    const fn centre(timeline: u32) -> Centre {
        Centre {
            id: CentreId::from_bytes([1; 16]),
            timeline,
        }
    }

    fn receipt(stream: u8, to: u64) -> StreamReceipt {
        let counted: SeqSet = SeqRange::from_count(Seq::FIRST, to).unwrap().into();
        let stored = counted.clone();
        StreamReceipt {
            stream: StreamId::from_bytes([stream; 16]),
            counted,
            stored,
            lost: SeqSet::new(),
            afresh: false,
        }
    }

    #[test]
    fn the_newest_word_of_each_stream_stands_for_those_before_it() {
        let mut inbox = Inbox::default();
        inbox.push(centre(1), vec![receipt(1, 5), receipt(2, 5)]);
        inbox.push(centre(1), vec![receipt(1, 9)]);
        assert_eq!(
            inbox.pop(),
            Some((centre(1), vec![receipt(1, 9), receipt(2, 5)]))
        );
        assert_eq!(inbox.pop(), None);
    }

    #[test]
    fn words_of_different_lives_keep_their_order() {
        let mut inbox = Inbox::default();
        inbox.push(centre(1), vec![receipt(1, 5)]);
        inbox.push(centre(2), Vec::new());
        inbox.push(centre(2), vec![receipt(1, 3)]);
        assert_eq!(inbox.pop(), Some((centre(1), vec![receipt(1, 5)])));
        assert_eq!(inbox.pop(), Some((centre(2), vec![receipt(1, 3)])));
    }

    #[test]
    fn it_never_grows_beyond_its_bound() {
        let mut inbox = Inbox::default();
        (0..100).for_each(|timeline| inbox.push(centre(timeline), Vec::new()));
        assert_eq!(inbox.waiting.len(), CENTRES_MAX);
    }
}
