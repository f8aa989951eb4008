//! Plates as a camera on a motorway near Moscow reads them.

use proto::Plate;
use proto::plate::PlateText;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::one_in;

/// One plate in this many is not read.
const NO_PLATE_ONE_IN: u32 = 60;
/// One plate in this many is not of the civil pattern.
const FOREIGN_PLATE_ONE_IN: u32 = 50;

const LETTERS: [char; 12] = ['А', 'В', 'Е', 'К', 'М', 'Н', 'О', 'Р', 'С', 'Т', 'У', 'Х'];

/// Region codes seen from a motorway near Moscow, with how often per thousand; the rest is spread
/// over all two-digit codes.
const REGIONS: [(u16, u32); 24] = [
    (50, 105),
    (150, 85),
    (190, 75),
    (750, 55),
    (77, 80),
    (99, 55),
    (97, 50),
    (177, 65),
    (197, 55),
    (199, 50),
    (777, 45),
    (799, 40),
    (40, 25),
    (71, 25),
    (69, 20),
    (33, 20),
    (62, 15),
    (76, 15),
    (67, 15),
    (32, 12),
    (57, 10),
    (36, 10),
    (52, 10),
    (78, 13),
];
const REGION_CODES: u16 = 95;

/// The plate of one vehicle, as a camera reads it.
pub(super) fn draw(random: &mut ChaCha8Rng) -> Plate {
    if one_in(random, NO_PLATE_ONE_IN) {
        return Plate::Absent;
    }
    let foreign = one_in(random, FOREIGN_PLATE_ONE_IN);
    let mut text = PlateBuffer::default();
    let number = random.random_range(1..1_000_u16);
    if foreign {
        // The pattern of Belarus, the commonest foreign one: 1234 AB-7.
        text.digits(number, 3);
        text.digits(random.random_range(0..10), 1);
        text.push(' ');
        text.push(latin(random));
        text.push(latin(random));
        text.push('-');
        text.digits(random.random_range(1..8), 1);
    } else {
        text.push(letter(random));
        text.digits(number, 3);
        text.push(letter(random));
        text.push(letter(random));
        let region = region(random);
        text.digits(region, if region < 100 { 2 } else { 3 });
    }
    PlateText::new(text.as_str()).map_or(Plate::Absent, Plate::Text)
}

fn region(random: &mut ChaCha8Rng) -> u16 {
    let mut draw = random.random_range(0..1_000_u32);
    for (code, share) in REGIONS {
        if draw < share {
            return code;
        }
        draw -= share;
    }
    random.random_range(1..=REGION_CODES)
}

fn letter(random: &mut ChaCha8Rng) -> char {
    LETTERS[random.random_range(0..LETTERS.len())]
}

fn latin(random: &mut ChaCha8Rng) -> char {
    char::from(b'A' + random.random_range(0..26_u8))
}

/// A plate in the making: at most 15 characters of at most two bytes.
#[derive(Default)]
struct PlateBuffer {
    bytes: [u8; 31],
    len: usize,
}

impl PlateBuffer {
    fn push(&mut self, c: char) {
        let end = self.len + c.len_utf8();
        c.encode_utf8(&mut self.bytes[self.len..end]);
        self.len = end;
    }

    fn digits(&mut self, number: u16, count: u32) {
        for place in (0..count).rev() {
            let digit = u32::from(number) / 10_u32.pow(place) % 10;
            self.push(char::from_digit(digit, 10).unwrap_or('0'));
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}
