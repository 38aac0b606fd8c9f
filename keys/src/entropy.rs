//! Random bytes from the operating system, for the engine's nonces.

use veilstream_engine::{Entropy, EntropyError};

/// The operating system's generator.
#[derive(Debug, Clone, Copy)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(buf).map_err(|_| EntropyError)
    }
}
