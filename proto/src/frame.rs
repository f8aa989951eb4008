//! The envelope of every message.
//!
//! ```text
//! byte  0        version
//! byte  1        kind
//! byte  2        codec of the body: 0 plain, 1 zstd
//! byte  3        length of the header
//! bytes 4 to 7   crc32c, little endian, of everything else
//! then           header (postcard), body
//! ```
//! The first eight bytes, and the header's existing fields, are frozen for all versions. A frame
//! with a bad checksum is dropped, never refused by the range that it claims.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::batch::{BatchError, PassageBatch};
use crate::codec;
use crate::header::UpHeader;
use crate::heartbeat::{Heartbeat, HeartbeatError};
use crate::limits::{BODY_BYTES_MAX, FRAME_BYTES_MAX};
use crate::loss::{Losses, LossesError};
use crate::receipt::{Beacon, Correction, Receipt, Refusal};
use crate::summary::{Summary, SummaryError};

/// The version that this crate writes.
pub const WIRE_VERSION: u8 = 1;

/// The oldest version that this crate reads.
pub const WIRE_VERSION_MIN: u8 = 1;

const PREFIX_BYTES: usize = 8;
const CRC_AT: std::ops::Range<usize> = 4..8;

const CODEC_PLAIN: u8 = 0;
const CODEC_ZSTD: u8 = 1;

/// Bodies below this gain nothing from zstd.
const COMPRESS_FROM_BYTES: usize = 96;

const KIND_PASSAGES: u8 = 1;
const KIND_SUMMARY: u8 = 2;
const KIND_LOSS: u8 = 3;
const KIND_HEARTBEAT: u8 = 4;
const KIND_RECEIPT: u8 = 16;
const KIND_REFUSAL: u8 = 17;
const KIND_BEACON: u8 = 18;

/// What a unit says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    /// A run of consecutive passages.
    Passages(PassageBatch),
    /// Window deltas.
    Summary(Summary),
    /// Declared losses.
    Loss(Losses),
    /// The unit's state.
    Heartbeat(Heartbeat),
}

/// What the centre says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// Committed.
    Receipt(Receipt),
    /// Not taken.
    Refusal(Refusal),
    /// Who owns the shard.
    Beacon(Beacon),
}

/// A frame that is dropped: nothing in it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than its own prefix or header.
    #[error("frame of {0} bytes is cut short")]
    Short(usize),
    /// Longer than anybody may send.
    #[error("frame of {0} bytes is above the limit of {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// Damaged on the way.
    #[error("frame's checksum is wrong")]
    Checksum,
    /// The header cannot be read.
    #[error("frame's header is malformed")]
    Header,
}

