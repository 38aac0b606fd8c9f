//! How far work on a table has come.

use std::fmt;
use std::time::Duration;

/// How far work on a table has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Rows that were read.
    pub rows: u64,
    /// Rows that the table has, as the server last counted them.
    pub estimate: u64,
    /// Since the work began.
    pub elapsed: Duration,
}

impl Progress {
    /// Rows read a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub fn rate(&self) -> f64 {
        self.rows as f64 / self.elapsed.as_secs_f64().max(0.001)
    }

    /// How long it will take; `None`: nobody knows.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a time for people")]
    pub fn left(&self) -> Option<Duration> {
        let rows = self.estimate.checked_sub(self.rows)?;
        Duration::try_from_secs_f64(rows as f64 / self.rate()).ok()
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of about {} rows, {:.0} rows/s",
            self.rows,
            self.estimate.max(self.rows),
            self.rate()
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
        let at = |rows| Progress { rows, estimate: 1000, elapsed: Duration::from_secs(2) };
        assert_eq!(at(200).to_string(), "200 of about 1000 rows, 100 rows/s, about 8 s left");
        assert_eq!(at(2000).to_string(), "2000 of about 2000 rows, 1000 rows/s");
        assert_eq!(at(0).left(), None);
    }
}
