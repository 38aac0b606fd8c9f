//! Times as they are written down: in key records, the erasure ledger and the audit log.

use jiff::Timestamp;

/// RFC 3339, UTC, whole seconds: texts of one length sort as times do.
#[must_use]
pub fn text(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

/// The reverse of [`text`]; what it would not write is refused, or two texts of one time would have
/// two MACs.
#[must_use]
pub fn seconds(text: &str) -> Option<u64> {
    let seconds = u64::try_from(text.parse::<Timestamp>().ok()?.as_second()).ok()?;
    (self::text(seconds) == text).then_some(seconds)
}
