//! How many connections there are, and how many of one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Network;

/// Connections by address. One that is no proxy has a quarter of them at most, so that it takes
/// more than one to keep everybody else away.
pub(super) struct Connections {
    all: Arc<Semaphore>,
    each: usize,
    proxies: Vec<Network>,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place; dropped, another may have it.
pub(super) struct Held {
    connections: Arc<Connections>,
    address: IpAddr,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connections {
    pub(super) fn new(all: usize, proxies: Vec<Network>) -> Self {
        let each = all.div_ceil(4);
        Self { all: Arc::new(Semaphore::new(all)), each, proxies, open: Mutex::default() }
    }

    pub(super) fn all(&self) -> &Arc<Semaphore> {
        &self.all
    }

    /// A place for a connection of this address; `None`: it has too many.
    pub(super) fn hold(
        self: &Arc<Self>,
        address: IpAddr,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Option<Held> {
        let address = address.to_canonical();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(address).or_default();
        if *count >= self.each && !self.proxies.iter().any(|network| network.contains(address)) {
            return None;
        }
        *count += 1;
        Some(Held { connections: self.clone(), address, _permit: permit })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others() {
        let proxies = vec![Network::parse("10.0.0.0/8").unwrap()];
        let connections = Arc::new(Connections::new(8, proxies));
        let hold = |address: [u8; 4]| connections.hold(address.into(), None);
        let held: Vec<Held> = (0..2).filter_map(|_| hold([192, 0, 2, 1])).collect();
        assert_eq!(held.len(), 2);
        assert!(hold([192, 0, 2, 1]).is_none());
        assert!(hold([192, 0, 2, 2]).is_some());
        let proxied: Vec<Held> = (0..5).filter_map(|_| hold([10, 0, 0, 1])).collect();
        assert_eq!(proxied.len(), 5);
        drop(held);
        assert!(hold([192, 0, 2, 1]).is_some());
        drop(proxied);
        assert!(connections.open.lock().unwrap().is_empty(), "addresses are forgotten");
    }
}
