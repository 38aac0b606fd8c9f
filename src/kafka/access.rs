//! How clients authenticate, and what becomes of it: passwords that change while they run,
//! certificates that are renewed, tokens that end, brokers that refuse.
//!
//! A client is made of the properties that `Access::apply` completes, and registered, so that it
//! gets new credentials; its errors come to a `Reporter`. The list of accesses belongs to the
//! process, as librdkafka's clients do: every part that makes a client has the configuration, and
//! none knows the others. [`watch`](watch()) looks after them.

mod fault;
mod files;
#[cfg(feature = "aws-kms")]
mod msk_iam;
mod probe;
mod report;
mod watch;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

pub use fault::{AccessFault, AccessReason};
pub use probe::{AccessError, check};
pub(crate) use report::Reporter;
pub use report::report_to;
pub use watch::{CredentialWatch, watch};

use super::ffi::{Alive, Handle, Listener, NativeProducer, Registration};
use super::settings::Side;
use crate::config::{Kafka, Properties};
use files::FileSnapshot;

/// Our own mechanism: OAUTHBEARER with tokens of Amazon MSK.
pub(crate) const AWS_MSK_IAM: &str = "AWS_MSK_IAM";
/// Names of the mechanism's property: librdkafka's, and its alias.
const MECHANISM: [&str; 2] = ["sasl.mechanisms", "sasl.mechanism"];
/// So long after new credentials a refusal is confirmed by a question before it makes unready.
const OLD_REFUSALS: Duration = Duration::from_secs(60);
/// Properties that decide whether a broker takes a connection, by the start of their names.
const SECURITY: [&str; 9] = [
    "bootstrap.servers",
    "security.",
    "sasl.",
    "ssl.",
    "https.",
    "enable.ssl.",
    "enable.sasl.",
    "client.dns.lookup",
    "broker.address.",
];

/// The credentials of one side, as they are now.
pub(crate) struct Access {
    id: u64,
    key: Key,
    mechanism: String,
    /// Grows with each change that a client in use cannot take over.
    generation: AtomicU64,
    state: Mutex<CredentialState>,
    #[cfg(feature = "aws-kms")]
    tokens: Option<tokens::Tokens>,
}

/// What two clients with the same credentials have in common.
#[derive(Clone, PartialEq, Eq)]
struct Key {
    properties: BTreeMap<String, String>,
    /// Properties that were read from files.
    files: BTreeMap<String, PathBuf>,
    region: Option<String>,
}

#[derive(Default)]
struct CredentialState {
    /// Taken over from files since the start.
    taken: Option<FileSnapshot>,
    /// When those of the start were last replaced.
    taken_at: Option<Instant>,
    /// What is in the files and not taken over; the operator knows.
    told: Option<String>,
    /// A broker has taken these credentials.
    is_proven: bool,
}

static ALL: Mutex<Vec<Arc<Access>>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn all() -> Vec<Arc<Access>> {
    lock(&ALL).clone()
}

