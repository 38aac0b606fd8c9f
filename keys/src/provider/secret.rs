//! Secrets a provider proves itself with.

use std::fmt;
#[cfg(any(feature = "pkcs11", feature = "vault"))]
use std::io;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// A secret text. One in a file is read at each use: platforms replace it there (a service
/// account's token, an agent's sink).
#[derive(Clone)]
pub enum SecretText {
    /// The text itself.
    Given(Zeroizing<String>),
    /// A file whose text it is, without the end of its line.
    File(PathBuf),
}

/// The file of a secret does not hold one. The operator mends it; the message says where.
#[cfg(any(feature = "pkcs11", feature = "vault"))]
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    /// It is not there, or this process may not read it.
    #[error("{} cannot be read ({source})", path.display())]
    Unreadable {
        /// The file that the settings name.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It holds nothing before the line's end.
    #[error("{} is empty", path.display())]
    Empty {
        /// The file that the settings name.
        path: PathBuf,
    },
}

impl SecretText {
    /// The text, without the end of its line.
    #[cfg(any(feature = "pkcs11", feature = "vault"))]
    pub(super) fn read(&self) -> Result<Zeroizing<String>, SecretError> {
        let path = match self {
            Self::Given(text) => return Ok(text.clone()),
            Self::File(path) => path,
        };
        let text = Zeroizing::new(
            std::fs::read_to_string(path)
                .map_err(|source| SecretError::Unreadable { path: path.clone(), source })?,
        );
        let line = text.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            Err(SecretError::Empty { path: path.clone() })
        } else {
            Ok(Zeroizing::new(line.to_owned()))
        }
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(_) => f.write_str("[redacted]"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}
