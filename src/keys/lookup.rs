//! Keys by their id, for the engine's readers, which know no outage.

use std::cell::RefCell;
use std::sync::Arc;

use veilstream_engine::reveal;
use veilstream_engine::{Key, KeyId, Keyring};

use super::{KeyFault, KeySource};

/// Keys as the engine asks for them; remembers why one was not available.
pub struct KeyLookup<'a> {
    source: &'a dyn KeySource,
    keyring: Arc<Keyring>,
    fault: RefCell<Option<KeyFault>>,
}

impl<'a> KeyLookup<'a> {
    /// The keys as they are now.
    #[must_use]
    pub fn new(source: &'a dyn KeySource) -> Self {
        Self { source, keyring: source.keyring(), fault: RefCell::default() }
    }

    /// Takes the snapshot of now.
    pub fn refresh(&mut self) {
        self.keyring = self.source.keyring();
    }

    /// Where they come from.
    #[must_use]
    pub fn source(&self) -> &'a dyn KeySource {
        self.source
    }

    /// Does what needs keys; `found` hears of each that was looked up. A key that could not be
    /// looked up is an outage, not a token that does not open.
    ///
    /// # Errors
    /// [`KeyFault`]; what was done does not count.
    pub fn with<T>(
        &self,
        found: impl Fn(&Arc<Key>),
        work: impl FnOnce(reveal::KeySource<'_>) -> T,
    ) -> Result<T, KeyFault> {
        let lookup = |id: &KeyId| {
            let key = self.source.lookup(id).unwrap_or_else(|fault| {
                self.fault.replace(Some(fault));
                None
            });
            key.inspect(&found)
        };
        let done = work(reveal::KeySource { keyring: &self.keyring, lookup: &lookup });
        self.fault.take().map_or(Ok(done), Err)
    }
}
