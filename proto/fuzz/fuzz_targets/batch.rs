//! Bodies of batches; the first two bytes are the count that the header would promise.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::{PassageBatch, window};

fuzz_target!(|bytes: &[u8]| {
    let Some((count, body)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let count = usize::from(u16::from_le_bytes(*count));
    if let Ok(batch) = PassageBatch::decode(body, count) {
        assert_eq!(batch.len(), count);
        let copy: PassageBatch = batch.iter().collect();
        assert!(copy.iter().eq(batch.iter()));
        let counted: u32 = window::fold(&batch, |_| true)
            .iter()
            .map(|delta| delta.stats.n)
            .sum();
        assert_eq!(counted as usize, count);
    }
});