/// Why a body with a good checksum is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Another version than this crate reads; `later`.
    #[error(
        "wire version {0} is not supported, supported are {WIRE_VERSION_MIN} to {WIRE_VERSION}"
    )]
    Version(u8),
    /// A kind that this crate does not know; `later`.
    #[error("message kind {0} is not known in wire version {WIRE_VERSION}")]
    Kind(u8),
    /// A codec that this crate does not know; `later`.
    #[error("body codec {0} is not known in wire version {WIRE_VERSION}")]
    Codec(u8),
    /// Not zstd, or unpacks to more than the limit.
    #[error("body does not decompress within {BODY_BYTES_MAX} bytes")]
    Compression,
    /// Not the layout of its kind.
    #[error("body is malformed: {0}")]
    Malformed(#[from] postcard::Error),
    /// Header and body speak of different passages.
    #[error("header stands for {header} passages, body for {body}")]
    Range {
        /// What the header says.
        header: String,
        /// What the body says.
        body: String,
    },
    /// A batch that is none.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A summary that cannot be true.
    #[error(transparent)]
    Summary(#[from] SummaryError),
    /// A declaration of losses beyond its bounds.
    #[error(transparent)]
    Losses(#[from] LossesError),
    /// A heartbeat beyond its bounds.
    #[error(transparent)]
    Heartbeat(#[from] HeartbeatError),
}

impl BodyError {
    /// Whether a newer centre might understand it: refuse `later`, not `never`.
    #[must_use]
    pub const fn is_from_another_version(&self) -> bool {
        matches!(self, Self::Version(_) | Self::Kind(_) | Self::Codec(_))
    }
}

/// A frame from a unit, checked up to its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpFrame<'a> {
    /// What it says of itself.
    pub header: UpHeader,
    envelope: Envelope<'a>,
}

impl<'a> UpFrame<'a> {
    /// Checks length, checksum and header.
    ///
    /// # Errors
    /// When nothing in the frame can be trusted.
    pub fn open(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let (envelope, header) = Envelope::open(bytes)?;
        let (header, _later_fields) =
            postcard::take_from_bytes(header).map_err(|_| FrameError::Header)?;
        Ok(Self { header, envelope })
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Says whether another version might read it, or nobody ever will.
    pub fn message(&self) -> Result<Up, BodyError> {
        let known = self.envelope.known()?;
        let kind = match known.kind {
            KIND_PASSAGES..=KIND_HEARTBEAT => known.kind,
            other => return Err(BodyError::Kind(other)),
        };
        let body = known.body()?;
        match kind {
            KIND_PASSAGES => {
                let count = usize::try_from(self.header.count).unwrap_or(usize::MAX);
                let batch = PassageBatch::decode(&body, count)?;
                if self.header.range().is_none() {
                    return Err(self.contradiction(format!("{} beyond the numbers", batch.len())));
                }
                Ok(Up::Passages(batch))
            }
            KIND_SUMMARY => {
                let summary: Summary = exactly(&body)?;
                summary.check()?;
                let count: u64 = summary.entries.iter().map(|entry| entry.seqs.count()).sum();
                if count != u64::from(self.header.count) {
                    return Err(self.contradiction(count.to_string()));
                }
                Ok(Up::Summary(summary))
            }
            KIND_LOSS => {
                let losses: Losses = exactly(&body)?;
                losses.check()?;
                Ok(Up::Loss(losses))
            }
            _ => {
                let heartbeat: Heartbeat = exactly(&body)?;
                heartbeat.check()?;
                Ok(Up::Heartbeat(heartbeat))
            }
        }
    }

    fn contradiction(&self, body: String) -> BodyError {
        let header = format!("{} from {}", self.header.count, self.header.first);
        BodyError::Range { header, body }
    }
}

impl Up {
    /// The frame of this message.
    #[must_use]
    pub fn encode(&self, header: &UpHeader) -> Vec<u8> {
        let header = postcard::to_stdvec(header).unwrap_or_default();
        match self {
            Self::Passages(batch) => seal(KIND_PASSAGES, &header, &batch.encode()),
            Self::Summary(summary) => seal(KIND_SUMMARY, &header, &to_bytes(summary)),
            Self::Loss(losses) => seal(KIND_LOSS, &header, &to_bytes(losses)),
            Self::Heartbeat(heartbeat) => seal(KIND_HEARTBEAT, &header, &to_bytes(heartbeat)),
        }
    }
}

/// Why a frame from the centre is not taken; the unit keeps what it has and sends again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownError {
    /// Damaged.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// Not understood.
    #[error(transparent)]
    Body(#[from] BodyError),
}

impl Down {
    /// The frame of this message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Receipt(receipt) => {
                let header = receipt.correction.as_ref().map(to_bytes);
                seal(
                    KIND_RECEIPT,
                    &header.unwrap_or_default(),
                    &to_bytes(receipt),
                )
            }
            Self::Refusal(refusal) => seal(KIND_REFUSAL, &[], &to_bytes(refusal)),
            Self::Beacon(beacon) => seal(KIND_BEACON, &[], &to_bytes(beacon)),
        }
    }

    /// Reads a frame from the centre.
    ///
    /// # Errors
    /// When it is damaged or not understood.
    pub fn decode(bytes: &[u8]) -> Result<Self, DownError> {
        let (envelope, header) = Envelope::open(bytes)?;
        let known = envelope.known()?;
        match known.kind {
            KIND_RECEIPT => {
                let mut receipt: Receipt = exactly(&known.body()?)?;
                receipt.correction = correction(header)?;
                Ok(Self::Receipt(receipt))
            }
            KIND_REFUSAL => Ok(Self::Refusal(exactly(&known.body()?)?)),
            KIND_BEACON => Ok(Self::Beacon(exactly(&known.body()?)?)),
            other => Err(BodyError::Kind(other).into()),
        }
    }
}

