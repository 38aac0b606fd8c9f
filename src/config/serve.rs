//! `[serve]`: who may ask the reading service, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::read::{Section, not_empty};
use super::value_error::ValueError;
use super::{bytes_in, name};

/// The reading service.
#[derive(Debug, Clone)]
pub struct Serve {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Credentials that are taken; never empty.
    pub principals: BTreeSet<CredentialKind>,
    /// Without TLS, on the loopback alone.
    pub insecure: bool,
    /// The server's certificate chain and private key, in PEM; `None` where `insecure`.
    pub certificate: Option<ServerCertificate>,
    /// Who may sign client certificates, in PEM.
    pub client_ca_file: Option<PathBuf>,
    /// Revoked client certificates, in PEM.
    pub client_crl_file: Option<PathBuf>,
    /// Name of a client certificate (URI or DNS) to roles.
    pub clients: BTreeMap<String, Vec<String>>,
    /// Who signs JWTs, each with another `iss`.
    pub issuers: Vec<JwtIssuer>,
    /// Peers whose `X-Forwarded-For` counts.
    pub proxies: Vec<Network>,
    /// How many of these share the budgets.
    pub instances: u32,
    /// Whether it opens values; else it only searches.
    pub reveal: bool,
    /// Whether a credential that opened a honey token is suspended.
    pub honey_suspends: bool,
    /// Limits of load.
    pub limits: ServeLimits,
}

/// What one service takes on at once, and one principal in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServeLimits {
    /// Items of one principal a second; as many again in one burst.
    pub items_per_second: u32,
    /// Requests that are answered at once.
    pub requests: usize,
    /// Bytes of request bodies in memory.
    pub bytes: usize,
    /// Connections at once.
    pub connections: usize,
}

/// What somebody shows to say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CredentialKind {
    /// A client certificate.
    Certificate,
    /// A JWT as bearer token.
    Jwt,
    /// An API key as bearer token.
    Key,
}

/// Files of the server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCertificate {
    /// The chain, the server's own certificate first.
    pub chain: PathBuf,
    /// The private key of it.
    pub key: PathBuf,
}

/// Who signs JWTs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtIssuer {
    /// How principals' ids name it.
    pub name: String,
    /// `iss`, exactly.
    pub issuer: String,
    /// `aud`, or one of them.
    pub audience: String,
    /// Where its keys are: https, on this host http too.
    pub jwks: String,
    /// The authorities that count for `jwks` instead of the system's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// The claim with the roles; dots lead into objects.
    pub roles_claim: String,
    /// What its subjects are.
    pub kind: PrincipalKind,
}

/// What a principal is: the configuration's word, not the credential's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PrincipalKind {
    /// A person.
    User,
    /// A program.
    Service,
}

impl PrincipalKind {
    /// The name of its Cedar entity type.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::Service => "Service",
        }
    }
}

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Leading bits that count.
    bits: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `fd00::/8` or one address.
    ///
    /// # Errors
    /// What to write instead.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        const WRONG: ValueError =
            ValueError::form("no address", "\"10.0.0.7\", \"10.0.0.0/8\" or \"fd00::/8\"");
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| WRONG)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(all), str::parse).map_err(|_| WRONG)?;
        if bits <= all { Ok(Self { address, bits }) } else { Err(WRONG) }
    }

    /// Whether the address is in it. An IPv4 address that is written as IPv6 is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.bits);
                own.to_bits().checked_shr(shift).unwrap_or(0)
                    == other.to_bits().checked_shr(shift).unwrap_or(0)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.bits);
                own.to_bits().checked_shr(shift).unwrap_or(0)
                    == other.to_bits().checked_shr(shift).unwrap_or(0)
            }
            _ => false,
        }
    }
}

