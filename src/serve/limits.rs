//! Limits of load: items of a principal, refused credentials of an address, requests and bytes of
//! all. One principal holds three quarters of these at most: the others are answered beside it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::Clock as _;
use governor::{DefaultKeyedRateLimiter, Quota};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::BODY_MAX;
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
    all: Share,
    /// By principal.
    shares: Mutex<HashMap<String, Share>>,
    of_one: ServeLimits,
    refused: Mutex<Refused>,
}

/// Requests and bytes that somebody may hold at once.
#[derive(Clone)]
pub struct Share {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
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
            all: Share::new(settings),
            shares: Mutex::default(),
            of_one: ServeLimits {
                requests: settings.requests - settings.requests / 4,
                bytes: (settings.bytes - settings.bytes / 4).max(BODY_MAX),
                ..*settings
            },
            refused: Mutex::default(),
        }
    }

    /// What all of them may hold together.
    #[must_use]
    pub fn all(&self) -> &Share {
        &self.all
    }

    /// What this principal may hold of it.
    #[must_use]
    pub fn share(&self, principal: &str) -> Share {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(principal) {
            return share.clone();
        }
        shares.entry(principal.to_owned()).or_insert(Share::new(&self.of_one)).clone()
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
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, share| share.is_used());
        shares.shrink_to_fit();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.windows.retain(|_, window| now < window.since + WINDOW);
        refused.windows.shrink_to_fit();
    }
}

impl Share {
    fn new(limits: &ServeLimits) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(limits.requests)),
            bytes: Arc::new(Semaphore::new(limits.bytes / UNIT)),
        }
    }

    /// A place for a request until it is answered.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn request(&self) -> Result<OwnedSemaphorePermit, Exceeded> {
        taken(&self.requests, 1)
    }

    /// Room for a body of so many bytes. All of it at once: two that wait for the second half of
    /// their bodies would wait for each other.
    ///
    /// # Errors
    /// [`Exceeded`].
    pub fn bytes(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Exceeded> {
        taken(&self.bytes, u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX))
    }

    /// Whether somebody else has it, or holds something of it.
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.requests) > 1 || Arc::strong_count(&self.bytes) > 1
    }
}

fn taken(semaphore: &Arc<Semaphore>, count: u32) -> Result<OwnedSemaphorePermit, Exceeded> {
    let permit = semaphore.clone().try_acquire_many_owned(count);
    permit.map_err(|_| Exceeded::after(Duration::from_secs(1)))
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
        let all = limits.all();
        let held = [all.request().unwrap(), all.request().unwrap()];
        assert!(all.request().is_err());
        drop(held);
        drop(all.request().unwrap());
        let most = all.bytes(8 << 20).unwrap();
        assert!(all.bytes(1).is_err());
        drop(most);
        drop(all.bytes(1).unwrap());
    }

    #[test]
    fn a_principal_leaves_a_quarter_to_others() {
        let settings = ServeLimits { requests: 8, bytes: 32 << 20, ..limits().of_one };
        let limits = Limits::new(&settings);
        let a = limits.share("key:a");
        let requests: Vec<_> = (0..6).map(|_| a.request().unwrap()).collect();
        let bytes: Vec<_> = (0..3).map(|_| a.bytes(BODY_MAX).unwrap()).collect();
        drop(a);
        limits.prune(0);
        let a = limits.share("key:a");
        assert!(a.request().is_err() && a.bytes(1).is_err(), "what it holds is not forgotten");
        let b = limits.share("key:b");
        drop((b.request().unwrap(), b.bytes(BODY_MAX).unwrap()));
        drop((requests, bytes, a, b));
        limits.prune(0);
        assert!(limits.shares.lock().unwrap().is_empty());
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
