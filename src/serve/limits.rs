//! Limits of load: items of a principal, refused credentials of an address, requests and bytes of
//! all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::{DefaultKeyedRateLimiter, Quota};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::ServeLimits;

/// Refused credentials of an address in a window.
const REFUSED: u32 = 30;
/// The window, in seconds.
const WINDOW: u64 = 60;
/// Addresses that are told apart; the rest counts as one.
const ADDRESSES: usize = 10_000;
/// Bytes of a permit.
const UNIT: usize = 1024;

/// What is left.
pub struct Limits {
    items: DefaultKeyedRateLimiter<String>,
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    refused: Mutex<Refused>,
}

#[derive(Default)]
struct Refused {
    windows: HashMap<Option<IpAddr>, Window>,
    /// When old ones were last forgotten, in Unix seconds: not for each of a flood.
    pruned: u64,
}

/// Credentials that were refused since then, in Unix seconds.
#[derive(Debug, Clone, Copy)]
struct Window {
    since: u64,
    count: u32,
}

/// There is no more for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// What to answer in `Retry-After`, at least a second.
    pub retry_after: Duration,
}

impl Limits {
    /// Nothing is used yet.
    #[must_use]
    pub fn new(settings: &ServeLimits) -> Self {
        let each = NonZeroU32::new(settings.items_per_second).unwrap_or(NonZeroU32::MIN);
        Self {
            items: DefaultKeyedRateLimiter::keyed(Quota::per_second(each)),
            requests: Arc::new(Semaphore::new(settings.requests)),
            bytes: Arc::new(Semaphore::new(settings.bytes / UNIT)),
            refused: Mutex::default(),
        }
    }

    /// Takes items of a principal, denied ones too.
    ///
    /// # Errors
    /// [`Exceeded`]; none were taken.
    pub fn items(&self, principal: &str, items: u32) -> Result<(), Exceeded> {
        let Some(items) = NonZeroU32::new(items) else { return Ok(()) };
        match self.items.check_key_n(&principal.to_owned(), items) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let now = governor::clock::DefaultClock::default().now();
                Err(Exceeded::after(not_until.wait_time_from(now)))
            }
            // More than a second's worth at once: never. Requests have 1,000 items at most, which
            // the least limit lets through.
            Err(_) => Err(Exceeded::after(Duration::from_secs(1))),
        }
    }

    /// A place for a request until it is answered.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn request(&self) -> Result<OwnedSemaphorePermit, Exceeded> {
        self.requests
            .clone()
            .try_acquire_owned()
            .map_err(|_| Exceeded::after(Duration::from_secs(1)))
    }

    /// Room for a body of so many bytes. All of it at once: two that wait for the second half of
    /// their bodies would wait for each other.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn bytes(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Exceeded> {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        self.bytes
            .clone()
            .try_acquire_many_owned(units)
            .map_err(|_| Exceeded::after(Duration::from_secs(1)))
    }

    /// Whether the address showed too many credentials that were refused.
    ///
    /// # Errors
    /// [`Exceeded`]: no credential of it is looked at.
    pub fn credentials(&self, address: IpAddr, now: u64) -> Result<(), Exceeded> {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let windows = &refused.windows;
        let known = windows.get(&Some(network(address))).or_else(|| {
            // The rest counts as one, but only where there is a rest.
            windows.get(&None).filter(|_| windows.len() > ADDRESSES)
        });
        match known {
            // A clock that went back must not lengthen it.
            Some(window) if window.count >= REFUSED && now.abs_diff(window.since) < WINDOW => {
                Err(Exceeded::after(Duration::from_secs(window.since + WINDOW - now)))
            }
            _ => Ok(()),
        }
    }

    /// A credential of this address was refused.
    pub fn refused(&self, address: IpAddr, now: u64) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let Refused { windows, pruned } = &mut *refused;
        let mut key = Some(network(address));
        if windows.len() >= ADDRESSES && !windows.contains_key(&key) {
            if *pruned != now {
                *pruned = now;
                windows.retain(|_, window| now < window.since + WINDOW);
            }
            if windows.len() >= ADDRESSES {
                key = None;
            }
        }
        let window = windows.entry(key).or_insert(Window { since: now, count: 0 });
        if now >= window.since + WINDOW || now < window.since {
            *window = Window { since: now, count: 0 };
        }
        window.count = window.count.saturating_add(1);
    }

    /// Forgets who is at their start again. Called every now and then.
    pub fn prune(&self, now: u64) {
        self.items.retain_recent();
        self.items.shrink_to_fit();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.windows.retain(|_, window| now < window.since + WINDOW);
        refused.windows.shrink_to_fit();
    }
}

