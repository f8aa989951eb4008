//! ● What may cross the broker: receipts within what is committed, and nothing that a role does not
//! allow.

use broker::identity::{Identity, Role};
use proto::DeviceId;
use proto::receipt::StreamReceipt;

use super::{Cursor, Oracle, show};

impl Oracle {
    /// The centre sends a receipt to a device.
    pub(in crate::sim) fn receipted(
        &mut self,
        device: &DeviceId,
        timeline: u32,
        streams: &[StreamReceipt],
    ) {
        let Some(unit) = self.units.iter().position(|unit| unit == device) else {
            return;
        };
        self.tally.receipts += 1;
        let committed = if timeline == self.timeline {
            Some(&self.expected.cursors)
        } else {
            self.past.get(&timeline)
        };
        let none = Cursor::default();
        let mut problem = None;
        for receipt in streams {
            let known = self.streams.get(&receipt.stream);
            if known.is_none_or(|known| known.unit != unit) {
                problem = Some(format!("{device} is sent a receipt of {}", receipt.stream));
                continue;
            }
            let cursor = committed
                .and_then(|all| all.get(&receipt.stream))
                .unwrap_or(&none);
            let settled = cursor.lost.union(&cursor.counted);
            let fits = receipt.counted.is_subset(&cursor.counted)
                && receipt.stored.is_subset(&cursor.stored)
                && receipt.lost.is_subset(&settled);
            if !fits {
                problem = Some(format!(
                    "a receipt of {} says counted {}, stored {}; committed is counted {}, stored {}",
                    receipt.stream,
                    show(&receipt.counted),
                    show(&receipt.stored),
                    show(&cursor.counted),
                    show(&cursor.stored),
                ));
            }
        }
        problem.into_iter().for_each(|problem| self.fail(problem));
    }

    /// A unit got a receipt: it must be about its own streams.
    pub(in crate::sim) fn received(&mut self, unit: usize, streams: &[StreamReceipt]) {
        let foreign = streams.iter().find(|receipt| {
            let stream = self.streams.get(&receipt.stream);
            stream.is_some_and(|stream| stream.unit != unit)
        });
        if let Some(receipt) = foreign {
            self.fail(format!("unit {unit} got a receipt of {}", receipt.stream));
        }
    }

    /// The gate let a message through.
    pub(in crate::sim) fn published(&mut self, identity: &Identity, topic: &str, retain: bool) {
        let name = identity.name.as_str();
        let may = match identity.role {
            Role::Unit => topic.ends_with(&format!("/{name}/up")) && !retain,
            Role::Centre => {
                topic.ends_with("/down") && !retain || topic.ends_with("/beacon") && retain
            }
            Role::Reader => false,
        };
        if !may {
            self.fail(format!(
                "{identity} published to {topic} (retained: {retain})"
            ));
        }
    }

    /// The gate delivers a message.
    pub(in crate::sim) fn delivered(&mut self, identity: &Identity, topic: &str) {
        let name = identity.name.as_str();
        let may = match identity.role {
            Role::Unit => topic.ends_with(&format!("/{name}/down")) || topic.ends_with("/beacon"),
            Role::Centre => topic.ends_with("/up"),
            Role::Reader => topic.ends_with("/beacon"),
        };
        if !may {
            self.fail(format!("{identity} was given a message on {topic}"));
        }
    }
}
