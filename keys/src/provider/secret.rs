//! Secrets a provider proves itself with.

use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

/// A secret text. One in a file is read at each use: platforms replace it there (a service
/// account's token, an agent's sink).
#[derive(Clone)]
pub enum SecretText {
    /// The text itself.
    Given(Zeroizing<String>),
    /// A file whose text it is, without the line's end.
    File(PathBuf),
}

impl SecretText {
    /// The text.
    ///
    /// # Errors
    /// The file cannot be read or is empty; names the file.
    #[cfg(any(feature = "pkcs11", feature = "vault"))]
    pub(super) fn read(&self) -> Result<Zeroizing<String>, String> {
        let path = match self {
            Self::Given(text) => return Ok(text.clone()),
            Self::File(path) => path,
        };
        let text = Zeroizing::new(
            std::fs::read_to_string(path)
                .map_err(|e| format!("{} cannot be read ({e})", path.display()))?,
        );
        let line = text.trim_end_matches(['\r', '\n']);
        if line.is_empty() {
            Err(format!("{} is empty", path.display()))
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
