//! The token at the door, and at the operator's pages: who may come in when other machines can reach it.
//!
//! RFC 6750 bearer tokens over plain HTTP: for a network that is trusted not to listen. The token
//! is compared by its hash, so that the time an answer takes says nothing about it.

use std::fmt;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use service::private_file;
use service::problem::Problem;
use sha2::{Digest, Sha256};

/// Bytes of a token.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

/// A token file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not there, or not for us.
    #[error("cannot read the token file {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Guessable, or not a token.
    #[error("token in {} has {bytes} bytes, allowed are 16 to 512", path.display())]
    Length {
        /// Which file.
        path: PathBuf,
        /// How long it is.
        bytes: usize,
    },
}

/// What a request must bear.
#[derive(Clone)]
pub struct Token {
    hash: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token([redacted])")
    }
}

impl Token {
    /// Reads it; blanks around it do not count.
    ///
    /// # Errors
    /// When the file cannot be read, or holds too little or too much.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let read = std::fs::read(path);
        let bytes = read.map_err(|source| TokenError::Read {
            path: path.to_owned(),
            source,
        })?;
        private_file::warn_if_open("token file", path);
        let token = bytes.trim_ascii();
        if !TOKEN_BYTES.contains(&token.len()) {
            let (path, bytes) = (path.to_owned(), token.len());
            return Err(TokenError::Length { path, bytes });
        }
        Ok(Self {
            hash: Sha256::digest(token).into(),
        })
    }

    /// Lets only requests through that bear it.
    pub fn guard(self, router: Router) -> Router {
        router.layer(from_fn_with_state(self, check))
    }

    fn is_borne(&self, headers: &HeaderMap) -> bool {
        let value = headers
            .get(header::AUTHORIZATION)
            .map(HeaderValue::as_bytes);
        let borne = value.and_then(|value| {
            let (scheme, token) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
        });
        borne.is_some_and(|token| <[u8; 32]>::from(Sha256::digest(token.trim_ascii())) == self.hash)
    }
}

async fn check(State(token): State<Token>, request: Request, next: Next) -> Response {
    if token.is_borne(request.headers()) {
        return next.run(request).await;
    }
    let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized")
        .detail("the request does not bear the token that this address asks for");
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (challenge, problem).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Result<Token, TokenError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Token::read(file.path())
    }

    #[test]
    fn only_the_right_token_opens() {
        let token = token("correct-horse-battery\n").unwrap();
        for (value, opens) in [
            ("Bearer correct-horse-battery", true),
            ("bearer correct-horse-battery", true),
            ("Bearer correct-horse-batter", false),
            ("Basic correct-horse-battery", false),
            ("Bearer ", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            assert_eq!(token.is_borne(&headers), opens, "{value:?}");
        }
        assert!(!token.is_borne(&HeaderMap::new()));
    }

    #[test]
    fn a_guessable_token_is_refused_and_none_is_shown() {
        assert!(matches!(
            token("short"),
            Err(TokenError::Length { bytes: 5, .. })
        ));
        for (bytes, taken) in [(15, false), (16, true), (512, true), (513, false)] {
            assert_eq!(token(&"x".repeat(bytes)).is_ok(), taken, "{bytes}");
        }
        assert_eq!(
            format!("{:?}", token("correct-horse-battery")),
            "Ok(Token([redacted]))"
        );
    }
}
