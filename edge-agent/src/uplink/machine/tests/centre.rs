//! The model of the link and of the centre behind it.

use super::*;

impl World {
    pub(super) fn connects(&mut self, well: bool) {
        self.connecting = false;
        if well {
            self.linked = true;
            self.full = false;
            self.unacked.clear();
            self.feed(Input::Subscribed);
            // Retained.
            self.say_beacon();
        } else {
            self.feed(Input::Lost);
        }
    }

    pub(super) fn cut(&mut self) {
        self.linked = false;
        self.unacked.clear();
        self.up.clear();
        self.down.clear();
        self.feed(Input::Lost);
    }

    pub(super) fn say_beacon(&mut self) {
        if self.linked {
            self.down.push(Input::Beacon(Beacon {
                centre: self.centre,
                token: self.token,
                build: self.build.to_string(),
                wire_min: WIRE_VERSION,
                wire_max: WIRE_VERSION,
                intake: if self.open {
                    Intake::Open
                } else {
                    Intake::Closed
                },
                sent_at: EventTime::from_millis(0),
                summaries_age_max_ms: u64::MAX,
            }));
        }
    }

    pub(super) fn arrive(&mut self, frame: &Frame) {
        if !self.alive || !self.open {
            return;
        }
        let stream = match frame {
            Frame::Passages(stream, _) | Frame::Losses(stream, _) | Frame::Summary(stream, _) => {
                *stream
            }
        };
        let cursor = self.cursors.entry(stream).or_default();
        match frame {
            Frame::Passages(_, range) => {
                cursor.counted.insert(*range);
                cursor.stored.insert(*range);
                cursor.lost.remove(*range);
            }
            Frame::Summary(..) => {}
            Frame::Losses(_, losses) => {
                for loss in losses {
                    let range = SeqSet::from(loss.range);
                    match loss.scope {
                        LossScope::All => {
                            let news = range.difference(&cursor.counted);
                            cursor.lost = cursor.lost.union(&news);
                        }
                        LossScope::RawOnly => {
                            let news = range.intersection(&cursor.counted);
                            cursor.stored = cursor.stored.union(&news);
                        }
                    }
                }
            }
        }
        let mut overlaps = false;
        if let Frame::Summary(_, entries) = frame {
            for seqs in entries {
                if seqs.is_disjoint(&cursor.counted) {
                    cursor.counted = cursor.counted.union(seqs);
                    cursor.lost = cursor.lost.difference(seqs);
                } else {
                    overlaps |= !seqs.is_subset(&cursor.counted);
                }
            }
        }
        let (counted, lost) = (cursor.counted.clone(), cursor.lost.clone());
        let stored = cursor.stored.clone();
        let ever = self.ever.entry(stream).or_default();
        *ever = ever.union(&counted).union(&lost);
        if self.linked {
            let streams = vec![StreamReceipt {
                stream,
                counted,
                stored,
                lost,
                afresh: false,
            }];
            self.down.push(Input::Receipt(Receipt {
                centre: self.centre,
                streams,
                correction: None,
            }));
        }
        if overlaps && let Frame::Summary(_, entries) = frame {
            let (class, reason) = (RefusalClass::Reshape, RefusalReason::Overlap);
            self.refuse(stream, claimed(entries), class, reason);
        }
    }

    pub(super) fn refuse(
        &mut self,
        stream: StreamId,
        range: SeqRange,
        class: RefusalClass,
        reason: RefusalReason,
    ) {
        self.down.push(Input::Refusal(Refusal {
            centre: self.centre,
            stream,
            range: Some(range),
            class,
            reason,
            detail: String::new(),
            counted: self.cursors.get(&stream).map(|c| c.counted.clone()),
        }));
    }

    pub(super) fn reborn(&mut self) {
        self.centre.timeline += 1;
        self.token = 1;
        for cursor in self.cursors.values_mut() {
            let kept = cursor.counted.ranges().first().copied();
            cursor.counted = kept.map(SeqSet::from).unwrap_or_default();
            cursor.stored = cursor.stored.intersection(&cursor.counted);
            cursor.lost = SeqSet::new();
        }
        // Down the same connection, after what the life before still had to say.
        self.say_beacon();
    }
}
