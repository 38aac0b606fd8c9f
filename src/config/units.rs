//! Values with units.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Parses `100ms`, `5s`, `1m 30s`.
///
/// # Errors
/// What to write instead.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let signed: jiff::SignedDuration = text.parse().map_err(|_| {
        "is not a duration; write a number with its unit, such as \"100ms\", \"5s\" or \"2m\""
            .to_owned()
    })?;
    Duration::try_from(signed).map_err(|_| "is negative; write a positive duration".to_owned())
}

/// Parses `16MiB`, `512KiB`, `1048576B`.
///
/// # Errors
/// What to write instead.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let wrong = || {
        "is not a size; write a number with its unit, such as \"512KiB\" or \"16MiB\"".to_owned()
    };
    if !text.ends_with(['B', 'b']) {
        return Err(wrong());
    }
    let size: bytesize::ByteSize = text.parse().map_err(|_| wrong())?;
    usize::try_from(size.as_u64()).map_err(|_| wrong())
}

/// When a route stops because too much of it is rejected: `50% of 1000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectGuard {
    /// More than this share of the window stops the route; 1..=100.
    pub percent: u8,
    /// The last so many records of a topic.
    pub window: u32,
}

impl FromStr for RejectGuard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "is not a guard; write \"50% of 1000\" (share of the last so many records) or \"off\""
                .to_owned()
        };
        let (percent, window) = text.split_once("% of ").ok_or_else(wrong)?;
        let guard = Self {
            percent: percent.trim().parse().map_err(|_| wrong())?,
            window: window.trim().parse().map_err(|_| wrong())?,
        };
        if (1..=100).contains(&guard.percent) && (10..=1_000_000).contains(&guard.window) {
            Ok(guard)
        } else {
            Err("is out of range; the share is 1% to 100%, the window 10 to 1000000 records"
                .to_owned())
        }
    }
}

impl fmt::Display for RejectGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}% of {}", self.percent, self.window)
    }
}
