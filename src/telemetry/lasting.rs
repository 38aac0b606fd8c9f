//! States that last and that every request meets: the log has their begin and their end, and not a
//! line for each request.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What comes and goes within this time is one state.
const QUIET: Duration = Duration::from_secs(5);
/// Reasons that are told while it lasts.
const REASONS: usize = 8;

/// A state that may last.
#[derive(Debug, Default)]
pub struct Lasting {
    is_on: AtomicBool,
    met: Mutex<Met>,
}

#[derive(Debug, Default)]
struct Met {
    /// When it was met last. `None`: it is not on.
    last: Option<Instant>,
    count: u64,
    told: Vec<String>,
}

impl Lasting {
    /// It is met. Whether the log should have it: it begins, or the reason is new.
    pub fn meet(&self, reason: &str, now: Instant) -> bool {
        let mut met = self.lock();
        self.is_on.store(true, Ordering::SeqCst);
        met.last = Some(now);
        met.count += 1;
        let is_news = met.told.len() < REASONS && !met.told.iter().any(|told| told == reason);
        if is_news {
            met.told.push(reason.to_owned());
        }
        is_news
    }

    /// It is not met where it could be. How often it was, if it is over with that.
    pub fn pass(&self, now: Instant) -> Option<u64> {
        if !self.is_on.load(Ordering::SeqCst) {
            return None;
        }
        let mut met = self.lock();
        if now.saturating_duration_since(met.last?) < QUIET {
            return None;
        }
        self.is_on.store(false, Ordering::SeqCst);
        Some(std::mem::take(&mut *met).count)
    }

    fn lock(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_is_told_when_it_begins_and_when_it_has_been_over_for_a_while() {
        let (state, begin) = (Lasting::default(), Instant::now());
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        assert_eq!(state.pass(at(0)), None, "it was never on");
        assert!(state.meet("disk full", at(0)));
        assert!(!state.meet("disk full", at(1)));
        assert_eq!(state.pass(at(2)), None, "it may come back");
        assert!(state.meet("too late", at(3)), "another reason");
        assert!(!state.meet("disk full", at(4)));
        assert_eq!(state.pass(at(8)), None);
        assert_eq!((state.pass(at(9)), state.pass(at(20))), (Some(4), None));
        assert!(state.meet("disk full", at(30)), "it begins again");
    }

    #[test]
    fn reasons_without_end_are_no_flood() {
        let (state, now) = (Lasting::default(), Instant::now());
        let told = (0..1000).filter(|n| state.meet(&n.to_string(), now)).count();
        assert_eq!(told, REASONS);
        assert_eq!(state.pass(now + QUIET), Some(1000));
    }
}
