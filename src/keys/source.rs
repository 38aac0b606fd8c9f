//! Where the code that protects or opens records gets keys.

use std::sync::Arc;

use veilstream_engine::Keyring;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{Key, KeyId};
use veilstream_engine::transform::NeededKey;
use veilstream_keys::credential::{Credentials, Suspension};
use veilstream_keys::opens_for_others;

/// A source of keys: the key manager, or keys of a test.
pub trait KeySource: Send + Sync {
    /// The snapshot for a new batch.
    fn keyring(&self) -> Arc<Keyring>;

    /// Loads or mints keys. Blocks.
    ///
    /// # Errors
    /// [`KeyFault`]; the records stay where they are.
    fn fetch(&self, needed: &[NeededKey]) -> Result<Vec<Arc<Key>>, KeyFault>;

    /// The key of that id, whatever its state; `None`: it is not in this store. Blocks.
    ///
    /// # Errors
    /// [`KeyFault`]; the token cannot be opened now.
    fn lookup(&self, id: &KeyId) -> Result<Option<Arc<Key>>, KeyFault>;

    /// [`KeySource::lookup`] for anyone who opens values for others: keys of dead letters and
    /// compromised keys are not there. Blocks.
    ///
    /// # Errors
    /// [`KeyFault`]; the token cannot be opened now.
    fn lookup_for_reading(&self, id: &KeyId) -> Result<Option<Arc<Key>>, KeyFault> {
        Ok(self.lookup(id)?.filter(|key| opens_for_others(key.kind, key.state)))
    }

    /// What [`KeySource::lookup_for_reading`] finds in memory. Does not block.
    fn held_for_reading(&self, _: &KeyId) -> Option<Arc<Key>> {
        None
    }

    /// Takes the keys of other systems that fields of these schemas are under: what opens values
    /// needs them too. Reads files.
    ///
    /// # Errors
    /// [`KeyFault`]; the schemas must not come into force.
    fn take_interop(&self, _: &SchemaSet) -> Result<(), KeyFault> {
        Ok(())
    }

    /// Mints what these schemas need and is not there yet, before they come into force.
    ///
    /// # Errors
    /// [`KeyFault`]; the schemas must not come into force.
    fn prepare(&self, schemas: &SchemaSet) -> Result<(), KeyFault>;

    /// Called about once a second: forgets keys that others erased. Waits for no key service.
    fn follow(&self);

    /// Called about once a second, by another thread: replaces keys before they are spent or old.
    fn renew(&self);
}

/// A source of the reading service's API keys: the key manager, or a test.
pub trait CredentialSource: Send + Sync {
    /// All of them, and who is suspended. Blocks.
    ///
    /// # Errors
    /// [`KeyFault`]: nobody knows now which are revoked.
    fn credentials(&self) -> Result<Credentials, KeyFault>;

    /// Suspends somebody, for every instance. Blocks.
    ///
    /// # Errors
    /// [`KeyFault`]: only this process knows of it.
    fn suspend(&self, suspension: &Suspension) -> Result<(), KeyFault>;
}

/// Keys are not available now.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct KeyFault(pub String);
