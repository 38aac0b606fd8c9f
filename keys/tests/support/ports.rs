//! Ports for servers that tests start, and start again.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use std::fs;
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Below are the ports of well-known services.
const FIRST: u16 = 10_000;

/// A port that is free now, and stays so while its server is down: no other caller in this process
/// gets it, and the system gives it to nobody who asks for any port.
pub(crate) fn free_port() -> u16 {
    first_of_free_ports(1)
}

/// The first of this many successive ports, each as [`free_port`] gives them, for a server that
/// takes the ports after its own without being told.
pub(crate) fn first_of_free_ports(count: usize) -> u16 {
    static ASKED: AtomicUsize = AtomicUsize::new(0);
    let ports = unassigned();
    // Processes beside each other begin at different places.
    let begin = usize::try_from(std::process::id()).unwrap().wrapping_mul(997);
    let mut candidates = (0..ports.len()).map(|_| {
        let place = begin.wrapping_add(ASKED.fetch_add(count, Ordering::Relaxed)) % ports.len();
        &ports[place..ports.len().min(place + count)]
    });
    let is_free = |ports: &&[u16]| {
        ports.len() == count
            && ports.windows(2).all(|pair| pair[1] == pair[0] + 1)
            && ports.iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
    };
    candidates.find(is_free).unwrap()[0]
}

/// The ports that the system does not assign by itself.
fn unassigned() -> Vec<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let ends: Vec<u16> = range.split_whitespace().map(|end| end.parse().unwrap()).collect();
    let ports = (FIRST..=u16::MAX).filter(|port| !(ends[0]..=ends[1]).contains(port)).collect();
    assert!(!Vec::is_empty(&ports), "the system assigns every port; see ip_local_port_range");
    ports
}
