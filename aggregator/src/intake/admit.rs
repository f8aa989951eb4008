//! The door: what may be on its way from the broker to the COMMIT at any time.
//!
//! Three limits: bytes of all frames together, frames of one device, number of devices. A frame above
//! a limit is dropped and counted; it was not receipted, so its unit sends it again. A frame gives its
//! place back when the last that is left of it is dropped, whatever became of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use bytes::Bytes;
use proto::device::DeviceId;
use proto::limits::IN_FLIGHT_BYTES_MAX;
use proto::topic::{Shard, Topic};

use super::lane::Lane;

/// Frames between the broker's client and the threads that decode. It is never the first limit to be
/// reached by frames of ordinary size; beyond, frames are dropped.
pub const QUEUE_FRAMES_MAX: usize = 65_536;

/// Why a frame was dropped at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dropped {
    /// A topic that is not a device's.
    Topic,
    /// More devices than the centre will know.
    Devices,
    /// More frames of this device than may be on their way.
    DeviceFrames,
    /// More bytes than may be on their way.
    Bytes,
    /// More frames than may be on their way.
    Queue,
    /// Intake is closed.
    Closed,
    /// Bad length, checksum or header.
    Damaged,
    /// Its shard is not owned here.
    Shard,
}

impl Dropped {
    /// The word for it in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Devices => "devices",
            Self::DeviceFrames => "device_frames",
            Self::Bytes => "bytes",
            Self::Queue => "queue",
            Self::Closed => "closed",
            Self::Damaged => "damaged",
            Self::Shard => "shard",
        }
    }
}

/// Bounds of the door.
#[derive(Debug, Clone, Copy)]
pub struct DoorLimits {
    /// Bytes of all frames.
    pub bytes_max: usize,
    /// Frames of one device.
    pub device_frames_max: u32,
    /// Devices.
    pub devices_max: usize,
}

/// The door. One for each way in; its clones share the count of bytes.
#[derive(Debug)]
pub struct Door {
    limits: DoorLimits,
    bytes: Arc<AtomicUsize>,
    /// By topic, so that a frame costs one look-up.
    senders: HashMap<String, Arc<Sender>>,
}

/// A device as the door sees it.
#[derive(Debug)]
pub struct Sender {
    /// Its name.
    pub device: DeviceId,
    /// Its shard.
    pub shard: Shard,
    frames: AtomicU32,
    bytes: AtomicUsize,
}

impl Sender {
    /// Whether so much of it is on its way that the device must soon wait for a receipt before it may
    /// send more.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) >= IN_FLIGHT_BYTES_MAX / 2
    }
}

