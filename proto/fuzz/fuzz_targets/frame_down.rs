//! Frames from the centre, as they are and with their checksum mended as an attacker would.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::frame::Down;

fuzz_target!(|bytes: &[u8]| {
    let mut mended = bytes.to_vec();
    if mended.len() >= 8 {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&mended[..4]), &mended[8..]);
        mended[4..8].copy_from_slice(&crc.to_le_bytes());
    }
    for bytes in [bytes, &mended] {
        if let Ok(message) = Down::decode(bytes) {
            assert_eq!(Down::decode(&message.encode()).expect("readable"), message);
        }
    }
});
