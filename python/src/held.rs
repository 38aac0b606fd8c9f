//! Keys of one call: its snapshot, and what was looked up by id.

use std::sync::Arc;

use veilstream::keys::{KeyFault, KeySource};
use veilstream_engine::Keyring;
use veilstream_engine::key::{Key, KeyId, KeyKind, Scope, SubjectRef};
use veilstream_engine::reveal::FetchedKeys;

/// Keys of one call.
pub(crate) struct Held<'s> {
    source: &'s dyn KeySource,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) fetched: FetchedKeys,
}

impl<'s> Held<'s> {
    /// The keys as they are now.
    pub(crate) fn of(source: &'s dyn KeySource) -> Self {
        Self { source, keyring: source.keyring(), fetched: FetchedKeys::default() }
    }

    /// The key of that id, if it may open a field's token.
    ///
    /// # Errors
    /// It cannot be looked up now.
    pub(crate) fn get(&mut self, kid: &KeyId) -> Result<Option<Arc<Key>>, KeyFault> {
        let known = self.keyring.get(kid).cloned().map(Some);
        let key = match known.or_else(|| self.fetched.get(kid).cloned()) {
            Some(known) => known,
            None => {
                let key = self.source.lookup_for_reading(kid)?;
                self.fetched.insert(*kid, key.clone());
                key
            }
        };
        Ok(key.filter(|key| key.kind != KeyKind::DeadLetter))
    }
}

/// Whose key it is.
pub(crate) fn subject_of(key: &Key) -> Option<SubjectRef> {
    if let Scope::Subject(subject) = key.scope { Some(subject) } else { None }
}
