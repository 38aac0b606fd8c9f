//! Who is at the other end of a connection.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use super::auth::ClientCertificate;
use super::listener::PeerCertificate;
use crate::config::Network;

/// The header that proxies write addresses into.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The other end of a connection: for all requests on it.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    certificate: Option<PeerCertificate>,
}

impl Peer {
    pub(super) fn new(address: SocketAddr, certificate: Option<PeerCertificate>) -> Self {
        Self { address, certificate }
    }

    /// The client certificate, which the handshake verified.
    #[must_use]
    pub fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_ref().map(PeerCertificate::certificate)
    }

    /// Whether the certificate still counts: it may have expired or been revoked since the
    /// handshake.
    #[must_use]
    pub fn certificate_holds(&self, now: u64) -> bool {
        self.certificate.as_ref().is_some_and(|certificate| certificate.holds(now))
    }

    /// Whose request this is: the peer's address; where the peer is a proxy, what it forwards for.
    #[must_use]
    pub fn ip(&self, headers: &HeaderMap, proxies: &[Network]) -> IpAddr {
        let is_proxy = |address: IpAddr| proxies.iter().any(|network| network.contains(address));
        let mut found = self.address.ip().to_canonical();
        if !is_proxy(found) {
            return found;
        }
        // Each proxy adds the address it heard from at the end: what stands before the first that
        // is no proxy is anybody's word.
        let lines: Vec<&str> =
            headers.get_all(FORWARDED_FOR).iter().filter_map(|line| line.to_str().ok()).collect();
        for text in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            let Ok(address) = text.trim().parse::<IpAddr>() else { break };
            found = address.to_canonical();
            if !is_proxy(found) {
                break;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn ip(peer: &str, lines: &[&str]) -> String {
        let proxies = [Network::parse("10.0.0.0/8").unwrap(), Network::parse("fd00::/8").unwrap()];
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        Peer::new(peer.parse().unwrap(), None).ip(&headers, &proxies).to_string()
    }

    #[test]
    fn forwarded_addresses_count_from_proxies_alone() {
        assert_eq!(ip("192.0.2.1:5", &[]), "192.0.2.1");
        assert_eq!(ip("192.0.2.1:5", &["203.0.113.9"]), "192.0.2.1", "anybody can write a header");
        assert_eq!(ip("10.0.0.1:5", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(ip("[::ffff:10.0.0.1]:5", &["203.0.113.9"]), "203.0.113.9");
        assert_eq!(ip("10.0.0.1:5", &["198.51.100.1, 203.0.113.9, 10.0.0.2"]), "203.0.113.9");
        assert_eq!(ip("10.0.0.1:5", &["198.51.100.1", "203.0.113.9, fd00::2"]), "203.0.113.9");
        assert_eq!(ip("10.0.0.1:5", &["198.51.100.1, unknown"]), "10.0.0.1");
        assert_eq!(ip("10.0.0.1:5", &[]), "10.0.0.1");
        assert_eq!(ip("10.0.0.1:5", &["10.0.0.9"]), "10.0.0.9", "a proxy's own request");
    }
}
