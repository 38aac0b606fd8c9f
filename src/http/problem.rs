//! Errors over HTTP: RFC 9457 problem details with a stable `code`.

use std::borrow::Cow;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;

/// The code of the problem that an answer tells: an extension of the answer, for the audit.
#[derive(Debug, Clone, Copy)]
pub struct ProblemCode(pub &'static str);

/// An error answer. `code` is for programs and stays, `detail` is for people; neither carries
/// payload.
#[derive(Debug, Serialize)]
pub struct ProblemDetails {
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: Cow<'static, str>,
}

impl ProblemDetails {
    /// A problem of that status.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
        }
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The code, where the fault is the service's and not the caller's.
    #[must_use]
    pub fn failure(&self) -> Option<&'static str> {
        (self.status >= 500).then_some(self.code)
    }
}

impl IntoResponse for ProblemDetails {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = Extension(ProblemCode(self.code));
        (status, [(header::CONTENT_TYPE, "application/problem+json")], code, Json(self))
            .into_response()
    }
}
