//! Keys of a process that runs for long: it hears of erasures and rotations within seconds.

use std::sync::Arc;
use std::time::Duration;

use super::KeySource;
use crate::ticker::Ticker;

/// Between two looks at what others did to keys.
const LOOK: Duration = Duration::from_secs(1);

/// Maintains keys until it is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Upkeep {
    follows: Ticker,
    renews: Ticker,
}

/// Maintains these keys, on two threads: what a key service lets wait holds up no erasure.
///
/// # Errors
/// No thread can be made.
pub fn maintain(keys: &Arc<dyn KeySource>) -> std::io::Result<Upkeep> {
    let (following, renewing) = (keys.clone(), keys.clone());
    Ok(Upkeep {
        follows: Ticker::start("keys-follow", LOOK, move || following.follow())?,
        renews: Ticker::start("keys-renew", LOOK, move || renewing.renew())?,
    })
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        // Both wait for the same servers: nobody waits for one after the other.
        self.follows.ask_to_end();
        self.renews.ask_to_end();
    }
}
