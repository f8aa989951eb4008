//! ● As much of the kernel's FUSE protocol (`linux/fuse.h`, version 7.31) as a file system of one file
//! needs. Bytes in, bytes out; numbers are in the order of the machine.
//!
//! A crate would bring a dozen others for seven requests.

use super::tape::SECTOR_BYTES;

/// Bytes of one write, at most; what is read of the kernel at once must have room for it.
pub(super) const WRITE_BYTES_MAX: usize = 128 * 1024;

/// Bytes of a request, at most.
pub(super) const REQUEST_BYTES_MAX: usize = WRITE_BYTES_MAX + 64 * 1024;

/// The name of the one file.
pub(super) const DISK: &str = "disk";

const ROOT_NODE: u64 = 1;
const DISK_NODE: u64 = 2;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

const IN_HEADER_BYTES: usize = 40;
const OUT_HEADER_BYTES: u32 = 16;
const WRITE_HEADER_BYTES: usize = 40;

const MAJOR: u32 = 7;
const MINOR: u32 = 31;
const BIG_WRITES: u32 = 1 << 5;
const BACKGROUND_MAX: u32 = 16;

/// Nothing changes its name or its size.
const VALID_S: u64 = 3_600;

const DIRECTORY_MODE: u32 = 0o040_700;
const FILE_MODE: u32 = 0o100_600;

const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

/// What the kernel asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// Answered here: names, sizes, opening and closing.
    Answered,
    /// Wants no answer.
    Told,
    /// Bytes of the disk.
    Read { at: usize, count: usize },
    /// Bytes for the disk.
    Write { at: usize, bytes: &'a [u8] },
    /// What was written is to be certain.
    Sync,
}

/// One request, and the answer where it needs no disk.
#[derive(Debug)]
pub(super) struct Request<'a> {
    unique: u64,
    pub(super) asked: Asked<'a>,
    answer: Result<Vec<u8>, i32>,
}

impl<'a> Request<'a> {
    /// None for bytes that are no request.
    pub(super) fn read(bytes: &'a [u8], disk_bytes: usize) -> Option<Self> {
        let (header, body) = bytes.split_at_checked(IN_HEADER_BYTES)?;
        let (code, node) = (u32_at(header, 4)?, u64_at(header, 16)?);
        let mut asked = Asked::Answered;
        let answer = match code {
            INIT => Ok(init_out()),
            LOOKUP if node == ROOT_NODE && body.strip_suffix(b"\0") == Some(DISK.as_bytes()) => {
                Ok(entry_out(disk_bytes))
            }
            LOOKUP => Err(ENOENT),
            GETATTR => Ok(attributes_out(node, disk_bytes)),
            // A handle, flags and padding: all zero.
            OPEN => Ok(vec![0; 16]),
            RELEASE | FLUSH => Ok(Vec::new()),
            READ => {
                let at = usize::try_from(u64_at(body, 8)?).ok()?;
                let count = usize::try_from(u32_at(body, 16)?).ok()?;
                asked = Asked::Read { at, count };
                Ok(Vec::new())
            }
            WRITE => {
                let at = usize::try_from(u64_at(body, 8)?).ok()?;
                let bytes = body.get(WRITE_HEADER_BYTES..)?;
                asked = Asked::Write { at, bytes };
                let mut out = u32::try_from(bytes.len()).ok()?.to_ne_bytes().to_vec();
                out.extend([0; 4]);
                Ok(out)
            }
            FSYNC => {
                asked = Asked::Sync;
                Ok(Vec::new())
            }
            FORGET | BATCH_FORGET | INTERRUPT => {
                asked = Asked::Told;
                Ok(Vec::new())
            }
            _ => Err(ENOSYS),
        };
        Some(Self {
            unique: u64_at(header, 8)?,
            asked,
            answer,
        })
    }

