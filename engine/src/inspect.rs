//! What a token says of itself, without any key.

use crate::error::OpenError;
use crate::token::{self, Header};

/// Reads a token's header.
///
/// # Errors
/// [`OpenError::Malformed`], [`OpenError::Unsupported`].
pub fn inspect(token: &[u8]) -> Result<Header, OpenError> {
    token::decode(token, &mut Vec::new())
}
