//! Keys of a command that may run for long, fed from a pipe: it hears of erasures and rotations as
//! soon as the sidecar does.

use std::sync::Arc;
use std::time::Duration;

use super::KeySource;
use crate::ticker::Ticker;

/// Between two looks at what others did to keys.
const LOOK: Duration = Duration::from_secs(1);

/// Maintains these keys until it is dropped.
///
/// # Errors
/// No thread can be made.
pub fn maintain(keys: &Arc<dyn KeySource>) -> std::io::Result<Ticker> {
    let keys = keys.clone();
    Ticker::start("keys", LOOK, move || keys.maintain())
}
