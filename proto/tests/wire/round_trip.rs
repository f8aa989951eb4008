//! What is written is what is read.

use proptest::prelude::*;
use proto::PassageBatch;
use proto::frame::{Down, UpFrame};

use crate::arbitrary;

proptest! {
    #[test]
    fn a_batch_survives_its_encoding(batch in arbitrary::batch()) {
        let decoded = PassageBatch::decode(&batch.encode(), batch.len()).unwrap();
        prop_assert_eq!(&decoded, &batch);
        prop_assert!(decoded.iter().eq(batch.iter()));
    }

    #[test]
    fn passages_survive_being_columns(passages in prop::collection::vec(arbitrary::passage(), 0..50)) {
        let batch: PassageBatch = passages.iter().cloned().collect();
        prop_assert!(batch.iter().eq(passages));
    }

    #[test]
    fn joined_batches_hold_the_passages_of_both(a in arbitrary::batch(), b in arbitrary::batch()) {
        let mut joined = a.clone();
        joined.extend(&b);
        prop_assert!(joined.iter().eq(a.iter().chain(b.iter())));
        prop_assert_eq!(PassageBatch::decode(&joined.encode(), joined.len()).unwrap(), joined);
    }

    #[test]
    fn a_frame_from_a_unit_survives_the_wire((header, message) in arbitrary::up()) {
        let bytes = message.encode(&header);
        let frame = UpFrame::open(&bytes).unwrap();
        prop_assert_eq!(&frame.header, &header);
        prop_assert_eq!(frame.message().unwrap(), message);
    }

    #[test]
    fn a_frame_from_the_centre_survives_the_wire(message in arbitrary::down()) {
        prop_assert_eq!(Down::decode(&message.encode()).unwrap(), message);
    }
}
