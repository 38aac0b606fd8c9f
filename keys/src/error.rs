//! Why a key is not available.

use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};

use crate::erasure::{LedgerError, ReceiptError};
use crate::provider::ProviderError;
use crate::store::StoreError;

/// Why a key is not available. Holds names and numbers, never key bytes.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The provider of the key-encrypting key.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// No wrap of the key belongs to the provider at hand.
    #[error("key {kid} ({kind} {scope}) is wrapped by {wrapped_by}, not by this provider \
        ({provider}); configure the provider that wrapped it", kind = .kind.as_str())]
    OtherProvider {
        /// The key.
        kid: KeyId,
        /// Its kind.
        kind: KeyKind,
        /// Its scope.
        scope: Scope,
        /// Who wrapped it.
        wrapped_by: String,
        /// Who was asked.
        provider: &'static str,
    },
    /// The unwrapped bytes are not the key that the record names.
    #[error(
        "key {kid}: its check value differs from the key store's; the row was changed, restore the \
        store from a backup"
    )]
    CheckValue {
        /// The key.
        kid: KeyId,
    },
    /// A key of this scope exists and must not seal any more.
    #[error("the {kind} key of {scope} is {state}, so nothing is sealed for it", kind = .kind.as_str(), state = .state.as_str())]
    NotActive {
        /// The kind.
        kind: KeyKind,
        /// The scope.
        scope: Scope,
        /// Its state.
        state: KeyState,
    },
    /// A schema pins a root version that was never made.
    #[error("there is no {kind} root {scope}; pin one that `veilstream keys list` shows", kind = .kind.as_str())]
    NoSuchRoot {
        /// The kind.
        kind: KeyKind,
        /// The version.
        scope: Scope,
    },
    /// No key of this id is in the store.
    #[error("there is no key {kid} in this store; `veilstream keys list` shows what there is")]
    NoSuchKey {
        /// The id.
        kid: KeyId,
    },
    /// The store is another tenant's.
    #[error(
        "key store {place}: belongs to tenant {found}, this is {expected}. A store has one tenant: \
        give {expected} a store of its own (a file, a topic, a PostgreSQL schema named by \
        keys.store_schema)"
    )]
    OtherTenant {
        /// Where the store is.
        place: String,
        /// Whose it is.
        found: String,
        /// Who came.
        expected: String,
    },
    /// Nothing is to be rebuilt.
    #[error("erasure ledger {place}: is as it should be; nothing was changed")]
    LedgerWhole {
        /// Where it is.
        place: String,
    },
    /// The data subject has no key.
    #[error("data subject {subject} has no key")]
    NoSuchSubject {
        /// Its reference.
        subject: SubjectRef,
    },
    /// The index root cannot be rotated again: records would lose an index that nobody has moved
    /// yet.
    #[error(
        "the index root is being rotated already (active versions {versions:?}): re-index what is \
        stored, then retire the old version"
    )]
    RootRotates {
        /// The active versions.
        versions: Vec<u32>,
    },
    /// There is nobody to recover by.
    #[error("no recovery provider is configured; name one as keys.recovery")]
    NoRecovery,
    /// The recovery provider has not wrapped the key.
    #[error("key {kid} has no wrap of the recovery provider")]
    NotForRecovery {
        /// The key.
        kid: KeyId,
    },
    /// The erasure ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An erasure did not come out as it must.
    #[error("the erasure of data subject {subject} is not complete: {what}; run it again")]
    NotErased {
        /// Whose.
        subject: SubjectRef,
        /// What is not as it must be.
        what: String,
    },
    /// A receipt cannot be made or is not one.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// The operating system gives no random bytes.
    #[error("the system gives no random bytes; no key was made")]
    Random,
}
