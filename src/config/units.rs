//! Values with units.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::value_error::ValueError;

/// Parses `100ms`, `5s`, `1m 30s`.
///
/// # Errors
/// What to write instead.
pub(super) fn duration(text: &str) -> Result<Duration, ValueError> {
    let signed: jiff::SignedDuration = text.parse().map_err(|_| {
        ValueError::form(
            "not a duration",
            "a number with its unit, such as \"100ms\", \"5s\" or \"2m\"",
        )
    })?;
    Duration::try_from(signed).map_err(|_| ValueError::form("negative", "a positive duration"))
}

/// Parses `16MiB`, `512KiB`, `1048576B`.
///
/// # Errors
/// What to write instead.
pub(super) fn bytes(text: &str) -> Result<usize, ValueError> {
    const WRONG: ValueError =
        ValueError::form("not a size", "a number with its unit, such as \"512KiB\" or \"16MiB\"");
    if !text.ends_with(['B', 'b']) {
        return Err(WRONG);
    }
    let size: bytesize::ByteSize = text.parse().map_err(|_| WRONG)?;
    usize::try_from(size.as_u64()).map_err(|_| WRONG)
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
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        const WRONG: ValueError = ValueError::form(
            "not a guard",
            "\"50% of 1000\" (share of the last so many records) or \"off\"",
        );
        let (percent, window) = text.split_once("% of ").ok_or(WRONG)?;
        let guard = Self {
            percent: percent.trim().parse().map_err(|_| WRONG)?,
            window: window.trim().parse().map_err(|_| WRONG)?,
        };
        if (1..=100).contains(&guard.percent) && (10..=1_000_000).contains(&guard.window) {
            Ok(guard)
        } else {
            Err(ValueError::form("out of range", "1% to 100% of 10 to 1000000 records"))
        }
    }
}

impl fmt::Display for RejectGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}% of {}", self.percent, self.window)
    }
}
