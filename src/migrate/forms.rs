//! Which form a cell has, and what it holds.

use aes::Aes256;
use aes::cipher::{Array, BlockCipherDecrypt as _, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use veilstream_engine::interop::openpgp::{self, Message, Passphrases, PgpError};
use veilstream_engine::interop::{InteropForm, InteropKeySet};
use veilstream_keys::provider::ProviderError;
use zeroize::Zeroizing;

use super::legacy::{NoCipher, RULES};
use super::services::{FromServices, Services};

/// Bytes of a block of AES.
const BLOCK: usize = 16;

/// What stands in a column before it is migrated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Fernet tokens, as text or bytes.
    Fernet,
    /// Messages of pgcrypto: bytes, base64, or the text form of `bytea`.
    Pgcrypto,
    /// Ciphertexts of Transit, of HashiCorp Vault or OpenBao.
    Vault,
    /// Ciphertexts of AWS KMS: bytes, or base64.
    AwsKms,
    /// `StringEncryptedType` of sqlalchemy-utils with its engine AES.
    SqlalchemyUtils,
    /// Hexadecimal SHA-256 hashes of values that stand in another column.
    Sha256Hash,
    /// The values themselves.
    Clear,
}

impl Form {
    /// Every form, in the order in which a cell is looked at.
    pub const ALL: [Self; 7] = [
        Self::Fernet,
        Self::Pgcrypto,
        Self::Vault,
        Self::AwsKms,
        Self::SqlalchemyUtils,
        Self::Sha256Hash,
        Self::Clear,
    ];

    /// The name on the command line and in counts.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fernet => "fernet",
            Self::Pgcrypto => "pgcrypto",
            Self::Vault => "vault",
            Self::AwsKms => "aws-kms",
            Self::SqlalchemyUtils => "sqlalchemy-utils",
            Self::Sha256Hash => "sha256-hash",
            Self::Clear => "clear",
        }
    }
}

/// How sqlalchemy-utils fills a text up to blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Padding {
    /// Each byte says how many there are.
    #[default]
    Pkcs5,
    /// Asterisks, and those that end the text itself are lost.
    Naive,
}

/// The other system's keys.
#[derive(Default)]
pub struct OldKeys {
    /// Of [`Form::Fernet`].
    pub fernet: Option<InteropKeySet>,
    /// Of [`Form::Pgcrypto`].
    pub pgcrypto: Option<Passphrases>,
    /// Of [`Form::SqlalchemyUtils`]: the keys as the application has them, as text.
    pub sqlalchemy_utils: Vec<Zeroizing<Vec<u8>>>,
    /// How it fills texts up.
    pub padding: Padding,
    /// Of [`Form::Vault`] and [`Form::AwsKms`].
    pub services: Services,
}

/// The forms that a column may have.
pub struct Forms {
    forms: Vec<Form>,
    keys: OldKeys,
}

/// What a cell is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// Nothing stands there.
    Null,
    /// A token of ours, or what looks like one.
    Token,
    /// Of this form.
    Old(Form),
    /// Of no form that was named.
    Other,
}

/// What a cell held.
pub(super) struct Opened {
    pub(super) text: Zeroizing<Vec<u8>>,
    /// It opens without its key: the text stands in the row as it is.
    pub(super) is_in_clear: bool,
}

impl Forms {
    /// These forms and their keys.
    #[must_use]
    pub fn new(mut forms: Vec<Form>, keys: OldKeys) -> Self {
        forms.sort_unstable();
        forms.dedup();
        Self { forms, keys }
    }

    /// Which they are.
    #[must_use]
    pub fn each(&self) -> &[Form] {
        &self.forms
    }

    /// Whether one of them was named.
    #[must_use]
    pub fn has(&self, form: Form) -> bool {
        self.forms.contains(&form)
    }

