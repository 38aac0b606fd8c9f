//! Why a whole request is not answered.

use axum::http::StatusCode;
use veilstream_reading::audit::AuditError;

use crate::http::ProblemDetails;
use crate::keys::KeyFault;
use crate::serve::limits::Exceeded;

/// Why a whole request is not answered. No value of the request stands in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestFault {
    /// The body is no JSON text.
    #[error("the body is no JSON text ({code} at byte {offset})")]
    NotJson {
        /// The scanner's reason.
        code: &'static str,
        /// Where.
        offset: usize,
    },
    /// A member that means nothing here.
    #[error("the body has a member that is unknown here; known are {known}")]
    UnknownMember {
        /// The names there are.
        known: String,
    },
    /// A name stands twice.
    #[error("{name} stands twice")]
    DuplicateMember {
        /// The name.
        name: &'static str,
    },
    /// A member is missing or of another form.
    #[error("{name} {wanted}")]
    Member {
        /// Its name.
        name: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// Too many of something.
    #[error("the request has more than {most} {of}")]
    TooMany {
        /// The most that one request may have.
        most: usize,
        /// Of what.
        of: &'static str,
    },
    /// The id came before, with another body.
    #[error("request_id came before with another body; each request has an id of its own")]
    RequestId,
    /// The principal's limit.
    #[error("the limit of items is reached")]
    Exceeded(Exceeded),
    /// Keys cannot be looked up.
    #[error(transparent)]
    Keys(#[from] KeyFault),
    /// The trace cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The service failed.
    #[error("the service failed")]
    Internal,
}

impl RequestFault {
    /// The answer; `Err`: the limit makes it.
    pub(super) fn problem(self) -> Result<ProblemDetails, Exceeded> {
        let (status, code, detail) = match self {
            Self::Exceeded(exceeded) => return Err(exceeded),
            Self::Keys(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "keys_unavailable",
                "Keys cannot be looked up now; try again later.".to_owned(),
            ),
            Self::Audit(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "audit_unavailable",
                "The audit log cannot be written, so nothing is opened; try again later."
                    .to_owned(),
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The service failed; its log says more.".to_owned(),
            ),
            Self::RequestId => (StatusCode::BAD_REQUEST, "request_id", sentence(&self)),
            Self::NotJson { .. } => (StatusCode::BAD_REQUEST, "not_json", sentence(&self)),
            fault => (StatusCode::BAD_REQUEST, "bad_request", sentence(&fault)),
        };
        Ok(ProblemDetails::new(status, code, detail))
    }
}

fn sentence(fault: &RequestFault) -> String {
    let mut text = fault.to_string();
    if let Some(first) = text.get(..1) {
        let upper = first.to_ascii_uppercase();
        // Names of members stay as they are written.
        if !text.split(' ').next().is_some_and(|word| word.contains('_')) {
            text.replace_range(..1, &upper);
        }
    }
    text.push('.');
    text
}
