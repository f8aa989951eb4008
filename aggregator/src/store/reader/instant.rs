//! ● `timestamptz` in PostgreSQL's binary form, as milliseconds since 1970.

use std::error::Error;

use bytes::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

/// 2000-01-01T00:00:00Z, from which PostgreSQL counts microseconds, in milliseconds since 1970.
const EPOCH_MS: i64 = 946_684_800_000;

/// Milliseconds since 1970-01-01T00:00:00Z. Finer parts are cut; the infinities become the ends of
/// what PostgreSQL can count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instant(pub(super) i64);

impl<'a> FromSql<'a> for Instant {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let micros = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(micros.div_euclid(1_000) + EPOCH_MS))
    }

    accepts!(TIMESTAMPTZ);
}

impl ToSql for Instant {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let micros = self.0.saturating_sub(EPOCH_MS).saturating_mul(1_000);
        out.extend_from_slice(&micros.to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_survives_the_binary_form() {
        for ms in [0, -1, 1, EPOCH_MS, 253_402_300_799_999, -62_167_219_200_000] {
            let mut wire = BytesMut::new();
            assert!(matches!(
                Instant(ms).to_sql(&Type::TIMESTAMPTZ, &mut wire),
                Ok(IsNull::No)
            ));
            assert_eq!(
                Instant::from_sql(&Type::TIMESTAMPTZ, &wire).unwrap(),
                Instant(ms)
            );
        }
    }

    #[test]
    fn microseconds_are_cut_downwards() {
        let before_2000 = (-1i64).to_be_bytes();
        let instant = Instant::from_sql(&Type::TIMESTAMPTZ, &before_2000).unwrap();
        assert_eq!(instant, Instant(EPOCH_MS - 1));
    }
}
