//! Answers of the server, and what their errors mean. The server sends English text and no codes.

use std::io::Read as _;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::Response;
use reqwest::header::RETRY_AFTER;
use serde::Deserialize;
use veilstream_engine::wrap::WrapContext;
use zeroize::Zeroizing;

use super::super::ProviderError;
use super::NAME;

/// Bytes of an answer that are read at most: a batch of the largest size has 200 KB.
const ANSWER_MAX: u64 = 8 << 20;

/// What the server answered, read to its end.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    retry_after: Option<Duration>,
    body: Zeroizing<Vec<u8>>,
}

impl Answer {
    pub(super) fn of(response: Response) -> Result<Self, std::io::Error> {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map(Duration::from_secs);
        // Room for all of it first: what grows leaves a copy behind.
        let room = response.content_length().unwrap_or(64 << 10).min(ANSWER_MAX);
        let mut body = Zeroizing::new(Vec::with_capacity(usize::try_from(room).unwrap_or(0) + 64));
        response.take(ANSWER_MAX).read_to_end(&mut body)?;
        Ok(Self { status, retry_after, body })
    }

    pub(super) fn read<T>(
        &self,
        path: &str,
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, RequestFailure> {
        let errors = serde_json::from_slice::<Errors>(&self.body)
            .map(|found| found.errors)
            .unwrap_or_default();
        // A batch with a bad item is answered with 400 and all of its results.
        let is_answer = self.status.is_success()
            || (self.status == StatusCode::BAD_REQUEST && errors.is_empty());
        if !is_answer {
            return Err(RequestFailure::Status(
                self.status,
                self.retry_after,
                errors.iter().filter_map(|error| known(error)).collect(),
            ));
        }
        read(&self.body).ok_or_else(|| {
            RequestFailure::Other(ProviderError::Malformed {
                provider: NAME,
                message: format!(
                    "what came for {path} (status {}) is not what Transit answers",
                    self.status
                ),
            })
        })
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

/// Why there is no usable answer.
pub(super) enum RequestFailure {
    /// The answer's status and the kinds of its errors.
    Status(StatusCode, Option<Duration>, Vec<Known>),
    /// Everything that needs no more words.
    Other(ProviderError),
}

/// Errors of Transit that mean something to us. The server sends English text and no codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    DoesNotOpen,
    VersionRetired,
    Deleted,
    NoKey,
    NoContext,
    Sealed,
    NoMount,
}

const KNOWN: [(&str, Known); 9] = [
    ("message authentication failed", Known::DoesNotOpen),
    ("invalid ciphertext", Known::DoesNotOpen),
    ("disallowed by policy (too old)", Known::VersionRetired),
    ("soft-deleted", Known::Deleted),
    ("encryption key not found", Known::NoKey),
    ("missing 'context'", Known::NoContext),
    ("sealed", Known::Sealed),
    ("no handler for route", Known::NoMount),
    ("unsupported path", Known::NoMount),
];

fn known(error: &str) -> Option<Known> {
    KNOWN.iter().find(|(text, _)| error.contains(text)).map(|(_, known)| *known)
}

impl RequestFailure {
    /// Errors of one item of a batch.
    pub(super) fn refused(errors: &[String]) -> Self {
        Self::Status(
            StatusCode::BAD_REQUEST,
            None,
            errors.iter().filter_map(|error| known(error)).collect(),
        )
    }

    /// In words. `missing`: how the key is made; `grant`: what to allow.
    pub(super) fn of(
        self,
        missing: impl Fn() -> String,
        grant: impl Fn() -> String,
        context: Option<&WrapContext<'_>>,
    ) -> ProviderError {
        let (status, retry_after, known) = match self {
            Self::Status(status, retry_after, known) => (status, retry_after, known),
            Self::Other(error) => return error,
        };
        let provider = NAME;
        if let Some(error) = passes(status, retry_after, &known) {
            return error;
        }
        match (status.as_u16(), known.first(), context) {
            (403, ..) => ProviderError::Denied { provider, message: grant() },
            (_, Some(Known::DoesNotOpen), Some(context)) => {
                ProviderError::Refused { provider, kid: context.kid, what: "another key" }
            }
            (_, Some(Known::VersionRetired), _) => {
                let message =
                    "the version that wrapped is below the key's min_decryption_version, \
                    or trimmed; lower it there"
                        .to_owned();
                ProviderError::Disabled { provider, message }
            }
            (_, Some(Known::Deleted), _) => ProviderError::Disabled {
                provider,
                message: "it is deleted; restore it there".to_owned(),
            },
            (404, ..) | (_, Some(Known::NoKey | Known::NoMount), _) => {
                ProviderError::Unusable { provider, message: missing() }
            }
            (_, Some(Known::NoContext), _) => ProviderError::Unusable {
                provider,
                message: format!("the key is not what it was: {}", missing()),
            },
            _ => ProviderError::Malformed {
                provider,
                message: format!("status {status} with an error that Transit is not known for"),
            },
        }
    }
}

/// The failure that may pass by itself, if it is one.
pub(super) fn passes(
    status: StatusCode,
    retry_after: Option<Duration>,
    known: &[Known],
) -> Option<ProviderError> {
    let message = match status.as_u16() {
        _ if known.contains(&Known::Sealed) => "it is sealed".to_owned(),
        429 => "it says that these are too many requests".to_owned(),
        // A standby that forwards nothing, a replica that has not caught up.
        300..400 | 412 | 472 | 473 => format!(
            "a node answered that does not serve requests (status {status}); name the active one"
        ),
        500.. => format!("status {status}"),
        _ => return None,
    };
    Some(ProviderError::Unavailable { provider: NAME, message, retry_after })
}
