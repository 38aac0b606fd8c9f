//! Equal requests at the same time are one request: threads that miss the same key ask for it once.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::WrapContext;

use super::cache::{WrapId, wrap_id};
use crate::provider::{Kek, Provider, ProviderError};
use crate::store::Wrap;

type UnwrapResult = Result<SecretKey, ProviderError>;

/// One request under way.
#[derive(Default)]
struct Flight {
    answer: Mutex<Option<UnwrapResult>>,
    landed: Condvar,
}

pub(super) struct SingleFlight {
    inner: Box<dyn Provider>,
    flights: Mutex<HashMap<WrapId, Arc<Flight>>>,
}

impl SingleFlight {
    pub(super) fn new(inner: Box<dyn Provider>) -> Self {
        Self { inner, flights: Mutex::default() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands the answer to all that wait; also when the asking thread panics.
struct Landing<'a> {
    flights: &'a Mutex<HashMap<WrapId, Arc<Flight>>>,
    id: WrapId,
    flight: Arc<Flight>,
    answer: Option<UnwrapResult>,
    provider: &'static str,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        lock(self.flights).remove(&self.id);
        let lost = ProviderError::Unavailable {
            provider: self.provider,
            message: "the request was given up".to_owned(),
            retry_after: None,
        };
        *lock(&self.flight.answer) = Some(self.answer.take().unwrap_or(Err(lost)));
        self.flight.landed.notify_all();
    }
}

impl Provider for SingleFlight {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn opens(&self, kek_uri: &str) -> bool {
        self.inner.opens(kek_uri)
    }

    fn describe(&self) -> Result<Kek, ProviderError> {
        self.inner.describe()
    }

    fn health(&self) -> Result<(), ProviderError> {
        self.inner.health()
    }

    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        self.inner.wrap(key, context)
    }

    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        let id = wrap_id(wrap, context);
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(&id).cloned() {
            drop(flights);
            let answer = lock(&flight.answer);
            let answer = flight
                .landed
                .wait_while(answer, |answer| answer.is_none())
                .unwrap_or_else(PoisonError::into_inner);
            return answer.clone().unwrap_or_else(|| unreachable!("it has landed"));
        }
        let flight = Arc::new(Flight::default());
        flights.insert(id, flight.clone());
        drop(flights);
        let mut landing = Landing {
            flights: &self.flights,
            id,
            flight,
            answer: None,
            provider: self.inner.name(),
        };
        let answer = self.inner.unwrap(wrap, context);
        landing.answer = Some(answer.clone());
        answer
    }

    fn rewrap(
        &self,
        wraps: &[(&Wrap, WrapContext<'_>)],
    ) -> Result<Vec<Result<Wrap, ProviderError>>, ProviderError> {
        self.inner.rewrap(wraps)
    }

    fn rotate(&self, now: u64) -> Result<Kek, ProviderError> {
        self.inner.rotate(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::cache::tests::{Scripted, context, wrap};
    use super::*;

    #[test]
    fn threads_that_ask_at_once_ask_once() {
        let inner = Scripted::default();
        let (asked, gate) = (inner.asked.clone(), inner.gate.clone());
        let held = gate.lock().unwrap();
        let single = Arc::new(SingleFlight::new(Box::new(inner)));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let single = single.clone();
                std::thread::spawn(move || *single.unwrap(&wrap(), &context()).unwrap().expose())
            })
            .collect();
        // The map, the one who asks (twice) and seven who wait hold the flight: nobody else is to
        // come.
        while !lock(&single.flights).values().any(|flight| Arc::strong_count(flight) == 9) {
            std::thread::yield_now();
        }
        drop(held);
        let answers: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(answers.iter().all(|a| *a == answers[0]));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        single.unwrap(&wrap(), &context()).unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 2, "nothing is kept");
    }
}
