//! What every provider gets, one layer a file, from the inside to the outside: requests are
//! observed, tried again, made once for equal ones, and cached.

mod cache;
mod interceptor;
mod observe;
mod retry;
mod single_flight;

pub use cache::CachePolicy;
pub use observe::Observer;
pub use retry::RetryPolicy;

use std::sync::Arc;

use super::{Clock, Provider};
use cache::Cache;
use interceptor::Intercepted;
use observe::Observe;
use retry::Retry;
use single_flight::SingleFlight;

/// `provider` with what every provider gets, inside out: each request is observed, failures worth
/// another try are tried again, equal requests at the same time are one, and unwrapped keys are
/// kept for a while.
#[must_use]
pub fn layered(
    provider: Box<dyn Provider>,
    observer: Arc<dyn Observer>,
    retry: RetryPolicy,
    cache: CachePolicy,
    clock: &Arc<dyn Clock>,
) -> Box<dyn Provider> {
    let observed = Intercepted::new(provider, Observe::new(observer, clock.clone()));
    let retried = Intercepted::new(Box::new(observed), Retry::new(retry, clock.clone()));
    let shared = SingleFlight::new(Box::new(retried));
    Box::new(Cache::new(Arc::new(shared), cache, clock.clone()))
}
