//! Why a whole request is not answered.

use axum::body::Body;
use axum::http::header::RETRY_AFTER;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use veilstream_reading::audit::AuditError;

use crate::http::ProblemDetails;
use crate::keys::KeyFault;
use crate::serve::limits::Exceeded;

/// Why a whole request is not answered. No value of the request stands in it.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestFault {
    /// The body is no JSON text.
    #[error("The body is no JSON text ({code} at byte {offset})")]
    NotJson {
        /// The scanner's reason.
        code: &'static str,
        /// Where.
        offset: usize,
    },
    /// A member that means nothing here.
    #[error("The body has a member that is unknown here; known are {known}")]
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
    #[error("The request has more than {most} {of}")]
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
    /// The body cannot be read.
    #[error("the body cannot be read")]
    Body(ProblemDetails),
    /// The credential of a stream counts no more.
    #[error("the credential counts no more")]
    Credential,
    /// A stream took its whole time.
    #[error("the stream took ten minutes")]
    StreamTime,
    /// The service stops.
    #[error("the service stops")]
    Stopping,
    /// The service failed.
    #[error("the service failed")]
    Internal,
}

impl RequestFault {
    /// What the caller is told of it. What lasts is the log's (`Outages`).
    pub(super) fn problem(self) -> ProblemDetails {
        let bad = |code, fault: &Self| {
            ProblemDetails::new(StatusCode::BAD_REQUEST, code, format!("{fault}."))
        };
        let unavailable = |code, detail: &'static str| {
            ProblemDetails::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
        };
        match self {
            Self::Exceeded(exceeded) => exceeded.problem(),
            Self::Keys(_) => {
                unavailable("keys_unavailable", "Keys cannot be looked up now; try again later.")
            }
            Self::Audit(_) => unavailable(
                "audit_unavailable",
                "The audit log cannot be written, so nothing is opened; try again later.",
            ),
            Self::Stopping => unavailable(
                "stopping",
                "The service stops; send what has no answer to it again, or to another.",
            ),
            Self::Credential => ProblemDetails::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "The credential counts no more; what has no answer is not opened.",
            ),
            Self::StreamTime => ProblemDetails::new(
                StatusCode::REQUEST_TIMEOUT,
                "stream_too_long",
                "A stream ends after ten minutes; send the rest in another.",
            ),
            Self::Internal => ProblemDetails::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The service failed; its log says more.",
            ),
            Self::Body(problem) => problem,
            Self::RequestId => bad("request_id", &self),
            Self::NotJson { .. } => bad("not_json", &self),
            _ => bad("bad_request", &self),
        }
    }
}

impl IntoResponse for RequestFault {
    fn into_response(self) -> Response<Body> {
        match self {
            Self::Exceeded(exceeded) => exceeded.into_response(),
            Self::Keys(_) | Self::Audit(_) | Self::Stopping => {
                ([(RETRY_AFTER, "5")], self.problem()).into_response()
            }
            _ => self.problem().into_response(),
        }
    }
}
