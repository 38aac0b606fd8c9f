//! What the tests of the service share: authorities, an issuer over HTTPS, API keys.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
    RevokedCertParams, SanType, SerialNumber,
};
use reqwest::blocking::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};
use veilstream_keys::credential::{ApiKey, Credential, Credentials, Suspension};

use crate::keys::{CredentialSource, KeyFault};

/// An authority.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
pub(super) struct Leaf {
    pub(super) certificate: String,
    pub(super) key: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A client that trusts what it signed, and shows this certificate.
    pub(super) fn client(&self, leaf: Option<&Leaf>) -> Client {
        let authority = reqwest::Certificate::from_pem(self.pem().as_bytes()).unwrap();
        let mut client = Client::builder().tls_certs_only([authority]);
        if let Some(leaf) = leaf {
            let identity = format!("{}{}", leaf.certificate, leaf.key);
            client = client.identity(reqwest::Identity::from_pem(identity.as_bytes()).unwrap());
        }
        client.build().unwrap()
    }

    /// A certificate with these names.
    pub(super) fn leaf(&self, names: Vec<SanType>, serial: u64, expired: bool) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.serial_number = Some(SerialNumber::from(serial));
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(if expired { 2002 } else { 2101 }, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Leaf { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    pub(super) fn server(&self) -> Leaf {
        let name = SanType::IpAddress([127, 0, 0, 1].into());
        self.leaf(vec![name, SanType::DnsName("localhost".try_into().unwrap())], 1, false)
    }

    /// A list of revoked serial numbers.
    pub(super) fn revoked(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2101, 1, 1),
            crl_number: SerialNumber::from(serials.len() as u64 + 1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// What the issuer's server does next.
#[derive(Clone)]
pub(super) enum Behaviour {
    Answer(String),
    /// Another status, and where it leads.
    Redirect(String),
    /// The head of an answer, and no more.
    Hang,
    Close,
}

/// An issuer of JWTs, whose keys stand at an https address.
pub(super) struct TestIssuer {
    pub(super) url: String,
    pub(super) behaviour: Arc<Mutex<Behaviour>>,
    /// Requests that came.
    pub(super) asked: Arc<AtomicUsize>,
    ca: PathBuf,
    key: KeyPair,
    stop: Arc<AtomicBool>,
    _dir: TempDir,
}

impl TestIssuer {
    pub(super) fn start() -> Self {
        let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let behaviour = Arc::new(Mutex::new(Behaviour::Answer(set(&[jwk(&key, "one")]))));
        let asked = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let address = serve(&authority.server(), behaviour.clone(), asked.clone(), stop.clone());
        let url = format!("https://{address}/keys");
        Self { url, behaviour, asked, ca, key, stop, _dir: dir }
    }

    pub(super) fn ca(&self) -> &Path {
        &self.ca
    }

    pub(super) fn key(&self) -> &KeyPair {
        &self.key
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(super) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// A token that this issuer signs with `one`, after a change of its claims.
    pub(super) fn token(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = claims();
        change(&mut claims);
        sign(&self.key, Some("one"), &claims)
    }
}

impl Drop for TestIssuer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Claims that are accepted.
pub(super) fn claims() -> Value {
    let now = crate::keys::now();
    json!({"iss":"https://login.corp","aud":"veilstream","sub":"ana","exp":now + 600,"nbf":now - 5,
        "roles":["support","x"]})
}

pub(super) fn sign(key: &KeyPair, kid: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = kid.map(str::to_owned);
    let key = EncodingKey::from_ec_der(key.serialized_der());
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

/// The public key as a JWK.
pub(super) fn jwk(key: &KeyPair, kid: &str) -> Value {
    let point = key.public_key_raw();
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({"kty":"EC","crv":"P-256","kid":kid,"use":"sig","x":part(&point[1..33]),
        "y":part(&point[33..])})
}

pub(super) fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

fn serve(
    leaf: &Leaf,
    behaviour: Arc<Mutex<Behaviour>>,
    asked: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> SocketAddr {
    let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let (stream, config) = (stream.unwrap(), config.clone());
            let (behaviour, asked, stop) = (behaviour.clone(), asked.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                let mut request = [0; 4096];
                if stream.read(&mut request).unwrap_or(0) == 0 {
                    return;
                }
                asked.fetch_add(1, Ordering::SeqCst);
                let behaviour = behaviour.lock().unwrap().clone();
                let _ = match behaviour {
                    Behaviour::Answer(body) => write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                        body.len()
                    ),
                    Behaviour::Redirect(to) => write!(
                        stream,
                        "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
                    ),
                    Behaviour::Hang => {
                        let sent = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{{");
                        let _ = stream.flush();
                        while !stop.load(Ordering::SeqCst) {
                            std::thread::park_timeout(Duration::from_millis(20));
                        }
                        sent
                    }
                    Behaviour::Close => Ok(()),
                };
                let _ = stream.flush();
                stream.conn.send_close_notify();
                let _ = stream.flush();
            });
        }
    });
    address
}

/// A key store of API keys.
#[derive(Default)]
pub(super) struct Keys(pub(super) Mutex<Vec<Credential>>);

impl Keys {
    /// A new API key of this name and the role `support`.
    pub(super) fn make(&self, name: &str) -> ApiKey {
        let key = ApiKey::generate().unwrap();
        let now = crate::keys::now();
        self.0.lock().unwrap().push(Credential {
            id: key.id(),
            sha256: key.sha256(),
            name: name.to_owned(),
            roles: vec!["support".to_owned()],
            created: now,
            expires: now + 600,
            revoked: None,
        });
        key
    }

    pub(super) fn revoke_all(&self) {
        self.0.lock().unwrap().iter_mut().for_each(|key| key.revoked = Some(1));
    }
}

impl CredentialSource for Keys {
    fn credentials(&self) -> Result<Credentials, KeyFault> {
        Ok(Credentials { authentic: self.0.lock().unwrap().clone(), ..Credentials::default() })
    }

    fn suspend(&self, _: &Suspension) -> Result<(), KeyFault> {
        Err(KeyFault("these keys suspend nobody".to_owned()))
    }
}

/// Waits until it is so.
pub(super) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
