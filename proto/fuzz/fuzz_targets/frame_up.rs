//! Frames from a unit, as they are and with their checksum mended as an attacker would.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::frame::{Up, UpFrame};
use proto::{PassageBatch, window};

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let mut mended = bytes.to_vec();
    if mended.len() >= 8 {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&mended[..4]), &mended[8..]);
        mended[4..8].copy_from_slice(&crc.to_le_bytes());
        read(&mended);
    }
});

fn read(bytes: &[u8]) {
    let Ok(frame) = UpFrame::open(bytes) else {
        return;
    };
    let Ok(message) = frame.message() else { return };
    if let Up::Passages(batch) = &message {
        window::fold(batch, |_| true)
            .iter()
            .for_each(|delta| delta.check().expect("consistent"));
        let again = PassageBatch::decode(&batch.encode(), batch.len()).expect("readable");
        assert_eq!(&again, batch);
    }
    let again = message.encode(&frame.header);
    let again = UpFrame::open(&again).expect("readable");
    assert_eq!(again.message().expect("readable"), message);
}