    /// What a cell is. What has a known form is never taken for clear.
    pub(super) fn of(&self, cell: Option<&[u8]>) -> Cell {
        let Some(bytes) = cell else { return Cell::Null };
        if bytes.starts_with(veilstream_engine::token::PREFIX) {
            return Cell::Token;
        }
        let known = if InteropForm::Fernet.recognises(bytes) {
            Some(Form::Fernet)
        } else if message(bytes).is_some() {
            Some(Form::Pgcrypto)
        } else if is_transit(bytes) {
            Some(Form::Vault)
        } else if self.has(Form::AwsKms) && kms_blob(bytes).is_some() {
            Some(Form::AwsKms)
        } else if self.has(Form::SqlalchemyUtils) && blocks(bytes).is_some() {
            Some(Form::SqlalchemyUtils)
        } else if self.has(Form::Sha256Hash) && digest(bytes).is_some() {
            Some(Form::Sha256Hash)
        } else {
            None
        };
        match known {
            Some(form) if self.has(form) => Cell::Old(form),
            Some(_) => Cell::Other,
            None if self.has(Form::Clear) => Cell::Old(Form::Clear),
            None => Cell::Other,
        }
    }

    /// Opens a cell; `None`: under none of the keys.
    pub(super) fn open(&self, form: Form, cell: &[u8]) -> Option<Opened> {
        let text = match form {
            Form::Fernet => {
                let mut text = Zeroizing::new(Vec::new());
                self.keys.fernet.as_ref()?.open(cell, &mut text).ok()?;
                text
            }
            Form::Pgcrypto => return self.open_pgcrypto(cell),
            Form::SqlalchemyUtils => self.open_blocks(cell)?,
            Form::Clear => Zeroizing::new(cell.to_vec()),
            // A hash holds nothing; its value stands in another column. Services open a page.
            Form::Sha256Hash | Form::Vault | Form::AwsKms => return None,
        };
        Some(Opened { text, is_in_clear: false })
    }

    /// What services open of a page of cells.
    pub(super) fn open_by_services(
        &self,
        cells: &[(usize, Form, &[u8])],
    ) -> Result<FromServices, ProviderError> {
        self.keys.services.open(cells)
    }

    fn open_pgcrypto(&self, cell: &[u8]) -> Option<Opened> {
        let raw = message(cell)?;
        let message = Message::parse(&raw).ok()?;
        let opened = |literal: openpgp::Literal, is_in_clear| {
            let is_text = std::str::from_utf8(&literal.text).is_ok();
            is_text.then_some(Opened { text: literal.text, is_in_clear })
        };
        for passphrase in self.keys.pgcrypto.as_ref()?.each() {
            match message.open(passphrase, &RULES) {
                Ok(literal) => return opened(literal, false),
                Err(PgpError::Key | PgpError::Corrupt | PgpError::Malformed) => {}
                Err(PgpError::Unsupported | PgpError::TooCostly) => return None,
            }
        }
        // A server without the cipher wrote it in clear, and any passphrase opens it there.
        let cipher = NoCipher::of(message.algorithm());
        message.open_with(&cipher, &RULES).ok().and_then(|literal| opened(literal, true))
    }

    /// AES-256-CBC under SHA-256 of the key, whose first half is the one initialisation vector.
    fn open_blocks(&self, cell: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let sealed = blocks(cell)?;
        self.keys.sqlalchemy_utils.iter().find_map(|key| {
            let key = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(&**key)));
            let cipher = Aes256::new(&Array::from(*key));
            let mut text = Zeroizing::new(sealed.clone());
            let mut before = [0; BLOCK];
            before.copy_from_slice(&key[..BLOCK]);
            let (parts, _) = text.as_chunks_mut::<BLOCK>();
            for part in parts {
                let last = *part;
                let mut opened = Array::from(last);
                cipher.decrypt_block(&mut opened);
                part.iter_mut().zip(opened.iter().zip(before)).for_each(|(to, (a, b))| *to = a ^ b);
                before = last;
            }
            let length = unpadded(&text, self.keys.padding)?;
            text.truncate(length);
            std::str::from_utf8(&text).is_ok().then_some(text)
        })
    }
}

/// Length of a text without what fills it up.
fn unpadded(text: &[u8], padding: Padding) -> Option<usize> {
    match padding {
        Padding::Pkcs5 => {
            let count = usize::from(*text.last()?);
            let length = text.len().checked_sub(count)?;
            let is_whole = (1..=BLOCK).contains(&count)
                && text[length..].iter().all(|byte| usize::from(*byte) == count);
            is_whole.then_some(length)
        }
        Padding::Naive => Some(text.iter().rposition(|byte| *byte != b'*').map_or(0, |at| at + 1)),
    }
}

