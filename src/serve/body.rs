//! Bodies of requests: bounded in bytes and time, and counted in memory while they are held.

use std::ops::Deref;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};

use super::limits::{Exceeded, Share};
use crate::http::ProblemDetails;

/// Bytes of a body, and of a stream's part.
pub const BODY_MAX: usize = 8 << 20;

/// What a body is, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`, at most [`BODY_MAX`] bytes.
    Json,
    /// `application/x-ndjson`: a stream of any length.
    NdJson,
}

/// A body that is still to be read.
pub struct RequestBody {
    incoming: Incoming,
    media: Media,
    /// For the next bytes.
    patience: Duration,
    permits: [OwnedSemaphorePermit; 2],
}

/// A whole body, counted until it is dropped.
pub struct WholeBody {
    bytes: Vec<u8>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Deref for WholeBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body that is not read.
#[derive(Debug)]
pub enum Unread {
    /// Its content type or encoding, or its length.
    Problem(ProblemDetails),
    /// There is no room for it now.
    Exceeded(Exceeded),
}

/// Looks at the head of a request with a body: nothing of it is read yet. It takes room of each
/// share: of its principal's, and of that of all.
pub(super) fn admit(
    head: &request::Parts,
    incoming: Incoming,
    media: &[Media],
    shares: [&Share; 2],
    patience: Duration,
) -> Result<RequestBody, Unread> {
    if head.headers.contains_key(CONTENT_ENCODING) {
        return Err(Unread::Problem(ProblemDetails::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_encoding",
            "The body has a content encoding; send it as it is.",
        )));
    }
    let found = media_of(head).filter(|found| media.contains(found)).ok_or_else(|| {
        Unread::Problem(ProblemDetails::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content_type",
            "The content type is not taken here; send application/json, or application/x-ndjson \
            where the document says so.",
        ))
    })?;
    // hyper has refused what is no number.
    let length = head
        .headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse::<u64>().ok());
    let room = match (found, length) {
        (Media::Json, Some(length)) => usize::try_from(length)
            .ok()
            .filter(|length| *length <= BODY_MAX)
            .ok_or_else(|| Unread::Problem(too_large()))?,
        // Of a stream one part is held at a time.
        (Media::Json, None) | (Media::NdJson, _) => BODY_MAX,
    };
    let [own, all] = shares;
    let permits =
        [own.bytes(room).map_err(Unread::Exceeded)?, all.bytes(room).map_err(Unread::Exceeded)?];
    Ok(RequestBody { incoming, media: found, patience, permits })
}

/// The content type; parameters other than UTF-8 as the charset are not known.
fn media_of(head: &request::Parts) -> Option<Media> {
    let mut values = head.headers.get_all(CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let value = value.to_str().ok()?.to_ascii_lowercase();
    let (name, parameters) = value.split_once(';').unwrap_or((&value, ""));
    if !["", "charset=utf-8", "charset=\"utf-8\""].contains(&parameters.trim()) {
        return None;
    }
    match name.trim() {
        "application/json" => Some(Media::Json),
        "application/x-ndjson" => Some(Media::NdJson),
        _ => None,
    }
}

impl RequestBody {
    /// What it is.
    #[must_use]
    pub fn media(&self) -> Media {
        self.media
    }

    /// The next bytes of a stream; `None`: it is at its end.
    ///
    /// # Errors
    /// A problem for the answer: nothing came in time, or the connection broke.
    pub async fn next(&mut self) -> Option<Result<Bytes, ProblemDetails>> {
        self.next_until(Instant::now() + self.patience).await
    }

    async fn next_until(&mut self, deadline: Instant) -> Option<Result<Bytes, ProblemDetails>> {
        loop {
            return match timeout_at(deadline, self.incoming.frame()).await {
                Err(_) => Some(Err(ProblemDetails::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "body_slow",
                    "The body did not come in time.",
                ))),
                Ok(None) => None,
                Ok(Some(Err(_))) => Some(Err(ProblemDetails::new(
                    StatusCode::BAD_REQUEST,
                    "body_broken",
                    "The body is not whole.",
                ))),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => Some(Ok(data)),
                    // Trailers say nothing here.
                    Err(_) => continue,
                },
            };
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// A problem for the answer: it is too large or too slow, or the connection broke.
    pub async fn whole(mut self) -> Result<WholeBody, ProblemDetails> {
        let end = Instant::now() + self.patience * 3;
        let mut bytes = Vec::new();
        while let Some(part) = self.next_until(end.min(Instant::now() + self.patience)).await {
            let part = part?;
            if bytes.len() + part.len() > BODY_MAX {
                return Err(too_large());
            }
            bytes.extend_from_slice(&part);
        }
        Ok(WholeBody { bytes, _permits: self.permits })
    }
}

fn too_large() -> ProblemDetails {
    ProblemDetails::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        "The body is larger than 8 MiB; send fewer items, or a stream.",
    )
}
