//! ● What one transaction writes, of a plan of the aggregator's.

use std::collections::BTreeSet;

use aggregator::commit::plan::{LossRow, Plan, RecoveredRow, RejectedRow};
use aggregator::intake::decode::Message;
use aggregator::intake::rows::Rows;
use aggregator::window::state::DeviceChange;
use bytes::BytesMut;
use proto::topic::Shard;
use proto::{DeviceId, StreamId};

use super::super::rows::{RawRow, read_rows};

/// What one transaction writes.
#[derive(Debug, Clone, Default)]
pub(in crate::sim) struct Writes {
    pub(in crate::sim) devices: Vec<DeviceWrites>,
    pub(in crate::sim) raw: Vec<RawRow>,
    pub(in crate::sim) rejected: Vec<RejectedRow>,
    pub(in crate::sim) losses: Vec<LossRow>,
    pub(in crate::sim) recovered: Vec<RecoveredRow>,
    pub(in crate::sim) shards: BTreeSet<Shard>,
    /// Over which connection it came.
    pub(in crate::sim) session: u64,
}

/// What it writes of one device.
#[derive(Debug, Clone)]
pub(in crate::sim) struct DeviceWrites {
    pub(in crate::sim) device: DeviceId,
    pub(in crate::sim) change: DeviceChange,
    /// The messages that were heard of it: the stream that each is of, and which run it states.
    pub(in crate::sim) heard: Vec<(StreamId, u32)>,
}

impl Writes {
    pub(in crate::sim) fn of(plan: &Plan<'_>, messages: &[Message]) -> Self {
        let heard = |device: &DeviceId| {
            let of_device = messages
                .iter()
                .filter(|message| message.sender().device == *device);
            let stated = of_device.map(|message| {
                let header = &message.header;
                (header.stream, header.frontier.run)
            });
            stated.collect()
        };
        let mut devices: Vec<DeviceWrites> = plan
            .changes
            .iter()
            .map(|(device, change)| DeviceWrites {
                device: device.clone(),
                change: change.clone(),
                heard: heard(device),
            })
            .collect();
        devices.sort_by(|one, other| one.device.as_str().cmp(other.device.as_str()));
        let mut bytes = BytesMut::new();
        for part in &plan.rows.raw {
            let rows: &Rows = part.rows.rows();
            rows.copy_to(&mut bytes, part.device_key, part.stream_key);
        }
        Self {
            devices,
            raw: read_rows(&bytes),
            rejected: plan.rows.rejected.clone(),
            losses: plan.rows.losses.clone(),
            recovered: plan.rows.recovered.clone(),
            shards: plan.shards.clone(),
            session: 0,
        }
    }

    /// Whether it writes anything; if not it only proves its tokens.
    pub(in crate::sim) fn is_empty(&self) -> bool {
        let nothing = |change: &DeviceChange| {
            change.cursors.is_empty() && change.windows.is_empty() && !change.status_changed
        };
        self.raw.is_empty() && self.devices.iter().all(|device| nothing(&device.change))
    }

    /// The planted bug: cursors on their own.
    pub(in crate::sim) fn split_cursors(&mut self) -> Self {
        let mut cursors = Self {
            shards: self.shards.clone(),
            ..Self::default()
        };
        for written in &mut self.devices {
            let change = DeviceChange {
                key: written.change.key,
                cursors: std::mem::take(&mut written.change.cursors),
                ..DeviceChange::default()
            };
            cursors.devices.push(DeviceWrites {
                device: written.device.clone(),
                change,
                heard: written.heard.clone(),
            });
        }
        cursors
    }
}