/// The section; `None` where it `is_there` not, whose defaults then are no faults.
pub(super) fn read(mut s: Section<'_, '_>, is_there: bool) -> Option<Serve> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 8788));
    let serve = Serve {
        listen: s.parse("listen", default, |t| {
            t.parse().map_err(|_| {
                ValueError::form(
                    "not an address with a port",
                    "\"127.0.0.1:8788\" or \"0.0.0.0:8788\"",
                )
            })
        }),
        principals: principals(&mut s),
        insecure: s.flag("insecure", false),
        certificate: certificate(&mut s),
        client_ca_file: s.optional_path("client_ca_file"),
        client_crl_file: s.optional_path("client_crl_file"),
        clients: clients(&mut s),
        issuers: issuers(s.section("jwt")),
        proxies: proxies(&mut s),
        instances: s.number("instances", 1, 1..=1000),
        reveal: s.flag("reveal", true),
        honey_suspends: s.flag("honey_suspends", false),
        limits: limits(&mut s),
    };
    if is_there {
        judge(&mut s, &serve);
    }
    s.finish();
    is_there.then_some(serve)
}

fn limits(s: &mut Section<'_, '_>) -> ServeLimits {
    ServeLimits {
        items_per_second: s.number("items_per_second", 10_000, 1_000..=10_000_000),
        requests: s.number("max_requests", 256, 1..=100_000),
        bytes: s.parse("max_request_bytes", 256 << 20, |t| bytes_in(t, "8MiB", "64GiB")),
        connections: s.number("max_connections", 1_024, 1..=1_000_000),
    }
}

fn principals(s: &mut Section<'_, '_>) -> BTreeSet<CredentialKind> {
    let mut taken = BTreeSet::new();
    for name in s.list("principals") {
        match name.as_str() {
            "certificate" => drop(taken.insert(CredentialKind::Certificate)),
            "jwt" => drop(taken.insert(CredentialKind::Jwt)),
            "key" => drop(taken.insert(CredentialKind::Key)),
            _ => s.missing(
                "principals",
                &format!("\"{name}\" is none; write certificate, jwt or key"),
            ),
        }
    }
    if taken.is_empty() {
        taken.insert(CredentialKind::Key);
    }
    taken
}

fn certificate(s: &mut Section<'_, '_>) -> Option<ServerCertificate> {
    match (s.optional_path("certificate_file"), s.optional_path("key_file")) {
        (Some(chain), Some(key)) => Some(ServerCertificate { chain, key }),
        (Some(_), None) => {
            s.missing("key_file", "is missing; name the private key of certificate_file");
            None
        }
        (None, Some(_)) => {
            s.missing("certificate_file", "is missing; name the certificate of key_file");
            None
        }
        (None, None) => None,
    }
}

fn clients(s: &mut Section<'_, '_>) -> BTreeMap<String, Vec<String>> {
    let mut clients = BTreeMap::new();
    for (name, roles) in s.lists("clients") {
        let key = format!("clients.\"{name}\"");
        let is_uri = name.contains("://");
        let is_dns = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
        if name.is_empty() || name.chars().any(|c| c.is_whitespace()) || !(is_uri || is_dns) {
            s.missing(
                &key,
                "is no name of a certificate; write its URI (\"spiffe://corp/fraud\") or its DNS \
                name (\"fraud.corp\"), in quotes",
            );
        }
        for text in &roles {
            if let Err(error) = role(text) {
                s.missing(&key, &format!("\"{text}\" {error}"));
            }
        }
        // DNS names are equal whatever their case; URIs are not.
        let name = if is_uri { name } else { name.to_ascii_lowercase() };
        if clients.insert(name, roles).is_some() {
            s.missing(&key, "stands twice; keep one");
        }
    }
    clients
}

/// The grammar of roles' names.
///
/// # Errors
/// What to write instead.
pub fn role(text: &str) -> Result<String, ValueError> {
    let is_role = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.len() <= 64
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-'));
    if is_role {
        Ok(text.to_owned())
    } else {
        const NAME: &str = "up to 64 of a-z, A-Z, 0-9, ., _, : and -, a letter first";
        Err(ValueError::form("no role", NAME))
    }
}

