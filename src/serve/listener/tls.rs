//! TLS: certificates and revocation lists from files, read again when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime,
};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::config::{CredentialKind, Serve, ServerCertificate};
use crate::serve::auth::ClientCertificate;

/// Seconds after which the certificate of an open connection is verified again.
const VERIFIED: u64 = 60;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct TlsFault {
    /// The file.
    pub path: PathBuf,
    /// What is wrong and what to do. Never a part of the file.
    pub message: String,
}

/// The files, and what they said when they were last good.
pub struct TlsFiles {
    server: ServerCertificate,
    clients: Option<ClientFiles>,
    current: ArcSwap<Tls>,
    /// SHA-256 over all files as last read, good or not.
    seen: Mutex<[u8; 32]>,
}

struct ClientFiles {
    ca: PathBuf,
    crl: Option<PathBuf>,
    /// Whether there may be none: other credentials are taken too.
    optional: bool,
}

/// One state of the files.
pub(super) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// The contents of the files.
struct Contents {
    chain: Vec<u8>,
    key: zeroize::Zeroizing<Vec<u8>>,
    ca: Option<Vec<u8>>,
    crl: Option<Vec<u8>>,
}

impl TlsFiles {
    /// Reads them for the first time; `None`: the service is to be without TLS.
    ///
    /// # Errors
    /// A file cannot be read, or holds something else.
    pub fn open(settings: &Serve) -> Result<Option<Arc<Self>>, TlsFault> {
        let Some(server) = settings.certificate.clone() else { return Ok(None) };
        let takes_clients = settings.principals.contains(&CredentialKind::Certificate);
        let clients = settings.client_ca_file.clone().filter(|_| takes_clients).map(|ca| {
            let (crl, optional) = (settings.client_crl_file.clone(), settings.principals.len() > 1);
            ClientFiles { ca, crl, optional }
        });
        let contents = Contents::read(&server, clients.as_ref())?;
        let current = Tls::of(&contents, &server, clients.as_ref())?;
        let seen = Mutex::new(contents.hash());
        Ok(Some(Arc::new(Self { server, clients, current: ArcSwap::from_pointee(current), seen })))
    }

    /// Reads them again; tells whether there was a change. Connections that are open go on.
    ///
    /// # Errors
    /// The new files are of no use; the last good ones stay in force. Told once a change.
    pub fn reload(&self) -> Result<bool, TlsFault> {
        let contents = Contents::read(&self.server, self.clients.as_ref());
        let hash = match &contents {
            Ok(contents) => contents.hash(),
            Err(fault) => Sha256::digest(fault.to_string()).into(),
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen == hash {
            return Ok(false);
        }
        *seen = hash;
        let tls = Tls::of(&contents?, &self.server, self.clients.as_ref())?;
        self.current.store(Arc::new(tls));
        Ok(true)
    }

    pub(super) fn current(&self) -> Arc<Tls> {
        self.current.load_full()
    }
}

impl Contents {
    fn read(server: &ServerCertificate, clients: Option<&ClientFiles>) -> Result<Self, TlsFault> {
        let optional = |path: Option<&PathBuf>| path.map(|path| read(path)).transpose();
        Ok(Self {
            chain: read(&server.chain)?,
            key: zeroize::Zeroizing::new(read(&server.key)?),
            ca: optional(clients.map(|clients| &clients.ca))?,
            crl: optional(clients.and_then(|clients| clients.crl.as_ref()))?,
        })
    }

    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let none = Vec::new();
        for part in [
            &self.chain,
            &*self.key,
            self.ca.as_ref().unwrap_or(&none),
            self.crl.as_ref().unwrap_or(&none),
        ] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFault> {
    std::fs::read(path).map_err(|e| fault(path, &format!("cannot be read ({e})")))
}

fn fault(path: &Path, message: &str) -> TlsFault {
    TlsFault { path: path.to_owned(), message: message.to_owned() }
}

impl Tls {
    fn of(
        contents: &Contents,
        server: &ServerCertificate,
        clients: Option<&ClientFiles>,
    ) -> Result<Self, TlsFault> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = certificates(&contents.chain, &server.chain)?;
        // The parser's own message may quote the file.
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|_| fault(&server.key, "holds no private key in PEM"))?;
        let verifier = clients.map(|clients| verifier(contents, clients, &provider)).transpose()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| fault(&server.chain, &format!("TLS cannot be set up ({e})")))?;
        let config = match &verifier {
            Some(verifier) => config.with_client_cert_verifier(verifier.clone()),
            None => config.with_no_client_auth(),
        };
        let mut config = config
            .with_single_cert(chain, key)
            .map_err(|e| fault(&server.chain, &format!("does not fit its key ({e})")))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.max_early_data_size = 0;
        // A session that is resumed brings a certificate that nobody verifies again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), verifier })
    }
}

fn verifier(
    contents: &Contents,
    clients: &ClientFiles,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsFault> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(contents.ca.as_deref().unwrap_or_default(), &clients.ca)? {
        roots
            .add(authority)
            .map_err(|e| fault(&clients.ca, &format!("holds no authority's certificate ({e})")))?;
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    if let (Some(pem), Some(path)) = (&contents.crl, &clients.crl) {
        let lists: Vec<CertificateRevocationListDer<'static>> =
            CertificateRevocationListDer::pem_slice_iter(pem)
                .collect::<Result<_, _>>()
                .ok()
                .filter(|lists: &Vec<_>| !lists.is_empty())
                .ok_or_else(|| fault(path, "holds no revocation list in PEM"))?;
        // A list past its next update says nothing about who was revoked since.
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    if clients.optional {
        builder = builder.allow_unauthenticated();
    }
    let at = clients.crl.as_ref().unwrap_or(&clients.ca);
    builder.build().map_err(|e| fault(at, &format!("is of no use ({e})")))
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| fault(path, "holds no certificate in PEM"))
}

/// The certificate of a connection, which is verified again while the connection lives.
pub struct PeerCertificate {
    certificate: ClientCertificate,
    chain: Vec<CertificateDer<'static>>,
    files: Arc<TlsFiles>,
    /// Under which files it was verified last, and when.
    verified: Mutex<(Arc<Tls>, u64)>,
}

impl PeerCertificate {
    /// A chain that the handshake under `tls` has verified.
    pub(super) fn new(
        chain: Vec<CertificateDer<'static>>,
        files: Arc<TlsFiles>,
        tls: Arc<Tls>,
        now: u64,
    ) -> Self {
        let certificate = ClientCertificate::read(chain.first().map_or(&[], |first| first));
        Self { certificate, chain, files, verified: Mutex::new((tls, now)) }
    }

    /// What it says.
    #[must_use]
    pub fn certificate(&self) -> &ClientCertificate {
        &self.certificate
    }

    /// Whether it counts under the files as they are now.
    #[must_use]
    pub fn holds(&self, now: u64) -> bool {
        let current = self.files.current();
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&verified.0, &current) && now.abs_diff(verified.1) < VERIFIED {
            return now < self.certificate.expires;
        }
        let (Some(verifier), [first, others @ ..]) = (&current.verifier, &self.chain[..]) else {
            return false;
        };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(now));
        let holds = verifier.verify_client_cert(first, others, at).is_ok();
        if holds {
            *verified = (current, now);
        }
        holds
    }
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.certificate.fmt(f)
    }
}
