//! Every bound of the wire format, in one place. What happens at each is said where it is checked.

/// Passages in one batch, at most.
pub const BATCH_PASSAGES_MAX: usize = 4_096;

/// A whole frame on the wire, at most; the broker's packet limit is this plus the MQTT header.
pub const FRAME_BYTES_MAX: usize = 256 * 1024;

/// A frame's body after decompression, at most. A body that unpacks to more is refused unread.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The header of a frame, at most (its length travels in one byte).
pub const HEADER_BYTES_MAX: usize = 255;

/// The JSON text of a passage's unknown fields, at most.
pub const EXTRA_BYTES_MAX: usize = 2_048;

/// Nesting of that JSON, at most.
pub const EXTRA_DEPTH_MAX: usize = 16;

/// A number plate in UTF-8, at most.
pub const PLATE_BYTES_MAX: usize = 31;

/// The name of a device, at most.
pub const DEVICE_ID_BYTES_MAX: usize = 64;

/// Ranges in one set of sequence numbers on the wire.
pub const RANGES_MAX: usize = 64;
/// Ranges in each set of a cursor at the centre, of which a receipt carries [`RANGES_MAX`]: a store that
/// was damaged in hundreds of places leaves as many holes for ever.
pub const CURSOR_RANGES_MAX: usize = 512;

/// Unfinished streams of one device.
pub const STREAMS_MAX: usize = 64;

/// New streams that one device may begin in a day.
pub const NEW_STREAMS_PER_DAY_MAX: usize = 1_000;

/// Batches of one lane on their way without a receipt: on a slow link as many as a flush of the
/// centre and the way there and back last.
pub const IN_FLIGHT_BATCHES_MAX: usize = 14;

/// Bytes of one device on their way without a receipt. With the devices of a shard this stays
/// under half of the broker's ring for that shard.
pub const IN_FLIGHT_BYTES_MAX: usize = 80 * 1024;

/// A message from this size on is acknowledged (PUBACK) at once, and so is what follows within
/// [`PROMPT_MS`]; PUBACKs of smaller ones may wait for a receipt. Less than any message of a backlog, by
/// which a device measures its link; more than live traffic has in most.
pub const PROMPT_BYTES: usize = 384;

/// For so long after such a message, and after a connection began.
pub const PROMPT_MS: u64 = 10_000;

/// Entries of one summary.
pub const SUMMARY_ENTRIES_MAX: usize = 64;

/// Window deltas in one summary.
pub const SUMMARY_DELTAS_MAX: usize = 1_024;

/// Windows of one entry: what one device may change in one flush of the centre.
pub const SUMMARY_ENTRY_WINDOWS_MAX: usize = 64;

/// Losses in one message.
pub const LOSSES_MAX: usize = 256;

/// The human-readable part of a refusal, a version or a build name.
pub const TEXT_BYTES_MAX: usize = 256;

/// Passages of one device in one 5-minute window; keeps every sum within 63 bits even over a day.
pub const WINDOW_PASSAGES_MAX: u32 = 1 << 20;

/// The highest speed that is kept, in 0.01 km/h.
pub const SPEED_CENTI_KMH_MAX: u16 = 40_000;

/// Lanes are 0 to 15.
pub const LANES: usize = 16;

/// Vehicle classes are 0 to 15 (the numbers of FHWA's scheme F fit).
pub const CLASSES: usize = 16;

/// Length of a vehicle in cm, at most.
pub const LENGTH_CM_MAX: u16 = 10_000;

/// A posted speed limit in km/h, at most.
pub const SPEED_LIMIT_KMH_MAX: u8 = 200;

/// Event times lie between these, in milliseconds since 1970: the years 1970 to 9999.
pub const EVENT_MS_MAX: i64 = 253_402_300_799_999;

/// Passages of one stream: 3,000 years at a million a day. Beyond, the centre refuses: sums over all
/// that a unit may claim then fit 63 bits.
pub const STREAM_PASSAGES_MAX: u64 = 1 << 40;

/// Sequence numbers are 1 to this, so that half-open ranges of them fit PostgreSQL's `int8range`.
pub const SEQ_MAX: u64 = i64::MAX as u64 - 1;
