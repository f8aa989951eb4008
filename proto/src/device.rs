//! Who speaks: names of devices, streams and centres.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::DEVICE_ID_BYTES_MAX;

/// The name of a camera unit: `[A-Za-z0-9_-]{1,64}`, the `kvfv_id` of the input and of REST paths.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(Arc<str>);

/// A name that is not a [`DeviceId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceIdError {
    /// Nothing there, or more than 64 bytes.
    #[error("device name {0:?} has {1} bytes, allowed are 1 to {DEVICE_ID_BYTES_MAX}")]
    Length(String, usize),
    /// Something else than a letter, a digit, `_` or `-`.
    #[error("device name {0:?} contains {1:?}, allowed are A-Z a-z 0-9 _ -")]
    Character(String, char),
}

impl DeviceId {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is empty, too long, or has a character that a topic or a path could misread.
    pub fn new(name: &str) -> Result<Self, DeviceIdError> {
        if name.is_empty() || name.len() > DEVICE_ID_BYTES_MAX {
            let shown = name.chars().take(DEVICE_ID_BYTES_MAX).collect();
            return Err(DeviceIdError::Length(shown, name.len()));
        }
        match name
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))
        {
            Some(c) => Err(DeviceIdError::Character(name.to_owned(), c)),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceId({})", self.0)
    }
}

impl TryFrom<String> for DeviceId {
    type Error = DeviceIdError;
    fn try_from(name: String) -> Result<Self, DeviceIdError> {
        Self::new(&name)
    }
}

impl std::str::FromStr for DeviceId {
    type Err = DeviceIdError;
    fn from_str(name: &str) -> Result<Self, DeviceIdError> {
        Self::new(name)
    }
}

impl From<DeviceId> for String {
    fn from(id: DeviceId) -> Self {
        id.0.as_ref().to_owned()
    }
}

macro_rules! id_128 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps 16 bytes that the caller drew from the system's random source.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

id_128! {
    /// One run of one agent: 128 random bits, shown as 32 hexadecimal digits. Their order means
    /// nothing.
    StreamId
}

id_128! {
    /// One database at the centre: drawn when it is created, pinned by every agent.
    CentreId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_topic_could_misread_are_refused() {
        for bad in [
            "",
            "a/b",
            "a+b",
            "#",
            "$SYS",
            "é",
            "a b",
            "a\0",
            &"x".repeat(65),
        ] {
            assert!(DeviceId::new(bad).is_err(), "{bad:?}");
        }
        for good in ["KV12345", "dvrpc-165367", "_", &"x".repeat(64)] {
            assert_eq!(DeviceId::new(good).unwrap().as_str(), good);
        }
    }
}
