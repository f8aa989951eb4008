//! An item cut into the texts of its fields. Pure.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::shown;

/// Fields of one item, at most.
pub(super) const FIELDS_MAX: usize = 128;

/// The fields of an item as texts, in their order, each name once.
pub(super) struct Fields<'a> {
    pub(super) fields: Vec<(Cow<'a, str>, &'a str)>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        use serde::de::Error;
        let mut fields: Vec<(Cow<'de, str>, &'de str)> = Vec::with_capacity(8);
        while let Some(Name(name)) = map.next_key()? {
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!(
                    "has the field {:?} twice",
                    shown(&name)
                )));
            }
            if fields.len() == FIELDS_MAX {
                return Err(A::Error::custom(format!(
                    "has more than {FIELDS_MAX} fields"
                )));
            }
            fields.push((name, map.next_value::<&'de RawValue>()?.get()));
        }
        Ok(Fields { fields })
    }
}

/// A field's name, borrowed unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;
        impl<'de> Visitor<'de> for NameVisitor {
            type Value = Name<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }
            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }
            fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(NameVisitor)
    }
}
