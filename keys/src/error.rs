//! Why a key is not available.

use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};

use crate::erasure::{LedgerError, ReceiptError};
use crate::provider::ProviderError;
use crate::store::StoreError;

/// Why a key is not available. Holds names and numbers, never key bytes.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key store does not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The provider of the key-encrypting key does not do it.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// No wrap of the key belongs to the provider at hand.
    #[error("key {kid} ({kind} {scope}) is wrapped by {wrapped_by}, not by this provider \
        ({provider}); configure the provider that wrapped it", kind = .kind.as_str())]
    OtherProvider {
        /// Id of the key.
        kid: KeyId,
        /// Kind of the key.
        kind: KeyKind,
        /// Scope of the key.
        scope: Scope,
        /// `kek_uri` of the first wrap, or `nobody`.
        wrapped_by: String,
        /// [`Provider::name`](crate::provider::Provider::name) of the configured one.
        provider: &'static str,
    },
    /// The unwrapped bytes are not the key that the record names.
    #[error(
        "key {kid}: its check value differs from the key store's; the row was changed, restore the \
        store from a backup"
    )]
    CheckValue {
        /// Id of the key.
        kid: KeyId,
    },
    /// A key of this scope exists and must not seal any more.
    #[error("the {kind} key of {scope} is {state}, so nothing is sealed for it", kind = .kind.as_str(), state = .state.as_str())]
    NotActive {
        /// Kind of the key that was asked for.
        kind: KeyKind,
        /// Scope that was asked for.
        scope: Scope,
        /// The state that forbids it.
        state: KeyState,
    },
    /// A schema pins a root version that was never made.
    #[error("there is no {kind} root {scope}; pin one that `veilstream keys list` shows", kind = .kind.as_str())]
    NoSuchRoot {
        /// Kind of the key that was asked for.
        kind: KeyKind,
        /// The version that the schema pins.
        scope: Scope,
    },
    /// No key of this id is in the store.
    #[error("there is no key {kid} in this store; `veilstream keys list` shows what there is")]
    NoSuchKey {
        /// The id that was asked for.
        kid: KeyId,
    },
    /// The store is another tenant's.
    #[error(
        "key store {place}: belongs to tenant {found}, this is {expected}. A store has one tenant: \
        give {expected} a store of its own (a file, a topic, a PostgreSQL schema named by \
        keys.store_schema)"
    )]
    OtherTenant {
        /// `Store::place`.
        place: String,
        /// Tenant of the store.
        found: String,
        /// Tenant of [`Settings`](crate::Settings).
        expected: String,
    },
    /// The ledger is whole, so nothing is rebuilt.
    #[error("erasure ledger {place}: is as it should be; nothing was changed")]
    LedgerWhole {
        /// `Ledger::place`.
        place: String,
    },
    /// The data subject has no key.
    #[error("data subject {subject} has no key")]
    NoSuchSubject {
        /// Reference of the data subject.
        subject: SubjectRef,
    },
    /// The index root cannot be rotated again: records would lose an index that nobody has moved
    /// yet.
    #[error(
        "the index root is being rotated already (active versions {versions:?}): re-index what is \
        stored, then retire the old version"
    )]
    RootRotates {
        /// Versions that are active now, two or more.
        versions: Vec<u32>,
    },
    /// No recovery provider is configured.
    #[error("no recovery provider is configured; name one as keys.recovery")]
    NoRecovery,
    /// The recovery provider has not wrapped the key.
    #[error("key {kid} has no wrap of the recovery provider")]
    NotForRecovery {
        /// Id of the key.
        kid: KeyId,
    },
    /// The erasure ledger does not do it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// An erasure did not come out as it must.
    #[error("the erasure of data subject {subject} is not complete: {what}; run it again")]
    NotErased {
        /// Reference of the data subject.
        subject: SubjectRef,
        /// The first thing that the look at the store found.
        what: String,
    },
    /// A receipt cannot be made or is not one.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// The operating system gives no random bytes.
    #[error("the system gives no random bytes; no key was made")]
    Random,
}

impl KeyError {
    /// Whether a server does not answer as it should, so that other keys are missing as well. Else
    /// something is wrong with one key.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Store(StoreError::Unusable { .. })
            | Self::Ledger(LedgerError::Unusable { .. }) => true,
            Self::Provider(error) => matches!(
                error,
                ProviderError::Unusable { .. }
                    | ProviderError::Unavailable { .. }
                    | ProviderError::Denied { .. }
                    | ProviderError::Disabled { .. }
            ),
            _ => false,
        }
    }
}
