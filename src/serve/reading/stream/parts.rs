//! A body whose parts are made one by one, each when the connection took the last.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use hyper::body::{Body, Frame};

/// A part, and what makes the next one; `None`: it was the last.
pub(super) type Next<S> = Pin<Box<dyn Future<Output = (Bytes, Option<S>)> + Send>>;

/// A body of parts.
pub(super) struct Parts<S> {
    next: Option<Next<S>>,
    make: fn(S) -> Next<S>,
}

impl<S> Parts<S> {
    pub(super) fn new(state: S, make: fn(S) -> Next<S>) -> Self {
        Self { next: Some(make(state)), make }
    }
}

impl<S: 'static> Body for Parts<S> {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let (part, state) = ready!(next.as_mut().poll(cx));
        self.next = state.map(self.make);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }
}
