//! Nonces from the operating system, drawn in blocks, and what the long ones of one record share.

use super::xaes::Gcm;
use crate::key::KeyId;
use crate::token::FieldId;
use crate::{Entropy, EntropyError};

/// Bytes of a short nonce, and of either half of a long one.
pub(super) const SHORT: usize = 12;

/// Short nonces drawn at once: at least 4 KiB.
const BLOCK: usize = 342;

/// Random bytes for nonces. Every byte is drawn for one nonce, or for the first half of one
/// record's; a block lost to [`NoncePool::discard`] is never used.
pub struct NoncePool {
    source: Box<dyn Entropy>,
    block: Box<[[u8; SHORT]; BLOCK]>,
    used: usize,
    in_record: bool,
    /// The first half of the record's long nonces, once one was drawn.
    first_half: Option<[u8; SHORT]>,
    /// What it makes of keys and fields: their names, and at the same places the subkeys.
    names: Vec<(KeyId, FieldId)>,
    subkeys: Vec<Gcm>,
}

impl NoncePool {
    /// An empty pool over `source`.
    #[must_use]
    pub fn new(source: Box<dyn Entropy>) -> Self {
        Self {
            source,
            block: Box::new([[0; SHORT]; BLOCK]),
            used: BLOCK,
            in_record: false,
            first_half: None,
            names: Vec::new(),
            subkeys: Vec::new(),
        }
    }

    /// Says that a record begins: until it ends, what [`NoncePool::long_of_record`] gives shares a
    /// first half that nothing before had.
    pub fn begin_record(&mut self) {
        self.end_record();
        self.in_record = true;
    }

    /// Says that it ends, and forgets what was shared.
    pub fn end_record(&mut self) {
        self.in_record = false;
        self.first_half = None;
        self.names.clear();
        self.subkeys.clear();
    }

    /// Appends a nonce of 12 bytes nobody else gets.
    ///
    /// # Errors
    /// [`EntropyError`] when the source fails; nothing was appended then.
    pub fn short(&mut self, out: &mut Vec<u8>) -> Result<(), EntropyError> {
        out.extend_from_slice(self.take()?);
        Ok(())
    }

    /// Appends a nonce of 24 bytes nobody else gets.
    ///
    /// # Errors
    /// [`EntropyError`] when the source fails; nothing was appended then.
    pub fn long(&mut self, out: &mut Vec<u8>) -> Result<(), EntropyError> {
        let start = out.len();
        self.short(out)?;
        self.short(out).inspect_err(|_| out.truncate(start))
    }

    /// Appends a nonce of 24 bytes that shares its first half with the others of its record;
    /// outside of a record, one that shares nothing.
    ///
    /// # Errors
    /// [`EntropyError`] when the source fails; nothing was appended then.
    pub fn long_of_record(&mut self, out: &mut Vec<u8>) -> Result<(), EntropyError> {
        if self.in_record && self.first_half.is_none() {
            self.first_half = Some(*self.take()?);
        }
        let Some(first) = self.first_half else { return self.long(out) };
        let second = self.take()?;
        out.extend_from_slice(&first);
        out.extend_from_slice(second);
        Ok(())
    }

    /// The subkey that the record's first half makes of a key and field, made at the first call;
    /// `None` when `first` is not that half.
    pub(super) fn subkey(
        &mut self,
        first: &[u8; SHORT],
        key: KeyId,
        field: FieldId,
        make: impl FnOnce() -> Gcm,
    ) -> Option<&Gcm> {
        if self.first_half.as_ref() != Some(first) {
            return None;
        }
        // From the end: values of a field come together.
        let at =
            self.names.iter().rposition(|(k, f)| *f == field && *k == key).unwrap_or_else(|| {
                self.subkeys.push(make());
                self.names.push((key, field));
                self.names.len() - 1
            });
        Some(&self.subkeys[at])
    }

    /// Fills `bytes` with random bytes that nobody else gets. For forms of other systems, whose
    /// nonces have other lengths.
    ///
    /// # Errors
    /// [`EntropyError`] when the source fails.
    pub(crate) fn bytes(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        for part in bytes.chunks_mut(SHORT) {
            let length = part.len();
            part.copy_from_slice(&self.take()?[..length]);
        }
        Ok(())
    }

    #[inline]
    fn take(&mut self) -> Result<&[u8; SHORT], EntropyError> {
        if self.used >= self.block.len() {
            self.source.fill(self.block.as_flattened_mut())?;
            self.used = 0;
        }
        self.used += 1;
        Ok(&self.block[self.used - 1])
    }

    /// Forgets what is in hand. For a process that finds itself copied.
    pub fn discard(&mut self) {
        self.used = BLOCK;
        self.end_record();
    }
}
