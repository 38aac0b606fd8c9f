//! The key manager, as the parts of the sidecar use it.

use std::sync::Arc;

use crate::cli::KeysSource;
use crate::config;
use crate::kafka::KeySource;

/// Opens the keys a configuration names.
///
/// # Errors
/// The store or the provider cannot be had.
pub fn open(_config: &config::Keys) -> anyhow::Result<Arc<dyn KeySource>> {
    anyhow::bail!("the key manager is not wired yet")
}

/// Opens the keys a one-shot command was pointed at: `--keys DIR`, or the `[keys]` section of `--config FILE`.
///
/// # Errors
/// None was named, or as [`open`].
pub fn open_local(_source: &KeysSource) -> anyhow::Result<Arc<dyn KeySource>> {
    anyhow::bail!("the key manager is not wired yet")
}
