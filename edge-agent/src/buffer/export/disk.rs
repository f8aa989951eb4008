//! A file read to its end, whatever its disk says: a place that cannot be read costs that place, not
//! all that lies behind it.

use std::io::{self, Read};
#[cfg(doc)]
use std::os::unix::fs::FileExt;

/// What is passed over where the disk fails: the unit in which the kernel reads.
const PAGE_BYTES: u64 = 4 * 1024;

/// The bytes of a file; zeros stand for those that cannot be read.
pub(super) struct Patient<R, L> {
    /// Reads at a place, like [`FileExt::read_at`].
    read_at: R,
    /// Is told of the bytes as they are read.
    look: L,
    /// How far it was read.
    pub(super) at: u64,
    end: u64,
    /// Bytes that the disk did not give.
    pub(super) unread_bytes: u64,
}

impl<R: FnMut(&mut [u8], u64) -> io::Result<usize>, L: FnMut(u64)> Patient<R, L> {
    /// Of a file that is so long now: one that grows meanwhile has no end of its own.
    pub(super) const fn new(read_at: R, look: L, end: u64) -> Self {
        Self {
            read_at,
            look,
            at: 0,
            end,
            unread_bytes: 0,
        }
    }
}

impl<R: FnMut(&mut [u8], u64) -> io::Result<usize>, L: FnMut(u64)> Read for Patient<R, L> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let room = bytes.len().min(left);
        let read = match (self.read_at)(&mut bytes[..room], self.at) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let page = PAGE_BYTES - self.at % PAGE_BYTES;
                let lost = room.min(usize::try_from(page).unwrap_or(room));
                bytes[..lost].fill(0);
                self.unread_bytes += lost as u64;
                lost
            }
            other => other?,
        };
        self.at += read as u64;
        (self.look)(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failing_disk_does_not_give_is_zeros_and_counted_and_the_rest_is_read() {
        let content: Vec<u8> = (0..40_000_u32).map(|n| n.to_be_bytes()[3] | 1).collect();
        // As a disk with two bad pages answers: up to the bad page, then an error.
        let bad = [8_192..12_288, 36_864..40_960_u64];
        let read_at = |bytes: &mut [u8], at: u64| {
            if bad.iter().any(|page| page.contains(&at)) {
                return Err(io::Error::other("input/output error"));
            }
            let until = bad.iter().map(|page| page.start).find(|start| *start > at);
            let until = until.unwrap_or(u64::MAX).min(at + bytes.len() as u64);
            let from = usize::try_from(at).unwrap();
            let part = &content[from..usize::try_from(until).unwrap().min(content.len())];
            bytes[..part.len()].copy_from_slice(part);
            Ok(part.len())
        };
        let mut looked = 0;
        let mut patient = Patient::new(read_at, |more| looked += more, content.len() as u64);
        let mut read = Vec::new();
        patient.read_to_end(&mut read).unwrap();
        let mut expected = content.clone();
        expected[8_192..12_288].fill(0);
        expected[36_864..].fill(0);
        assert!(read == expected);
        assert_eq!(patient.unread_bytes, 4_096 + (40_000 - 36_864));
        assert_eq!(looked, 40_000);
    }

    #[test]
    fn a_file_that_grows_is_read_as_far_as_it_was() {
        let endless = |bytes: &mut [u8], _| {
            bytes.fill(7);
            Ok(bytes.len())
        };
        let mut patient = Patient::new(endless, |_| (), 100_000);
        let read = io::copy(&mut patient, &mut io::sink()).unwrap();
        assert_eq!(read, 100_000);
    }
}