impl Key {
    fn of(kafka: &Kafka, side: Side) -> Self {
        let Properties { values, files } =
            if side == Side::Consumer { &kafka.consumer } else { &kafka.producer };
        let is_security = |name: &str| SECURITY.iter().any(|start| name.starts_with(start));
        let mut properties: BTreeMap<String, String> = values
            .iter()
            .filter(|(name, _)| is_security(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        properties.insert("bootstrap.servers".to_owned(), kafka.bootstrap_servers.clone());
        let files = files
            .iter()
            .filter(|(name, _)| is_security(name))
            .map(|(name, path)| (name.clone(), path.clone()))
            .collect();
        Self { properties, files, region: kafka.aws_region.clone() }
    }

    fn protocol(&self) -> String {
        self.properties
            .get("security.protocol")
            .map_or_else(|| "plaintext".to_owned(), |protocol| protocol.to_ascii_lowercase())
    }

    fn mechanism(&self) -> Option<&str> {
        MECHANISM.iter().find_map(|name| self.properties.get(*name)).map(String::as_str)
    }

    fn has_tls(&self) -> bool {
        self.protocol().ends_with("ssl")
    }

    /// How a client with these properties says who it is, for messages.
    fn described(&self) -> String {
        match &*self.protocol() {
            "ssl" => "TLS".to_owned(),
            "sasl_plaintext" | "sasl_ssl" => self.mechanism().unwrap_or("GSSAPI").to_owned(),
            _ => "plaintext".to_owned(),
        }
    }
}

impl Access {
    /// The access of a configuration's side; the same one for the same credentials.
    pub(crate) fn of(kafka: &Kafka, side: Side) -> Arc<Self> {
        let key = Key::of(kafka, side);
        let mut list = lock(&ALL);
        if let Some(found) = list.iter().find(|access| access.key == key) {
            return found.clone();
        }
        let access = Arc::new(Self::new(key));
        list.push(access.clone());
        access
    }

    fn new(key: Key) -> Self {
        let taken = files::read(&key).ok();
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            mechanism: key.described(),
            generation: AtomicU64::new(0),
            state: Mutex::new(CredentialState { taken, ..CredentialState::default() }),
            #[cfg(feature = "aws-kms")]
            tokens: tokens::Tokens::of(&key),
            key,
        }
    }

    /// Whether credentials were taken over so lately that a client may tell of a refusal of those
    /// before: a lane reads its errors when the call that it waits in has ended.
    fn has_new_credentials(&self) -> bool {
        lock(&self.state).taken_at.is_some_and(|taken_at| taken_at.elapsed() < OLD_REFUSALS)
    }

    /// Makes of the user's properties those of librdkafka, with the credentials as they are now.
    pub(crate) fn apply(&self, properties: &mut BTreeMap<String, String>) {
        if let Some(taken) = &lock(&self.state).taken {
            properties
                .extend(taken.values.iter().map(|(name, value)| (name.clone(), value.to_string())));
        }
        translate(properties);
    }

    /// Gets ready what a new client of this access needs at once. Blocks while AWS is asked for
    /// credentials, where it is.
    pub(crate) fn prepare(&self) {
        #[cfg(feature = "aws-kms")]
        if let Some(tokens) = &self.tokens {
            tokens.renew_if_due(self);
        }
    }

    /// A reporter for the client of this name.
    pub(crate) fn reporter(self: &Arc<Self>, client: impl Into<String>) -> Arc<Reporter> {
        Arc::new(Reporter::new(self.clone(), client.into()))
    }

    /// Changes that a client in use could not take over: one that was made before has old
    /// certificates.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Registers a client of rust-rdkafka whose properties were completed after
    /// [`Access::generation`] told `generation`. `unpolled`: nobody polls its main queue.
    pub(crate) fn register(
        self: &Arc<Self>,
        client: Arc<dyn Alive>,
        generation: u64,
        unpolled: Option<Arc<dyn Listener>>,
    ) -> Member {
        let registration = Registration::new(client, self.id, unpolled, |handle| self.give(handle));
        Member { access: self.clone(), generation, _registration: registration }
    }

    /// [`Access::register`] for a producer of ours, which holds its registration itself.
    pub(crate) fn register_producer(
        self: &Arc<Self>,
        producer: &mut NativeProducer,
        generation: u64,
    ) -> Member {
        producer.register(self.id, |handle| self.give(handle));
        Member { access: self.clone(), generation, _registration: None }
    }

    /// Gives a client what has changed since its properties were read.
    fn give(&self, handle: &Handle<'_>) {
        if let Some((username, password)) = self.credentials() {
            handle.set_credentials(&username, &password);
        }
        #[cfg(feature = "aws-kms")]
        if let Some(tokens) = &self.tokens {
            tokens.give(handle);
        }
    }

    /// User and password, where the mechanism has them and one of them is in a file.
    fn credentials(&self) -> Option<(CString, CString)> {
        let state = lock(&self.state);
        let taken = &state.taken.as_ref()?.values;
        let value = |name: &str| {
            taken
                .get(name)
                .map(|value| value.as_str())
                .or_else(|| self.key.properties.get(name).map(String::as_str))
        };
        let is_file = |name: &str| taken.contains_key(name);
        let has_password = self.mechanism == "PLAIN" || self.mechanism.starts_with("SCRAM-");
        if !has_password || !(is_file("sasl.username") || is_file("sasl.password")) {
            return None;
        }
        Some((
            CString::new(value("sasl.username")?).ok()?,
            CString::new(value("sasl.password")?).ok()?,
        ))
    }
}

/// librdkafka does not know our mechanism.
fn translate(properties: &mut BTreeMap<String, String>) {
    if MECHANISM.iter().any(|name| properties.get(*name).is_some_and(|value| value == AWS_MSK_IAM))
    {
        MECHANISM.iter().for_each(|name| drop(properties.remove(*name)));
        properties.insert(MECHANISM[0].to_owned(), "OAUTHBEARER".to_owned());
    }
}

/// A registered client. Ends before the client does.
pub(crate) struct Member {
    access: Arc<Access>,
    generation: u64,
    _registration: Option<Registration>,
}

impl Member {
    /// Whether certificates, or other settings that librdkafka reads once, have changed since this
    /// client was made: make a new one.
    pub(crate) fn is_outdated(&self) -> bool {
        self.access.generation() != self.generation
    }
}

/// Values of properties that were read from files.
type Values = BTreeMap<String, Zeroizing<String>>;

#[cfg(feature = "aws-kms")]
mod tokens {
    //! The token of an access with [`AWS_MSK_IAM`](super::AWS_MSK_IAM): one for all its clients.

