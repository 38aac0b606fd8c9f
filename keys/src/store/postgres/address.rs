//! The URL of a PostgreSQL database, and how it is connected to. It may hold a password: nothing of
//! its user info is in any message.

use std::path::{Path, PathBuf};
use std::time::Duration;

use openssl::error::ErrorStack;
use openssl::ssl::{SslConnector, SslMethod};
use openssl::x509::X509;
use openssl::x509::store::X509StoreBuilder;
use postgres::config::{Host, SslMode, TargetSessionAttrs};
use postgres::{Client, Config};
use postgres_openssl::MakeTlsConnector;

use super::StoreError;

const CONNECT: Duration = Duration::from_secs(5);
/// A server that is gone without a word is noticed in about a minute: by probes while we wait, by
/// this much without an acknowledgement while we send.
const SILENCE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(10);

/// Where a database is, with what it takes to connect.
pub struct PostgresAddress {
    /// `postgres://host:port/dbname`.
    pub(super) place: String,
    config: Config,
    tls: MakeTlsConnector,
}

impl PostgresAddress {
    /// `ca` is a PEM file with the certificates that count; `None`: the system's. `ca_setting` is
    /// what names that file.
    ///
    /// # Errors
    /// It is no URL that says enough, or asks for less than a server whose name is checked.
    pub fn parse(url: &str, ca: Option<&Path>, ca_setting: &str) -> Result<Self, StoreError> {
        let (url, mode) = take_mode(url)?;
        // The parser's own messages may quote what it could not read.
        let mut config: Config =
            url.parse().map_err(|_| malformed("is no URL of a PostgreSQL database"))?;
        let hosts = config.get_hosts();
        let Some(name) = config.get_dbname() else { return Err(malformed("names no database")) };
        if hosts.is_empty() {
            return Err(malformed("names no host"));
        }
        // It would be connected to instead of the host whose name is checked.
        if !config.get_hostaddrs().is_empty() {
            return Err(malformed("has `hostaddr`; write the host"));
        }
        let place = place(hosts, config.get_ports(), name);
        let unusable = |message: String| StoreError::Unusable { place: place.clone(), message };
        let mode = match mode.as_deref() {
            Some("disable") => SslMode::Disable,
            Some("verify-full") => SslMode::Require,
            None if hosts.iter().all(is_local) => SslMode::Disable,
            None => SslMode::Require,
            Some("allow" | "prefer" | "require" | "verify-ca") => {
                return Err(unusable(format!(
                    "sslmode must be `verify-full`, which the others fall short of \
                    (`{ca_setting}` names the certificate of a private authority), or `disable`"
                )));
            }
            Some(_) => {
                return Err(unusable("sslmode must be `verify-full` or `disable`".to_owned()));
            }
        };
        let tls = connector(ca).map_err(|error| unusable(error.to_string()))?;
        config.ssl_mode(mode).connect_timeout(CONNECT).tcp_user_timeout(SILENCE);
        config
            .keepalives(true)
            .keepalives_idle(SILENCE)
            .keepalives_interval(PROBE)
            .keepalives_retries(3);
        // Of several hosts the one that writes; never a standby that would find out later.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite).application_name("veilstream");
        Ok(Self { place, config, tls })
    }