/// The bytes of a message: as they are, in base64, or as PostgreSQL writes `bytea` as text.
fn message(cell: &[u8]) -> Option<Vec<u8>> {
    let is_message = |raw: &Vec<u8>| Message::parse(raw).is_ok();
    match cell.first()? {
        0x80.. => Some(cell.to_vec()).filter(is_message),
        b'\\' => cell.strip_prefix(b"\\x").and_then(hex).filter(is_message),
        _ => openpgp::decode(cell).filter(is_message),
    }
}

/// Whether a cell is a ciphertext of Transit.
fn is_transit(cell: &[u8]) -> bool {
    let rest = cell.strip_prefix(b"vault:v").unwrap_or_default();
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && rest.get(digits) == Some(&b':')
}

/// The bytes of a ciphertext of KMS: as they are, or in base64. They say nothing of themselves, so
/// what is too short for a key's name and a tag is none.
pub(super) fn kms_blob(cell: &[u8]) -> Option<Vec<u8>> {
    let raw = match std::str::from_utf8(cell) {
        Ok(_) => STANDARD.decode(cell).ok()?,
        Err(_) => cell.to_vec(),
    };
    (raw.len() >= 48).then_some(raw)
}

/// Whole blocks of AES in base64.
fn blocks(cell: &[u8]) -> Option<Vec<u8>> {
    let raw = STANDARD.decode(cell).ok()?;
    (!raw.is_empty() && raw.len().is_multiple_of(BLOCK)).then_some(raw)
}

/// A hash in hexadecimal.
fn digest(cell: &[u8]) -> Option<[u8; 32]> {
    if cell.len() == 32 && std::str::from_utf8(cell).is_err() {
        return cell.try_into().ok();
    }
    hex(cell)?.try_into().ok()
}

/// Whether a hash is of a value as it is, or as search hashes usually take it: without white space
/// around it and in small letters.
pub(super) fn is_hash_of(cell: &[u8], value: &str) -> bool {
    let Some(digest) = digest(cell) else { return false };
    let spellings = [value.to_owned(), value.trim().to_owned(), value.trim().to_lowercase()];
    spellings.iter().any(|text| Sha256::digest(text).as_slice().ct_eq(&digest).into())
}

fn hex(text: &[u8]) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    text.chunks_exact(2).map(|two| Some(digit(two[0])? << 4 | digit(two[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use veilstream_engine::interop::openpgp::Passphrases;

    use super::*;

    /// `pgp_sym_encrypt('ada@example.com', 'correct horse', 'cipher-algo=..')` of a server whose
    /// library has neither Blowfish nor CAST5, and the same with AES-128.
    const WRITTEN: [(&str, bool); 3] = [
        (
            "c30d04040302951d4c74c41d400a7ad2380123b8ac61ab5ee1cae1cacb1574006b0e3d1e616461406578616d\
            706c652e636f6dd314d4cc14dbe48d496da087237a669e8920cfc6791b",
            true,
        ),
        (
            "c30d04030302e9578209a556a3c666d23801de0a2c7144f4da90da90cb1574006b0e3d1e616461406578616d\
            706c652e636f6dd314a02065d26ec75cc3aab299c642093ffb41057d5d",
            true,
        ),
        (
            "c30d040703028fe08ea4d105b9a17bd240016e11b66c05a93e08025f1ec9b261577ce6edc64159e081e89c92\
            382179d0a2fade0a7852526fb6d2d4c64500827b525d854daf1cb9bf361f8143c52a084857",
            false,
        ),
    ];

    fn forms(passphrase: &str) -> Forms {
        let passphrases = vec![Zeroizing::new(passphrase.as_bytes().to_vec())];
        let keys = OldKeys { pgcrypto: Passphrases::new(passphrases), ..OldKeys::default() };
        Forms::new(vec![Form::Pgcrypto], keys)
    }

    #[test]
    fn messages_that_were_written_in_clear_open_without_their_passphrase_and_are_told() {
        for (hex, was_in_clear) in WRITTEN {
            for passphrase in ["correct horse", "another"] {
                let opened = forms(passphrase).open(Form::Pgcrypto, format!("\\x{hex}").as_bytes());
                let opened = opened.map(|opened| (opened.text.to_vec(), opened.is_in_clear));
                let is_opened = was_in_clear || passphrase == "correct horse";
                let expected = is_opened.then(|| (b"ada@example.com".to_vec(), was_in_clear));
                assert_eq!(opened, expected, "{hex} under {passphrase}");
            }
        }
    }
}
