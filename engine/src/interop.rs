//! Values in the form of other systems and under their keys: Fernet tokens, and messages of
//! PostgreSQL's pgcrypto.
//!
//! Neither form knows its field, its record or its data subject. So any such text opens as any
//! field of the same keys, and no erasure reaches it (docs/formats.md, "Interop formats").

pub mod fernet;
pub mod openpgp;
mod value;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

pub use fernet::FernetKeys;
pub use openpgp::Passphrases;

use crate::EntropyError;
use crate::error::OpenError;
use crate::schema::Field;
use crate::seal::NoncePool;
pub(crate) use value::{to_json, to_text};

/// Bytes of a passphrase's derivation that one unit of a record's work stands for.
const DERIVED_PER_UNIT: u64 = 8;

/// A form of another system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InteropForm {
    /// A Fernet token, version 0x80.
    Fernet,
    /// The base64 of an OpenPGP message that `pgp_sym_decrypt` opens.
    Pgcrypto,
}

impl InteropForm {
    /// The name in schema documents.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fernet => "fernet",
            Self::Pgcrypto => "pgcrypto",
        }
    }

    /// What the file of its keys is called, in documents and configuration.
    #[must_use]
    pub fn file_member(self) -> &'static str {
        match self {
            Self::Fernet => "keys_file",
            Self::Pgcrypto => "passphrases_file",
        }
    }

    /// Characters of what a text of `bytes` becomes.
    #[must_use]
    pub fn chars(self, bytes: usize) -> usize {
        let raw = match self {
            Self::Fernet => fernet::sealed_bytes(bytes),
            Self::Pgcrypto => openpgp::sealed_bytes(bytes),
        };
        raw.div_ceil(3) * 4
    }

    /// A regular expression of what it looks like in full, in the syntax that PostgreSQL and JSON
    /// Schema share.
    #[must_use]
    pub fn pattern(self) -> &'static str {
        match self {
            // No shorter than what an empty text becomes.
            Self::Fernet => "gAAAA[A-Za-z0-9_-]{93,}={0,2}",
            Self::Pgcrypto => "w[A-Za-z0-9+/]{87,}={0,2}",
        }
    }

    /// Whether a text has this form, under any key.
    #[must_use]
    pub fn recognises(self, text: &[u8]) -> bool {
        match self {
            Self::Fernet => fernet::recognises(text),
            Self::Pgcrypto => openpgp::recognises(text),
        }
    }
}

/// `format` of a field, with the file that its keys stand in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interop {
    /// The form.
    pub form: InteropForm,
    /// The field's own file, as the document has it; `None`: the configuration's.
    pub file: Option<Arc<str>>,
}

impl fmt::Display for Interop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.form.as_str())?;
        self.file.iter().try_for_each(|file| write!(f, " {file}"))
    }
}

/// The keys of one file: the first seals, all open.
#[derive(Debug)]
pub enum InteropKeySet {
    /// Lines of Fernet keys.
    Fernet(FernetKeys),
    /// Lines of passphrases.
    Pgcrypto(Passphrases),
}

impl InteropKeySet {
    /// Appends `text` in its form to `out`. `time`: Unix seconds, which both forms tell.
    ///
    /// # Errors
    /// [`EntropyError`]; `out` is as it was.
    pub fn seal(
        &self,
        text: &[u8],
        time: u64,
        nonces: &mut NoncePool,
        out: &mut Vec<u8>,
    ) -> Result<(), EntropyError> {
        match self {
            Self::Fernet(keys) => keys.seal(text, time, nonces, out),
            Self::Pgcrypto(passphrases) => passphrases.seal(text, time, nonces, out),
        }
    }

    /// Opens what was sealed under any of the keys; the text replaces the content of `out`.
    ///
    /// # Errors
    /// [`OpenError`]: `Malformed`, `Unsupported` (a shape that only `migrate` reads) or `Corrupt`
    /// (under none of the keys, or changed: the forms do not tell which).
    pub fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        match self {
            Self::Fernet(keys) => keys.open(sealed, out),
            Self::Pgcrypto(passphrases) => passphrases.open(sealed, out),
        }
    }

    /// What sealing costs beside the bytes, in units of a record's work.
    pub(crate) fn seal_cost(&self) -> u64 {
        match self {
            Self::Fernet(_) => 0,
            Self::Pgcrypto(_) => openpgp::SEAL_COUNT / DERIVED_PER_UNIT,
        }
    }

    /// What opening costs at most beside the bytes, in units of a record's work.
    pub(crate) fn open_cost(&self, sealed: &[u8]) -> u64 {
        match self {
            Self::Fernet(_) => 0,
            Self::Pgcrypto(passphrases) => passphrases.derived_bytes(sealed) / DERIVED_PER_UNIT,
        }
    }
}

/// The keys of a process, by where fields say that they stand.
#[derive(Debug, Default)]
pub struct InteropKeys(HashMap<Interop, Arc<InteropKeySet>>);

impl InteropKeys {
    /// Takes the keys of each place.
    #[must_use]
    pub fn new(sets: impl IntoIterator<Item = (Interop, Arc<InteropKeySet>)>) -> Self {
        Self(sets.into_iter().collect())
    }

    /// The keys of both; of one place, those of `newer`. Records under way may still be of schemas
    /// before.
    #[must_use]
    pub fn joined(&self, newer: Self) -> Self {
        let before = self.0.iter().map(|(place, keys)| (place.clone(), keys.clone()));
        Self(before.chain(newer.0).collect())
    }

    /// The keys of that place.
    #[must_use]
    pub fn get(&self, interop: &Interop) -> Option<&Arc<InteropKeySet>> {
        self.0.get(interop)
    }
}

/// A value out of its record in its field's form, whose keys are `keys`. `value` is a JSON text.
///
/// # Errors
/// [`SealTextError`].
pub fn seal_value(
    field: &Field,
    keys: &InteropKeySet,
    value: &[u8],
    time: u64,
    nonces: &mut NoncePool,
    out: &mut Vec<u8>,
) -> Result<(), SealTextError> {
    let Some(interop) = &field.interop else { return Err(SealTextError::Unsupported) };
    let mut text = zeroize::Zeroizing::new(Vec::new());
    let is_pgcrypto = interop.form == InteropForm::Pgcrypto;
    if !to_text(interop.form, value, &mut text) || (is_pgcrypto && openpgp::is_too_long(&text)) {
        return Err(SealTextError::Unsupported);
    }
    Ok(keys.seal(&text, time, nonces, out)?)
}

/// A value was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealTextError {
    /// It has no text in this form.
    #[error("the value has no text in this form")]
    Unsupported,
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}