    /// Server and database, as messages name them: without user and password.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A new connection; `warned` is told what the server warns of.
    ///
    /// # Errors
    /// No server answers, or it refuses.
    pub fn connect(
        &self,
        warned: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Client, StoreError> {
        let mut config = self.config.clone();
        config.notice_callback(move |notice| {
            if notice.parsed_severity() == Some(postgres::error::Severity::Warning) {
                warned(notice.message().to_owned());
            }
        });
        config.connect(self.tls.clone()).map_err(|error| StoreError::Unusable {
            place: self.place.clone(),
            message: refused(&error),
        })
    }
}

/// The URL without its `sslmode`, which knows no `verify-full` in the parser, and that.
fn take_mode(url: &str) -> Result<(String, Option<String>), StoreError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(malformed("is no URL of a PostgreSQL database"));
    }
    // With a second one the rest of a password would be read as the host, and shown as such.
    if url.matches('@').count() > 1 {
        return Err(malformed("has more than one `@`; write %40 for those in the password"));
    }
    let start = url.find('@').unwrap_or(0);
    let Some(query) = url[start..].find('?').map(|at| start + at) else {
        return Ok((url.to_owned(), None));
    };
    let (modes, others): (Vec<&str>, Vec<&str>) = url[query + 1..]
        .split('&')
        .filter(|p| !p.is_empty())
        .partition(|p| p.starts_with("sslmode="));
    let mode = match modes[..] {
        [] => None,
        [mode] => mode.strip_prefix("sslmode=").map(str::to_owned),
        _ => return Err(malformed("has more than one `sslmode`")),
    };
    let rest = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    Ok((format!("{}{rest}", &url[..query]), mode))
}

fn malformed(what: &str) -> StoreError {
    let message = format!(
        "the setting {what}; write postgres://user:password@host:port/dbname, with everything but \
        letters and digits of the password as %XX"
    );
    StoreError::Unusable { place: "postgres".to_owned(), message }
}

fn place(hosts: &[Host], ports: &[u16], database: &str) -> String {
    let host = |(i, host): (usize, &Host)| {
        let name = match host {
            Host::Tcp(name) if name.contains(':') => format!("[{name}]"),
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string().replace('/', "%2F"),
        };
        // One port counts for all hosts.
        format!("{name}:{}", ports.get(i).or(ports.first()).unwrap_or(&5432))
    };
    let hosts: Vec<String> = hosts.iter().enumerate().map(host).collect();
    format!("postgres://{}/{database}", hosts.join(","))
}

/// What is said to it does not leave this host.
fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
    }
}

/// TLS to the server cannot be set up.
#[derive(Debug, thiserror::Error)]
enum ConnectorError {
    /// OpenSSL does not do it.
    #[error("TLS cannot be set up ({0})")]
    Tls(#[from] ErrorStack),
    /// The file that a setting names holds no authority; the operator names another.
    #[error(
        "{}: {why}; name a PEM file with the certificate of the server's authority",
        path.display()
    )]
    Authority {
        /// The file that the settings name.
        path: PathBuf,
        /// What is wrong with it.
        why: WrongAuthority,
    },
}

#[derive(Debug, thiserror::Error)]
enum WrongAuthority {
    #[error("cannot be read ({0})")]
    Unreadable(std::io::Error),
    #[error("holds no certificate")]
    Empty,
}

fn connector(ca: Option<&Path>) -> Result<MakeTlsConnector, ConnectorError> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    if let Some(ca) = ca {
        let wrong = |why| ConnectorError::Authority { path: ca.to_owned(), why };
        let pem = std::fs::read(ca).map_err(|e| wrong(WrongAuthority::Unreadable(e)))?;
        let certificates = X509::stack_from_pem(&pem)
            .ok()
            .filter(|found| !found.is_empty())
            .ok_or_else(|| wrong(WrongAuthority::Empty))?;
        // Instead of the system's, not beside them.
        let mut store = X509StoreBuilder::new()?;
        for certificate in certificates {
            store.add_cert(certificate)?;
        }
        builder.set_cert_store(store.build());
    }
    Ok(MakeTlsConnector::new(builder.build()))
}

/// Why a connection was not made. What the server says of it names the user: only the code of it is
/// told.
fn refused(error: &postgres::Error) -> String {
    let Some(code) = error.code().map(postgres::error::SqlState::code) else {
        return super::causes(error);
    };
    let what = match code {
        "28000" | "28P01" => "the server refused the user or the password",
        "3D000" => "the server has no such database",
        "53300" => "the server has no connection left for this user or database",
        "57P03" => "the server is starting or stopping",
        _ => "the server refused the connection",
    };
    format!("{what} (SQLSTATE {code}; its log says more)")
}
