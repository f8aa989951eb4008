//! Receipts on their way to the buffer: one at a time, in order, those of a stream as one.
//!
//! Pure. Within one life of the centre cursors only grow, so what two receipts name is committed; the
//! queue is bounded by the streams that a unit may have and the ranges of a cursor.

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
            for receipt in streams {
                let stream = receipt.stream;
                let both = match words.remove(&stream) {
                    Some(before) => joined(before, receipt),
                    None => receipt,
                };
                words.insert(stream, both);
            }
        }
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<(Centre, Vec<StreamReceipt>)> {
        let (centre, words) = self.waiting.pop_front()?;
        Some((centre, words.into_values().collect()))
    }
}

/// Two receipts of a stream as one. What was said before one that stands afresh holds no more.
fn joined(before: StreamReceipt, receipt: StreamReceipt) -> StreamReceipt {
    if receipt.afresh {
        return receipt;
    }
    let counted = before.counted.union(&receipt.counted);
    StreamReceipt {
        stored: before.stored.union(&receipt.stored),
        lost: before.lost.union(&receipt.lost).difference(&counted),
        counted,
        ..before
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
    fn what_two_words_name_is_known_of_both_until_one_stands_afresh() {
        let set = |first: u64, last: u64| {
            let count = last - first + 1;
            SeqSet::from(SeqRange::from_count(Seq::new(first).unwrap(), count).unwrap())
        };
        let word = |counted: SeqSet, lost: SeqSet| StreamReceipt {
            stored: counted.clone(),
            counted,
            lost,
            ..receipt(1, 1)
        };
        let mut inbox = Inbox::default();
        inbox.push(centre(1), vec![word(set(1, 5), set(6, 9))]);
        inbox.push(centre(1), vec![word(set(8, 12), SeqSet::new())]);
        let both = word(set(1, 5).union(&set(8, 12)), set(6, 7));
        assert_eq!(inbox.pop(), Some((centre(1), vec![both])));
        let afresh = StreamReceipt {
            afresh: true,
            ..receipt(1, 3)
        };
        inbox.push(centre(1), vec![receipt(1, 9)]);
        inbox.push(centre(1), vec![afresh.clone()]);
        assert_eq!(inbox.pop(), Some((centre(1), vec![afresh])));
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
