//! zstd for the bodies of frames and for what a unit stores, of which most are small.
//!
//! A thread keeps its contexts: to make one costs more than to pack the passages of a quarter of a
//! second. What comes out depends on the input alone.

use std::cell::RefCell;

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::get_frame_content_size;

/// zstd's own default; higher levels gain under a percent on packed columns.
const LEVEL: i32 = 3;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> =
        RefCell::new(Compressor::new(LEVEL).ok());
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> =
        RefCell::new(Decompressor::new().ok());
}

/// Packs. None when there is no memory for it.
#[must_use]
pub fn compress(plain: &[u8]) -> Option<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(plain).ok())
}

/// Unpacks what this module packed. None for what is not that, or would be longer than `bytes_max`.
///
/// The capacity is the bound: what would not fit ends in an error, however large it claims to be.
#[must_use]
pub fn decompress(packed: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let claimed = get_frame_content_size(packed).ok()??;
    let claimed = usize::try_from(claimed)
        .ok()
        .filter(|size| *size <= bytes_max)?;
    DECOMPRESSOR
        .with_borrow_mut(|decompressor| decompressor.as_mut()?.decompress(packed, claimed).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_remembers_nothing_of_what_went_before() {
        let texts: Vec<Vec<u8>> = (0_u8..20)
            .map(|n| {
                (0..u32::from(n) * 97)
                    .map(|at| (at % 7) as u8 ^ n)
                    .collect()
            })
            .collect();
        let packed: Vec<_> = texts.iter().map(|text| compress(text).unwrap()).collect();
        assert!(decompress(&packed[9][1..], 10_000).is_none());
        assert!(decompress(&packed[9], texts[9].len() - 1).is_none());
        for (text, packed) in texts.iter().zip(&packed).rev() {
            assert_eq!(&decompress(packed, 10_000).unwrap(), text);
            assert_eq!(&compress(text).unwrap(), packed);
        }
    }
}
