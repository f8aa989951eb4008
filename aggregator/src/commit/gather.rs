//! What a flush asks of its messages before it plans: which are ours, what of the database they need,
//! what is left of them, and how to cut them in two. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use proto::device::{DeviceId, StreamId};
use proto::topic::Shard;

use super::select::LeftOver;
use crate::intake::decode::{Body, Message};
use crate::window::state::Memory;

/// The places of the messages whose shards are owned.
#[must_use]
pub fn owned(messages: &[Message], tokens: &BTreeMap<Shard, i64>) -> Vec<usize> {
    let is_owned = |place: &usize| tokens.contains_key(&messages[*place].sender().shard);
    (0..messages.len()).filter(is_owned).collect()
}

/// Devices of the owned messages that are not in memory.
#[must_use]
pub fn unknown_devices(memory: &Memory, messages: &[Message], owned: &[usize]) -> Vec<DeviceId> {
    let unknown: HashSet<&DeviceId> = owned
        .iter()
        .map(|place| &messages[*place].sender().device)
        .filter(|device| memory.device(device).is_none())
        .collect();
    unknown.into_iter().cloned().collect()
}

/// Streams of the owned messages whose cursors are not in memory. The devices must be.
#[must_use]
pub fn unknown_streams(
    memory: &Memory,
    messages: &[Message],
    owned: &[usize],
) -> Vec<(DeviceId, StreamId)> {
    let unknown: HashSet<(&DeviceId, StreamId)> = owned
        .iter()
        .flat_map(|place| {
            let message = &messages[*place];
            let device = &message.sender().device;
            let known = memory.device(device).map(|state| &state.cursors);
            message
                .streams()
                .filter(move |stream| known.is_some_and(|known| !known.contains_key(stream)))
                .map(move |stream| (device, stream))
        })
        .collect();
    unknown
        .into_iter()
        .map(|(device, stream)| (device.clone(), stream))
        .collect()
}

/// How many streams have no key yet.
#[must_use]
pub fn new_streams(memory: &Memory, messages: &[Message], owned: &[usize]) -> usize {
    let mut new: HashSet<(&DeviceId, StreamId)> = HashSet::new();
    for place in owned {
        let message = &messages[*place];
        let device = &message.sender().device;
        let state = memory.device(device);
        new.extend(message.streams().filter_map(|stream| {
            let cursor = state.and_then(|state| state.cursors.get(&stream));
            cursor
                .is_none_or(|cursor| cursor.stream_key == 0)
                .then_some((device, stream))
        }));
    }
    new.len()
}

/// Parts the messages that wait, with what is decided of them, from the bodies of those that are
/// committed, whose places are given back.
#[must_use]
pub fn parted(messages: Vec<Message>, waiting: &[LeftOver]) -> (Vec<Message>, Vec<Body>) {
    let decided: HashMap<usize, usize> = waiting
        .iter()
        .map(|one| (one.message, one.decided))
        .collect();
    let (mut waiting, mut committed) = (Vec::new(), Vec::with_capacity(messages.len()));
    for (place, mut message) in messages.into_iter().enumerate() {
        if let Some(decided) = decided.get(&place) {
            message.decided = *decided;
            waiting.push(message);
        } else {
            committed.push(message.into_body());
        }
    }
    (waiting, committed)
}

/// Cuts several messages in two, by device as long as there are several, then by message. The order
/// of each device's messages is kept.
#[must_use]
pub fn halves(mut messages: Vec<Message>) -> (Vec<Message>, Vec<Message>) {
    let devices: BTreeSet<&DeviceId> = messages
        .iter()
        .map(|message| &message.sender().device)
        .collect();
    if devices.len() < 2 {
        let second = messages.split_off(messages.len() / 2);
        return (messages, second);
    }
    let half: HashSet<DeviceId> = devices
        .iter()
        .take(devices.len() / 2)
        .map(|device| (*device).clone())
        .collect();
    messages
        .into_iter()
        .partition(|message| half.contains(&message.sender().device))
}
