//! The erasure of a data subject: its keys are destroyed, so that what was sealed with them is
//! noise wherever it lies. Here are its ledger, which stands outside the store, and its receipt;
//! [`Manager::shred`](crate::Manager::shred) does it.

mod append;
mod cursor;
mod ledger;
mod line;
mod receipt;
mod replay;

use veilstream_engine::kdf;
use veilstream_engine::key::{KeyState, SubjectRef};

#[cfg(feature = "postgres")]
pub use crate::store::PostgresLedger;
use append::Appender;
pub(crate) use cursor::LedgerCursor;
pub use ledger::{Erasure, FileLedger, Ledger, LedgerError, Recorded, Wrong};
pub use line::{Position, Verifier, first_line, hex, next_line, unhex, write_hex};
pub use receipt::{Canary, Check, Receipt, ReceiptError, SignedReceipt};
pub(crate) use receipt::{checkpoint_signer, signer};
pub(crate) use replay::erase_again;

use crate::KeyError;
use crate::store::KeyRecord;

/// The field of a receipt's canary token. No schema has a field of this name: there is no `#canary`
/// in the grammar of names (docs/formats.md).
pub const CANARY_FIELD: &str = "receipt#canary";

/// How data subjects are to be erased.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Why, in words that name nobody; stands in the ledger.
    pub reason: &'a str,
    /// The domain that the subjects' ids count in; `None`: the one without a name.
    pub domain: Option<&'a str>,
    /// `true`: a later record of the subject gets a new key. `false`: it is rejected.
    pub may_return: bool,
    /// Unix seconds until which backups of the stored records are kept, as the receipt is to say;
    /// `None`: it says nothing of them.
    pub backups_until: Option<u64>,
    /// What the keys do not reach in the caller's schemas and tables, for the receipt.
    pub remains: &'a [String],
}

/// What became of one data subject that was to be erased.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The reference of the subject that was to be erased.
    pub subject: SubjectRef,
    /// `None`: nobody was erased, as no key of the subject was ever here. Its scope is closed all
    /// the same.
    pub receipt: Option<SignedReceipt>,
}

/// A record that closes a subject's scope: its id is random and names no key.
pub(crate) fn marker(
    tenant: &str,
    subject: SubjectRef,
    may_return: bool,
    now: u64,
) -> Result<KeyRecord, KeyError> {
    let mut kcv = [0; 32];
    getrandom::fill(&mut kcv).map_err(|_| KeyError::Random)?;
    let kid = kdf::key_id(&kcv);
    let state = if may_return { KeyState::Retired } else { KeyState::Shredded };
    let record = KeyRecord::without_key(kid, kcv, tenant, subject, state);
    Ok(KeyRecord { created: now, retired: Some(now), ..record })
}
