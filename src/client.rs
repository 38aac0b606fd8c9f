//! A client of the reading service: what commands do with keys, asked for over HTTPS. It holds no
//! keys, follows no redirect, and sends its credential to the one address that it was given.

mod answer;

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use reqwest::StatusCode;
use reqwest::blocking::{Client as Http, Response};
use reqwest::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use serde_json::{Value, json};

use crate::config::{Secret, is_this_machine};
use crate::exit::Exit;

pub use answer::{Answer, Node};

/// Bytes of an answer: those of a request, opened, with the statuses of its fields.
const ANSWER_MAX: u64 = 64 << 20;
/// Bytes of a problem that are looked at.
const PROBLEM_MAX: u64 = 64 << 10;
/// For one request.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a limit is waited for, in all and at once.
const LIMIT_PATIENCE: Duration = Duration::from_secs(600);
const LONGEST_WAIT: u64 = 60;

/// How a command asks a reading service instead of opening keys.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Ask this reading service instead of opening keys: its https address
    #[arg(long, value_name = "URL", requires = "token_file", requires = "purpose")]
    pub server: Option<String>,
    /// File with the API key or JWT that is shown to the service
    #[arg(long, value_name = "FILE", requires = "server")]
    pub token_file: Option<PathBuf>,
    /// Authorities that may have signed the service's certificate, in PEM; the system's do not
    /// count then
    #[arg(long, value_name = "FILE", requires = "server")]
    pub ca_file: Option<PathBuf>,
    /// What for: a purpose that the service knows
    #[arg(long, value_name = "NAME", requires = "server")]
    pub purpose: Option<String>,
    /// Why, in words; it stands in the service's audit log
    #[arg(long, value_name = "TEXT", requires = "server")]
    pub reason: Option<String>,
}

/// A reading service, as one caller asks it.
pub struct Client {
    http: Http,
    base: String,
    authorization: HeaderValue,
    /// The members of each request but its items, as JSON without the last brace.
    head: String,
}

impl ServerArgs {
    /// The service that was named, if one was.
    ///
    /// # Errors
    /// The address is not https, or a file is of no use.
    pub fn client(&self) -> anyhow::Result<Option<Client>> {
        let (Some(server), Some(token_file)) = (&self.server, &self.token_file) else {
            return Ok(None);
        };
        let mut head = json!({ "purpose": self.purpose });
        if let Some(reason) = &self.reason {
            head["reason"] = reason.as_str().into();
        }
        let mut head = head.to_string();
        head.pop();
        Ok(Some(Client {
            http: http(self.ca_file.as_deref())?,
            base: base(server)?,
            authorization: authorization(token_file)?,
            head,
        }))
    }
}