/// The header of a receipt; most have none.
fn correction(header: &[u8]) -> Result<Option<Correction>, FrameError> {
    if header.is_empty() {
        return Ok(None);
    }
    let (correction, _later_fields) =
        postcard::take_from_bytes(header).map_err(|_| FrameError::Header)?;
    Ok(Some(correction))
}

/// A frame's parts after its length and checksum were found good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Envelope<'a> {
    version: u8,
    kind: u8,
    codec: u8,
    packed_body: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn open(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), FrameError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(bytes.len()));
        }
        let short = FrameError::Short(bytes.len());
        let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>().ok_or(short)?;
        let [version, kind, codec, header_len, crc @ ..] = *prefix;
        if checksum(&prefix[..CRC_AT.start], rest) != u32::from_le_bytes(crc) {
            return Err(FrameError::Checksum);
        }
        let (header, packed_body) = rest
            .split_at_checked(usize::from(header_len))
            .ok_or(short)?;
        Ok((
            Self {
                version,
                kind,
                codec,
                packed_body,
            },
            header,
        ))
    }

    fn known(self) -> Result<Self, BodyError> {
        if (WIRE_VERSION_MIN..=WIRE_VERSION).contains(&self.version) {
            Ok(self)
        } else {
            Err(BodyError::Version(self.version))
        }
    }

    fn body(self) -> Result<std::borrow::Cow<'a, [u8]>, BodyError> {
        match self.codec {
            CODEC_PLAIN => Ok(self.packed_body.into()),
            CODEC_ZSTD => decompress(self.packed_body).map(Into::into),
            other => Err(BodyError::Codec(other)),
        }
    }
}

fn decompress(packed: &[u8]) -> Result<Vec<u8>, BodyError> {
    codec::decompress(packed, BODY_BYTES_MAX).ok_or(BodyError::Compression)
}

fn seal(kind: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
    let packed = (body.len() >= COMPRESS_FROM_BYTES)
        .then(|| codec::compress(body))
        .flatten()
        .filter(|packed| packed.len() < body.len());
    let (codec, body) = packed
        .as_deref()
        .map_or((CODEC_PLAIN, body), |p| (CODEC_ZSTD, p));
    let header_len = u8::try_from(header.len()).unwrap_or(u8::MAX);
    let prefix = [WIRE_VERSION, kind, codec, header_len];
    let mut frame = Vec::with_capacity(PREFIX_BYTES + header.len() + body.len());
    frame.extend_from_slice(&prefix);
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(header);
    frame.extend_from_slice(body);
    let crc = checksum(&prefix, &frame[PREFIX_BYTES..]);
    frame[CRC_AT].copy_from_slice(&crc.to_le_bytes());
    frame
}

fn checksum(prefix: &[u8], rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(prefix), rest)
}

fn to_bytes(message: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(message).unwrap_or_default()
}

fn exactly<T: DeserializeOwned>(body: &[u8]) -> Result<T, BodyError> {
    let (message, rest) = postcard::take_from_bytes(body)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(BatchError::TrailingBytes(rest.len()).into())
    }
}