    use std::ffi::{CStr, CString};
    use std::sync::Mutex;
    use std::time::{Duration, Instant, SystemTime};

    use super::msk_iam::{NoToken, Signer, Token};
    use super::{AWS_MSK_IAM, Access, AccessReason, Key, lock, report};
    use crate::kafka::ffi::{self, Handle};

    /// After a failure.
    const AGAIN: Duration = Duration::from_secs(10);
    /// MSK reads the identity from the token; librdkafka wants a name, which goes nowhere.
    const PRINCIPAL: &CStr = c"veilstream";

    pub(super) struct Tokens {
        region: String,
        /// Held while AWS is asked; what clients wait for is `inner`.
        signer: Mutex<Option<Signer>>,
        inner: Mutex<TokenState>,
    }

    #[derive(Default)]
    struct TokenState {
        token: Option<Token>,
        due: Option<Instant>,
    }

    impl Tokens {
        pub(super) fn of(key: &Key) -> Option<Self> {
            (key.mechanism() == Some(AWS_MSK_IAM)).then(|| Self {
                region: key.region.clone().unwrap_or_default(),
                signer: Mutex::default(),
                inner: Mutex::default(),
            })
        }

        /// Makes a new token when the one there is has a fifth of its time left, and gives it to
        /// all clients.
        pub(super) fn renew_if_due(&self, access: &Access) {
            let mut signer = lock(&self.signer);
            if lock(&self.inner).due.is_some_and(|due| Instant::now() < due) {
                return;
            }
            match make(&mut signer, &self.region) {
                Ok(token) => {
                    let left = token.expires.duration_since(SystemTime::now()).unwrap_or_default();
                    *lock(&self.inner) = TokenState {
                        due: Some(Instant::now() + left.mul_f64(0.8)),
                        token: Some(token),
                    };
                    report::token_renewed(access);
                }
                Err(why) => {
                    lock(&self.inner).due = Some(Instant::now() + AGAIN);
                    report::token_missing(access, self.is_there(), &why);
                }
            }
            drop(signer);
            ffi::for_each_client(access.id, |handle| self.give(handle));
        }

        /// Whether there is a token that counts.
        pub(super) fn is_there(&self) -> bool {
            lock(&self.inner).token.as_ref().is_some_and(|token| token.expires > SystemTime::now())
        }

        pub(super) fn give(&self, handle: &Handle<'_>) {
            let inner = lock(&self.inner);
            let given = inner.token.as_ref().is_some_and(|token| {
                CString::new(token.text.as_str())
                    .is_ok_and(|text| handle.set_token(&text, token.expires_ms(), PRINCIPAL))
            });
            if !given {
                handle.set_token_failure(c"no AWS credentials");
            }
        }
    }

    fn make(signer: &mut Option<Signer>, region: &str) -> Result<Token, NoToken> {
        let signer = match signer {
            Some(signer) => signer,
            None => signer.insert(Signer::new(region)?),
        };
        signer.token()
    }

    /// The reason of a token that is missing.
    pub(super) const MISSING: AccessReason = AccessReason::Token;
}

#[cfg(test)]
mod tests;
