//! A layer that treats every operation alike: it intercepts the request.

use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::WrapContext;

use crate::provider::{Kek, Provider, ProviderError};
use crate::store::Wrap;

/// Sees every request to a provider, and decides when and how often it is sent.
pub(super) trait Interceptor: Send + Sync {
    fn intercept<T>(
        &self,
        provider: &'static str,
        operation: &'static str,
        ask: &dyn Fn() -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError>;
}

/// A provider whose requests all go through an interceptor.
pub(super) struct Intercepted<I> {
    inner: Box<dyn Provider>,
    interceptor: I,
}

impl<I: Interceptor> Intercepted<I> {
    pub(super) fn new(inner: Box<dyn Provider>, interceptor: I) -> Self {
        Self { inner, interceptor }
    }

    fn ask<T>(
        &self,
        operation: &'static str,
        ask: impl Fn() -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError> {
        self.interceptor.intercept(self.inner.name(), operation, &ask)
    }
}

impl<I: Interceptor> Provider for Intercepted<I> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn opens(&self, kek_uri: &str) -> bool {
        self.inner.opens(kek_uri)
    }

    fn describe(&self) -> Result<Kek, ProviderError> {
        self.ask("describe", || self.inner.describe())
    }

    fn health(&self) -> Result<(), ProviderError> {
        self.ask("health", || self.inner.health())
    }

    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        self.ask("wrap", || self.inner.wrap(key, context))
    }

    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        self.ask("unwrap", || self.inner.unwrap(wrap, context))
    }

    fn rewrap(
        &self,
        wraps: &[(&Wrap, WrapContext<'_>)],
    ) -> Result<Vec<Result<Wrap, ProviderError>>, ProviderError> {
        self.ask("rewrap", || self.inner.rewrap(wraps))
    }

    fn rotate(&self, now: u64) -> Result<Kek, ProviderError> {
        self.ask("rotate", || self.inner.rotate(now))
    }
}