/// A frame's place among those on their way.
#[derive(Debug)]
pub struct Place {
    sender: Arc<Sender>,
    lane: Lane,
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Place {
    /// Whose frame it is.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// On which way it goes.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        self.lane
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sender.frames.fetch_sub(1, Ordering::Relaxed);
        self.sender.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A frame on its way.
#[derive(Debug)]
pub struct Frame {
    /// Its place, given back when the frame is gone.
    pub place: Place,
    /// The frame as the unit made it.
    pub bytes: Bytes,
}

impl Door {
    /// An open door with nothing on its way.
    #[must_use]
    pub fn new(limits: DoorLimits) -> Self {
        Self {
            limits,
            bytes: Arc::default(),
            senders: HashMap::new(),
        }
    }

    /// The same door, whose frames are counted together with those of other doors.
    #[must_use]
    pub fn counting(self, bytes: Arc<AtomicUsize>) -> Self {
        Self { bytes, ..self }
    }

    /// Lets a frame in, or says why not.
    ///
    /// # Errors
    /// The limit that it would exceed.
    pub fn admit(&mut self, topic: &str, bytes: Bytes) -> Result<Frame, Dropped> {
        let sender = self.sender(topic)?;
        // Taken first and given back by `Place` when a limit refuses, so that no count goes astray.
        let frames = sender.frames.fetch_add(1, Ordering::Relaxed) + 1;
        let total = self.bytes.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        let of_device = sender.bytes.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        let place = Place {
            sender,
            lane: Lane::of(of_device),
            bytes: bytes.len(),
            total: self.bytes.clone(),
        };
        if frames > self.limits.device_frames_max {
            return Err(Dropped::DeviceFrames);
        }
        if total > self.limits.bytes_max {
            return Err(Dropped::Bytes);
        }
        Ok(Frame { place, bytes })
    }

    fn sender(&mut self, topic: &str) -> Result<Arc<Sender>, Dropped> {
        if let Some(known) = self.senders.get(topic) {
            return Ok(known.clone());
        }
        let Some(Topic::Up(device)) = Topic::parse(topic) else {
            return Err(Dropped::Topic);
        };
        if self.senders.len() >= self.limits.devices_max {
            return Err(Dropped::Devices);
        }
        let shard = Shard::of(&device);
        let sender = Arc::new(Sender {
            device,
            shard,
            frames: AtomicU32::new(0),
            bytes: AtomicUsize::new(0),
        });
        self.senders.insert(topic.to_owned(), sender.clone());
        Ok(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DoorLimits = DoorLimits {
        bytes_max: 100,
        device_frames_max: 3,
        devices_max: 2,
    };

    fn topic(device: &str) -> String {
        proto::topic::up(&DeviceId::new(device).unwrap())
    }

    fn bytes(len: usize) -> Bytes {
        Bytes::from(vec![0; len])
    }

    #[test]
    fn a_flooding_device_is_bounded_and_the_others_get_in() {
        let mut door = Door::new(LIMITS);
        let held: Vec<Frame> = (0..3)
            .map(|_| door.admit(&topic("loud"), bytes(1)).unwrap())
            .collect();
        assert_eq!(
            door.admit(&topic("loud"), bytes(1)).unwrap_err(),
            Dropped::DeviceFrames
        );
        assert!(door.admit(&topic("quiet"), bytes(1)).is_ok());
        drop(held);
        assert!(door.admit(&topic("loud"), bytes(1)).is_ok());
    }

    #[test]
    fn bytes_are_given_back_whether_let_in_or_not() {
        let mut door = Door::new(LIMITS);
        let held = door.admit(&topic("a"), bytes(90)).unwrap();
        assert_eq!(
            door.admit(&topic("b"), bytes(11)).unwrap_err(),
            Dropped::Bytes
        );
        assert_eq!(door.bytes.load(Ordering::Relaxed), 90);
        drop(held);
        assert_eq!(door.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_device_is_held_up_from_half_of_what_may_lack_a_receipt_until_it_is_given_back() {
        let mut door = Door::new(DoorLimits {
            bytes_max: 2 * IN_FLIGHT_BYTES_MAX,
            ..LIMITS
        });
        let half = IN_FLIGHT_BYTES_MAX / 2;
        let first = door.admit(&topic("late"), bytes(half - 1)).unwrap();
        let live = door.admit(&topic("live"), bytes(1)).unwrap();
        assert!(!first.place.sender().is_held_up());
        let second = door.admit(&topic("late"), bytes(1)).unwrap();
        assert!(first.place.sender().is_held_up());
        assert!(!live.place.sender().is_held_up());
        let lanes = [&first, &second, &live].map(|frame| frame.place.lane());
        assert_eq!(lanes, [Lane::Backlog, Lane::Backlog, Lane::Live]);
        drop(first);
        assert!(!second.place.sender().is_held_up());
    }

    #[test]
    fn strange_topics_and_too_many_devices_are_dropped() {
        let mut door = Door::new(LIMITS);
        assert_eq!(
            door.admit("verst/1/00/beacon", bytes(1)).unwrap_err(),
            Dropped::Topic
        );
        assert!(door.admit(&topic("a"), bytes(1)).is_ok());
        assert!(door.admit(&topic("b"), bytes(1)).is_ok());
        assert_eq!(
            door.admit(&topic("c"), bytes(1)).unwrap_err(),
            Dropped::Devices
        );
    }
}