/// The address without the slash at its end.
fn base(server: &str) -> anyhow::Result<String> {
    let refused = |why: &str| Exit::Usage.because(format!("--server: {server} {why}"));
    let url = reqwest::Url::parse(server)
        .map_err(|_| refused("is no address; write https://host:port"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Exit::Usage.because(
            "--server: the address has a user or a password; put the credential into --token-file",
        ));
    }
    let is_local = url.host_str().is_some_and(|host| is_this_machine(&format!("{host}:0")));
    match url.scheme() {
        "https" => {}
        "http" if is_local => {}
        _ => {
            let why = "is not https; anyone on the way would read the credential and all values";
            return Err(refused(why));
        }
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("has a query or a fragment; leave it out"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn authorization(file: &Path) -> anyhow::Result<HeaderValue> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| {
            let file = file.display();
            Exit::Usage.because(format!("--token-file: {file} cannot be read ({error})"))
        })
        .map(Secret::new)?;
    let token = text.expose().trim();
    let bearer = Secret::new(format!("Bearer {token}"));
    let value = HeaderValue::from_str(bearer.expose()).ok().filter(|_| !token.is_empty());
    let mut value = value.ok_or_else(|| {
        let file = file.display();
        Exit::Usage.because(format!("--token-file: {file} has no API key and no JWT in one line"))
    })?;
    // Never in a debug output.
    value.set_sensitive(true);
    Ok(value)
}

fn http(ca_file: Option<&Path>) -> anyhow::Result<Http> {
    let mut http = Http::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(PATIENCE)
        .timeout(PATIENCE);
    if let Some(file) = ca_file {
        let refused =
            |why: String| Exit::Usage.because(format!("--ca-file: {} {why}", file.display()));
        let pem = std::fs::read(file).map_err(|e| refused(format!("cannot be read ({e})")))?;
        let certificates = reqwest::Certificate::from_pem_bundle(&pem)
            .ok()
            .filter(|certificates| !certificates.is_empty())
            .ok_or_else(|| refused("has no certificate in PEM".to_owned()))?;
        http = http.tls_certs_only(certificates);
    }
    http.build().map_err(|error| anyhow::anyhow!("no HTTPS client ({})", error.without_url()))
}

impl Client {
    /// Asks for these items, each a JSON text. `name` is the member that they stand in, of the
    /// request and of the answer. A limit of the service is waited for.
    ///
    /// # Errors
    /// The service does not answer, or not for these items.
    pub fn ask(&self, path: &str, name: &str, items: &[Vec<u8>]) -> anyhow::Result<Answer> {
        let mut body = format!("{},\"{name}\":[", self.head).into_bytes();
        body.extend_from_slice(&items.join(&b','));
        body.extend_from_slice(b"]}");
        let mut waited = Duration::ZERO;
        let answer = loop {
            let answer = self.send(path, body.clone())?;
            if answer.status() != StatusCode::TOO_MANY_REQUESTS || waited >= LIMIT_PATIENCE {
                break answer;
            }
            let pause = Duration::from_secs(retry_after(&answer));
            if waited.is_zero() {
                let _ = writeln!(
                    std::io::stderr(),
                    "{}: this caller's limit is spent; waiting until it has room",
                    self.base
                );
            }
            std::thread::sleep(pause);
            waited += pause;
        };
        if answer.status() != StatusCode::OK {
            return Err(refused(answer));
        }
        Answer::read(whole(answer, ANSWER_MAX)?, name, items.len())
    }

    fn send(&self, path: &str, body: Vec<u8>) -> anyhow::Result<Response> {
        self.http
            .post(format!("{}{path}", self.base))
            .header(reqwest::header::AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .map_err(reqwest::Error::without_url)
            .with_context(|| format!("{} does not answer", self.base))
    }
}

/// Seconds, at least one: the service says how many.
fn retry_after(answer: &Response) -> u64 {
    let text = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(1_u64).clamp(1, LONGEST_WAIT)
}

fn whole(answer: Response, most: u64) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    answer
        .take(most + 1)
        .read_to_end(&mut bytes)
        .context("the answer of the reading service broke off")?;
    anyhow::ensure!(
        bytes.len() as u64 <= most,
        "the answer of the reading service is larger than {} MiB",
        most >> 20
    );
    Ok(bytes)
}

/// What the service says of a request that it does not answer.
fn refused(answer: Response) -> anyhow::Error {
    let status = answer.status();
    if status.is_redirection() {
        return anyhow::anyhow!(
            "the reading service answers with a redirect, which is not followed; name the address \
            that it leads to"
        );
    }
    let problem: Option<Value> =
        whole(answer, PROBLEM_MAX).ok().and_then(|body| serde_json::from_slice(&body).ok());
    let text = |name: &str| {
        let text = problem.as_ref().and_then(|problem| problem[name].as_str()).unwrap_or_default();
        // What a server says must not move a terminal.
        text.chars().filter(|c| !c.is_control()).take(200).collect::<String>()
    };
    let (code, detail) = (text("code"), text("detail"));
    if code.is_empty() {
        return anyhow::anyhow!("the server answers {status} and is no reading service");
    }
    anyhow::anyhow!("the reading service answers {} ({code}): {detail}", status.as_u16())
}

#[cfg(test)]
mod tests;
