//! Sets of sequence numbers from the wire: one set, one form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::SeqSet;

fuzz_target!(|bytes: &[u8]| {
    if let Ok((set, rest)) = postcard::take_from_bytes::<SeqSet>(bytes) {
        let again = postcard::to_stdvec(&set).expect("writable");
        assert_eq!(
            postcard::from_bytes::<SeqSet>(&again).expect("readable"),
            set
        );
        let copy: SeqSet = set.ranges().iter().copied().collect();
        assert_eq!(copy, set);
        if let Ok(other) = postcard::from_bytes::<SeqSet>(rest) {
            let both = set.union(&other);
            assert!(set.is_subset(&both) && other.is_subset(&both));
            assert!(both.difference(&set).is_subset(&other));
            assert_eq!(
                both.count() + set.intersection(&other).count(),
                set.count() + other.count()
            );
        }
    }
});