impl Exceeded {
    fn after(wait: Duration) -> Self {
        Self { retry_after: Duration::from_secs(wait.as_millis().div_ceil(1000).max(1) as u64) }
    }
}

/// An IPv6 host has a network of its own.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits::new(&ServeLimits {
            items_per_second: 1000,
            requests: 2,
            bytes: 8 << 20,
            connections: 8,
        })
    }

    #[test]
    fn items_are_counted_by_principal() {
        let limits = limits();
        limits.items("key:a", 0).unwrap();
        limits.items("key:a", 1000).unwrap();
        let exceeded = limits.items("key:a", 1000).unwrap_err();
        assert_eq!(exceeded.retry_after, Duration::from_secs(1));
        limits.items("mtls:a", 1000).unwrap();
        assert_eq!(limits.items.len(), 2);
        limits.prune(0);
        assert_eq!(limits.items.len(), 2, "they are not at their start again");
        assert!(limits.items("key:b", 1001).is_err(), "never");
    }

    #[test]
    fn whoever_is_at_the_start_again_is_forgotten() {
        let limits = limits();
        limits.items("key:a", 1).unwrap();
        let since = std::time::Instant::now();
        while !limits.items.is_empty() {
            assert!(since.elapsed() < Duration::from_secs(30));
            limits.prune(0);
        }
    }

    #[test]
    fn requests_and_bytes_come_back() {
        let limits = limits();
        let held = [limits.request().unwrap(), limits.request().unwrap()];
        assert!(limits.request().is_err());
        drop(held);
        drop(limits.request().unwrap());
        let most = limits.bytes(8 << 20).unwrap();
        assert!(limits.bytes(1).is_err());
        drop(most);
        drop(limits.bytes(1).unwrap());
    }

    #[test]
    fn an_address_that_guesses_is_not_listened_to() {
        let limits = limits();
        let (a, b): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        for _ in 0..REFUSED {
            limits.credentials(a, 100).unwrap();
            limits.refused(a, 100);
        }
        let left = limits.credentials(a, 110).unwrap_err().retry_after;
        assert_eq!(left, Duration::from_secs(WINDOW - 10));
        limits.credentials(b, 110).unwrap();
        limits.credentials(a, 100 - WINDOW).unwrap();
        limits.credentials(a, 100 + WINDOW).unwrap();
        limits.refused(a, 100 + WINDOW);
        limits.credentials(a, 100 + WINDOW).unwrap();
        let (c, d): (IpAddr, IpAddr) =
            ("2001:db8::1".parse().unwrap(), "2001:db8::ffff:2".parse().unwrap());
        (0..REFUSED).for_each(|_| limits.refused(c, 100));
        assert!(limits.credentials(d, 100).is_err(), "one network");
    }

    #[test]
    fn guesses_from_many_addresses_take_bounded_memory() {
        let limits = limits();
        for n in 0..2 * u32::try_from(ADDRESSES).unwrap() {
            limits.refused(n.to_be_bytes().into(), 100);
        }
        assert!(limits.refused.lock().unwrap().windows.len() <= ADDRESSES + 1);
        assert!(limits.credentials([255, 0, 2, 1].into(), 100).is_err(), "the rest is one");
        limits.prune(100 + WINDOW);
        assert!(limits.refused.lock().unwrap().windows.is_empty());
        limits.credentials([255, 0, 2, 1].into(), 100 + WINDOW).unwrap();
    }
}
