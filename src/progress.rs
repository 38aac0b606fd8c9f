//! How far a command has come.

use std::fmt;
use std::time::Duration;

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is counted: `rows`, `records`.
    pub items: &'static str,
    /// How many were read.
    pub done: u64,
    /// How many there are, as the server last counted them.
    pub estimate: u64,
    /// Since the work began.
    pub elapsed: Duration,
}

impl Progress {
    /// How many are read a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.elapsed.as_secs_f64().max(0.001)
    }

    /// How long it will take; `None`: nobody knows.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a time for people")]
    pub fn left(&self) -> Option<Duration> {
        let left = self.estimate.checked_sub(self.done)?;
        Duration::try_from_secs_f64(left as f64 / self.rate()).ok()
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of about {} {items}, {:.0} {items}/s",
            self.done,
            self.estimate.max(self.done),
            self.rate(),
            items = self.items
        )?;
        match self.left() {
            Some(left) => write!(f, ", about {} s left", left.as_secs()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_left() {
        let at = |done| {
            let elapsed = Duration::from_secs(2);
            Progress { items: "rows", done, estimate: 1000, elapsed }
        };
        assert_eq!(at(200).to_string(), "200 of about 1000 rows, 100 rows/s, about 8 s left");
        assert_eq!(at(2000).to_string(), "2000 of about 2000 rows, 1000 rows/s");
        assert_eq!(at(0).left(), None);
    }
}
