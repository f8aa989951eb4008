//! Number plates: kept as text, replaced by a keyed hash, or absent.
//!
//! Plates of the Russian civil pattern (letter, three digits, two letters, region; GOST R 50577)
//! are nearly all that a unit sees, so they travel as two small numbers instead of as text.

use std::fmt;

use crate::limits::PLATE_BYTES_MAX;

/// A plate as text, held without an allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlateText {
    len: u8,
    bytes: [u8; PLATE_BYTES_MAX],
}

/// A text that cannot be a plate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlateError {
    /// Empty or over 31 bytes of UTF-8.
    #[error("number plate has {0} bytes, allowed are 1 to {PLATE_BYTES_MAX}")]
    Length(usize),
    /// A control character.
    #[error("number plate contains the control character {0:?}")]
    Control(char),
}

impl PlateText {
    /// Checks a text.
    ///
    /// # Errors
    /// When it is empty, over 31 bytes, or has a control character.
    pub fn new(text: &str) -> Result<Self, PlateError> {
        if text.is_empty() || text.len() > PLATE_BYTES_MAX {
            return Err(PlateError::Length(text.len()));
        }
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            return Err(PlateError::Control(control));
        }
        let mut bytes = [0; PLATE_BYTES_MAX];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most 31 by the check above"
        )]
        Ok(Self {
            len: text.len() as u8,
            bytes,
        })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Debug for PlateText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlateText({:?})", self.as_str())
    }
}

/// What is known of a vehicle's plate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Plate {
    /// Not read, or dropped at the unit.
    #[default]
    Absent,
    /// As read.
    Text(PlateText),
    /// A keyed hash of it (HMAC, first 8 bytes).
    Hash([u8; 8]),
}

/// A plate of the civil pattern as two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Civil {
    /// Letters and serial number, below [`Civil::BODIES`]; the second half is the Latin script.
    pub(crate) body: u32,
    /// Two digits as they are, three digits plus 100: below [`Civil::REGIONS`].
    pub(crate) region: u16,
}

const CYRILLIC: [char; 12] = ['А', 'В', 'Е', 'К', 'М', 'Н', 'О', 'Р', 'С', 'Т', 'У', 'Х'];
const LATIN: [char; 12] = ['A', 'B', 'E', 'K', 'M', 'H', 'O', 'P', 'C', 'T', 'Y', 'X'];
const BODIES_PER_SCRIPT: u32 = 12 * 12 * 12 * 1_000;

impl Civil {
    pub(crate) const BODIES: u32 = 2 * BODIES_PER_SCRIPT;
    pub(crate) const REGIONS: u16 = 1_100;

    /// The numbers of a plate, none where the text has another pattern or mixes scripts.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let mut chars = text.chars();
        let first = chars.next()?;
        let (script, letters) = [CYRILLIC, LATIN]
            .iter()
            .enumerate()
            .find_map(|(script, letters)| letters.contains(&first).then_some((script, letters)))?;
        let letter = |c: char| letters.iter().position(|known| *known == c);
        let mut number = letter(first)?;
        for _ in 0..3 {
            number = number * 10 + chars.next()?.to_digit(10)? as usize;
        }
        for _ in 0..2 {
            number = number * 12 + letter(chars.next()?)?;
        }
        let region = chars.as_str();
        if !region.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let region = match region.len() {
            2 => region.parse::<u16>().ok()?,
            3 => 100 + region.parse::<u16>().ok()?,
            _ => return None,
        };
        let body = u32::try_from(number).ok()? + u32::try_from(script).ok()? * BODIES_PER_SCRIPT;
        Some(Self { body, region })
    }

    /// The text of the numbers; none where they are out of range.
    pub(crate) fn to_text(self) -> Option<PlateText> {
        if self.body >= Self::BODIES || self.region >= Self::REGIONS {
            return None;
        }
        let letters = if self.body < BODIES_PER_SCRIPT {
            &CYRILLIC
        } else {
            &LATIN
        };
        let mut rest = self.body % BODIES_PER_SCRIPT;
        let mut take = |base: u32| {
            let digit = rest % base;
            rest /= base;
            digit
        };
        let (third, second) = (take(12), take(12));
        let (units, tens, hundreds) = (take(10), take(10), take(10));
        let first = take(12);
        let mut text = PlateText {
            len: 0,
            bytes: [0; PLATE_BYTES_MAX],
        };
        text.push(letters[first as usize]);
        for digit in [hundreds, tens, units] {
            text.push(char::from_digit(digit, 10)?);
        }
        text.push(letters[second as usize]);
        text.push(letters[third as usize]);
        let (region, digits) = if self.region < 100 {
            (self.region, 2)
        } else {
            (self.region - 100, 3)
        };
        for place in (0..digits).rev() {
            text.push(char::from_digit(
                u32::from(region) / 10_u32.pow(place) % 10,
                10,
            )?);
        }
        Some(text)
    }
}

impl PlateText {
    /// Appends a character; the civil pattern's 12 bytes always fit.
    fn push(&mut self, c: char) {
        let start = usize::from(self.len);
        let written = c.encode_utf8(&mut self.bytes[start..]).len();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a character has at most 4 bytes"
        )]
        let written = written as u8;
        self.len += written;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_plates_survive_being_numbers() {
        for text in [
            "А123ВС68",
            "Х999ХХ199",
            "A000AA00",
            "X999XX999",
            "М001КУ077",
            "B500YT750",
        ] {
            let civil = Civil::from_text(text).unwrap();
            assert!(civil.body < Civil::BODIES && civil.region < Civil::REGIONS);
            assert_eq!(civil.to_text().unwrap().as_str(), text);
        }
    }

    #[test]
    fn other_texts_are_not_taken_for_civil_plates() {
        for text in [
            "A123БВ68",
            "А123BС68",
            "123",
            "А12ВС68",
            "А123ВС6",
            "А123ВС6800",
            "а123вс68",
        ] {
            assert_eq!(Civil::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn plates_with_control_characters_or_of_absurd_length_are_refused() {
        assert_eq!(PlateText::new("A\0"), Err(PlateError::Control('\0')));
        assert_eq!(PlateText::new(""), Err(PlateError::Length(0)));
        assert_eq!(PlateText::new(&"A".repeat(32)), Err(PlateError::Length(32)));
        assert!(PlateText::new(&"A".repeat(31)).is_ok());
        assert_eq!(PlateText::new("A123БВ68").unwrap().as_str(), "A123БВ68");
    }
}