fn issuers(mut s: Section<'_, '_>) -> Vec<JwtIssuer> {
    let mut issuers: Vec<JwtIssuer> = Vec::new();
    s.each(|own, mut s| {
        if let Err(message) = name(own) {
            s.missing("issuer", &format!("stands below \"{own}\", which {message}"));
        }
        let issuer = JwtIssuer {
            name: own.to_owned(),
            issuer: required(&mut s, "issuer", "the issuer's \"iss\", as its tokens have it"),
            audience: required(&mut s, "audience", "the \"aud\" that tokens for this service have"),
            jwks: jwks(&mut s),
            ca_file: s.optional_path("ca_file"),
            roles_claim: s.parse("roles_claim", "roles".to_owned(), not_empty),
            kind: s.parse("kind", PrincipalKind::User, |text| match text {
                "user" => Ok(PrincipalKind::User),
                "service" => Ok(PrincipalKind::Service),
                _ => Err(ValueError::form("no kind", "user or service")),
            }),
        };
        if !issuer.issuer.is_empty() && issuers.iter().any(|other| other.issuer == issuer.issuer) {
            s.missing("issuer", "stands twice; a token would belong to two issuers");
        }
        s.finish();
        issuers.push(issuer);
    });
    issuers
}

fn jwks(s: &mut Section<'_, '_>) -> String {
    if !s.has("jwks") {
        s.missing("jwks", "is missing; write the https address of the issuer's keys");
    }
    s.parse("jwks", String::new(), secure_url)
}

fn required(s: &mut Section<'_, '_>, key: &'static str, what: &str) -> String {
    let text = s.optional(key);
    if text.is_none() {
        s.missing(key, &format!("is missing; write {what}"));
    }
    text.unwrap_or_default()
}

/// https, or http on the loopback: anyone who changes the keys on their way signs as anybody.
fn secure_url(text: &str) -> Result<String, ValueError> {
    let rest = text.strip_prefix("https://").filter(|rest| !rest.is_empty());
    let is_local = text
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .is_some_and(|server| !server.contains('@') && super::is_this_machine(server));
    if (rest.is_some() || is_local) && !text.chars().any(char::is_whitespace) {
        Ok(text.to_owned())
    } else {
        Err(ValueError::form(
            "no https address",
            "one, because anyone who changes keys on their way signs as anybody",
        ))
    }
}

fn proxies(s: &mut Section<'_, '_>) -> Vec<Network> {
    let mut networks = Vec::new();
    for text in s.list("proxies") {
        match Network::parse(&text) {
            Ok(network) => networks.push(network),
            Err(error) => s.missing("proxies", &format!("\"{text}\" {error}")),
        }
    }
    networks
}

/// Settings that do not fit each other.
fn judge(s: &mut Section<'_, '_>, serve: &Serve) {
    let takes = |kind| serve.principals.contains(&kind);
    match (serve.insecure, &serve.certificate) {
        (false, None) => s.missing(
            "certificate_file",
            "is missing; name the server's certificate and its key_file. To try it out on this \
            host alone: insecure = true",
        ),
        (true, Some(_)) => s.missing("insecure", "is true, but there is a certificate; keep one"),
        (true, None) if !serve.listen.ip().is_loopback() => s.missing(
            "insecure",
            "is true, but listen is no address of the loopback; credentials and values would \
            cross the network in clear",
        ),
        _ => {}
    }
    if takes(CredentialKind::Certificate) {
        if serve.insecure {
            s.missing("principals", "has certificate, which there is none of without TLS");
        }
        if serve.client_ca_file.is_none() {
            s.missing("client_ca_file", "is missing; name who may sign client certificates");
        }
        if serve.clients.is_empty() {
            s.missing("clients", "is missing; write which certificate has which roles");
        }
    } else {
        let useless = [
            ("client_ca_file", serve.client_ca_file.is_some()),
            ("client_crl_file", serve.client_crl_file.is_some()),
            ("clients", !serve.clients.is_empty()),
        ];
        for (key, _) in useless.into_iter().filter(|(_, is_there)| *is_there) {
            s.missing(key, "has no effect; add certificate to principals, or remove it");
        }
    }
    if takes(CredentialKind::Jwt) && serve.issuers.is_empty() {
        s.missing("jwt", "is missing; write a section [serve.jwt.<name>] for each issuer");
    }
}