    /// The answer; bytes that were read go into it.
    pub(super) fn answer(self, read: &[u8]) -> Vec<u8> {
        let (error, body) = match self.answer {
            Ok(body) => (0, [body.as_slice(), read].concat()),
            Err(error) => (-error, Vec::new()),
        };
        let bytes = OUT_HEADER_BYTES + u32::try_from(body.len()).unwrap_or(0);
        let mut out = bytes.to_ne_bytes().to_vec();
        out.extend(error.to_ne_bytes());
        out.extend(self.unique.to_ne_bytes());
        out.extend(body);
        out
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// `fuse_init_out`.
fn init_out() -> Vec<u8> {
    let write_bytes_max = u32::try_from(WRITE_BYTES_MAX).unwrap_or(u32::MAX);
    let mut out = Vec::new();
    for word in [
        MAJOR,
        MINOR,
        0,
        BIG_WRITES,
        // Two numbers of 16 bits: in the background, and when that is too many.
        BACKGROUND_MAX | BACKGROUND_MAX << 16,
        write_bytes_max,
        1,
    ] {
        out.extend(word.to_ne_bytes());
    }
    out.resize(64, 0);
    out
}

/// `fuse_entry_out` of the disk.
fn entry_out(disk_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [DISK_NODE, 0, VALID_S, VALID_S, 0] {
        out.extend(word.to_ne_bytes());
    }
    out.extend(attributes(DISK_NODE, disk_bytes));
    out
}

/// `fuse_attr_out`.
fn attributes_out(node: u64, disk_bytes: usize) -> Vec<u8> {
    let mut out = [VALID_S.to_ne_bytes(), [0; 8]].concat();
    out.extend(attributes(node, disk_bytes));
    out
}

/// `fuse_attr`.
fn attributes(node: u64, disk_bytes: usize) -> Vec<u8> {
    let (mode, size) = if node == DISK_NODE {
        (FILE_MODE, disk_bytes as u64)
    } else {
        (DIRECTORY_MODE, 0)
    };
    let mut out = Vec::new();
    for word in [node, size, size.div_ceil(SECTOR_BYTES as u64), 0, 0, 0] {
        out.extend(word.to_ne_bytes());
    }
    for word in [0, 0, 0, mode, 1, 0, 0, 0, 4_096, 0_u32] {
        out.extend(word.to_ne_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(code: u32, node: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(code.to_ne_bytes());
        bytes.extend(7_u64.to_ne_bytes());
        bytes.extend(node.to_ne_bytes());
        bytes.extend([0; 16]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn answers_have_the_lengths_that_the_kernel_wants() {
        for (code, body, bytes) in [
            (INIT, &b""[..], 64),
            (LOOKUP, b"disk\0", 128),
            (GETATTR, b"", 104),
            (OPEN, b"", 16),
            (FSYNC, b"", 0),
        ] {
            let request = request(code, ROOT_NODE, body);
            let answer = Request::read(&request, 512).expect("a request").answer(&[]);
            assert_eq!(answer.len(), 16 + bytes, "request {code}");
            assert_eq!(u32_at(&answer, 0), u32::try_from(answer.len()).ok());
            assert_eq!(u64_at(&answer, 8), Some(7));
        }
    }

    #[test]
    fn reads_and_writes_say_where() {
        let mut body = vec![0; WRITE_HEADER_BYTES];
        body[8..16].copy_from_slice(&4_096_u64.to_ne_bytes());
        body[16..20].copy_from_slice(&3_u32.to_ne_bytes());
        let read = request(READ, DISK_NODE, &body);
        let asked = Request::read(&read, 512).map(|request| request.asked);
        assert_eq!(
            asked,
            Some(Asked::Read {
                at: 4_096,
                count: 3
            })
        );
        body.extend(b"abc");
        let write = request(WRITE, DISK_NODE, &body);
        let asked = Request::read(&write, 512).map(|request| request.asked);
        assert_eq!(
            asked,
            Some(Asked::Write {
                at: 4_096,
                bytes: b"abc"
            })
        );
        assert!(Request::read(&write[..30], 512).is_none());
    }
}
