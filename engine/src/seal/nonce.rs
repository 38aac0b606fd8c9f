//! Nonces from the operating system, drawn in blocks.

use crate::{Entropy, EntropyError};

const BLOCK: usize = 4096;

/// Random bytes for nonces. Every byte is given out once; a block lost to [`NoncePool::discard`] is never used.
pub struct NoncePool {
    source: Box<dyn Entropy>,
    block: Box<[u8; BLOCK]>,
    used: usize,
}

impl NoncePool {
    /// An empty pool over `source`.
    #[must_use]
    pub fn new(source: Box<dyn Entropy>) -> Self {
        Self { source, block: Box::new([0; BLOCK]), used: BLOCK }
    }

    /// Fills `nonce` with bytes nobody else gets.
    ///
    /// # Errors
    /// [`EntropyError`] when the source fails; `nonce` must not be used then.
    pub fn take(&mut self, nonce: &mut [u8]) -> Result<(), EntropyError> {
        if self.used + nonce.len() > BLOCK {
            self.used = BLOCK;
            self.source.fill(&mut self.block[..])?;
            self.used = 0;
        }
        let end = self.used + nonce.len();
        nonce.copy_from_slice(&self.block[self.used..end]);
        self.used = end;
        Ok(())
    }

    /// Forgets the block in hand. For a process that finds itself copied.
    pub fn discard(&mut self) {
        self.used = BLOCK;
    }
}
