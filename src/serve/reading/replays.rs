//! Requests that are made again under their id.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::fault::RequestFault;

/// Seconds within which an id means the same request.
pub(super) const WINDOW: u64 = 600;
/// Ids that are kept; beyond them the oldest is forgotten, and a repetition is a new disclosure.
const MOST: usize = 100_000;

/// Ids of the last ten minutes.
#[derive(Default)]
pub(super) struct Replays(Mutex<Known>);

#[derive(Default)]
struct Known {
    requests: HashMap<Id, Seen>,
    by_time: VecDeque<(u64, Id)>,
}

/// SHA-256 of principal and id.
type Id = [u8; 32];

struct Seen {
    body: [u8; 32],
    attempts: u64,
    /// Records and tokens of nobody that its attempts have spent.
    spent: u64,
}

impl Replays {
    /// Which attempt it is, from 1.
    ///
    /// # Errors
    /// The id came with another body before.
    pub(super) fn attempt(
        &self,
        principal: &str,
        id: Option<&str>,
        path: &str,
        body: &[u8],
        now: u64,
    ) -> Result<u64, RequestFault> {
        let Some(id) = id else { return Ok(1) };
        let key = key(principal, id);
        let body: [u8; 32] =
            Sha256::new().chain_update(path).chain_update([0]).chain_update(body).finalize().into();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((time, old)) = known.by_time.front().copied()
            && (known.by_time.len() >= MOST || now > time.saturating_add(WINDOW))
        {
            known.by_time.pop_front();
            known.requests.remove(&old);
        }
        if let Some(seen) = known.requests.get_mut(&key) {
            if seen.body != body {
                return Err(RequestFault::RequestId);
            }
            seen.attempts += 1;
            return Ok(seen.attempts);
        }
        known.requests.insert(key, Seen { body, attempts: 1, spent: 0 });
        known.by_time.push_back((now, key));
        Ok(1)
    }

    /// How many records and tokens of nobody earlier attempts have spent: so many cost nothing
    /// again. An attempt that was denied has spent none.
    pub(super) fn spent(&self, principal: &str, id: Option<&str>) -> u64 {
        let Some(id) = id else { return 0 };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.requests.get(&key(principal, id)).map_or(0, |seen| seen.spent)
    }

    /// Keeps what an attempt has spent in all.
    pub(super) fn spend(&self, principal: &str, id: Option<&str>, units: u64) {
        let Some(id) = id else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = known.requests.get_mut(&key(principal, id)) {
            seen.spent = seen.spent.max(units);
        }
    }
}

fn key(principal: &str, id: &str) -> Id {
    Sha256::new().chain_update(principal).chain_update([0]).chain_update(id).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_means_one_body_of_one_principal_for_ten_minutes() {
        let replays = Replays::default();
        let attempt = |who: &str, body: &[u8], now| {
            replays.attempt(who, Some("r1"), "/v1/reveal", body, now).ok()
        };
        assert_eq!(attempt("key:a", b"{}", 1000), Some(1));
        assert_eq!(attempt("key:a", b"{}", 1001), Some(2));
        assert_eq!(attempt("key:a", b"{ }", 1001), None, "another body");
        assert_eq!(attempt("key:b", b"{ }", 1001), Some(1), "somebody else's id");
        assert_eq!(attempt("key:a", b"{ }", 1601), Some(1), "ten minutes later");
        assert_eq!(replays.attempt("key:a", None, "/v1/reveal", b"", 1601).ok(), Some(1));
    }
}
