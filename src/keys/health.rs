//! Whether key store and key service answer, as upkeep and callers find them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use veilstream_engine::key::KeyId;
use veilstream_keys::KeyError;

/// A duty that takes longer waits for a server that hangs.
const HANGS: Duration = Duration::from_secs(10);

/// What is done about once a second, each by a thread of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Duty {
    /// Hears of what others did.
    Follow,
    /// Makes and loads keys.
    Renew,
}

/// What was found last.
#[derive(Default)]
pub(super) struct KeyHealth(Mutex<Found>);

#[derive(Default)]
struct Found {
    /// One for each [`Duty`].
    upkeep: [UpkeepFound; 2],
    /// A key that a caller did not get, because nobody answered.
    awaited: Option<KeyId>,
}

#[derive(Default)]
struct UpkeepFound {
    /// What it failed with last.
    fault: Option<String>,
    /// That was an outage, and not a key of which the record is wrong.
    is_outage: bool,
    /// When the present one began. `None`: none is under way.
    since: Option<Instant>,
}

impl Found {
    /// The fault that the log tells of.
    fn fault(&self) -> Option<&String> {
        self.upkeep.iter().find_map(|one| one.fault.as_ref())
    }
}

impl KeyHealth {
    /// Does it. An outage is one line in the log, and not one a second.
    pub(super) fn watch(&self, duty: Duty, work: impl FnOnce() -> Result<(), KeyError>) {
        self.lock().upkeep[duty as usize].since = Some(Instant::now());
        let error = work().err();
        let mut found = self.lock();
        let before = found.fault().cloned();
        found.upkeep[duty as usize] = UpkeepFound {
            fault: error.as_ref().map(ToString::to_string),
            is_outage: error.as_ref().is_some_and(KeyError::is_outage),
            since: None,
        };
        let fault = found.fault();
        if fault == before.as_ref() {
            return;
        }
        match fault {
            None => tracing::info!("keys are maintained again"),
            Some(reason) => tracing::warn!(
                %reason,
                "keys could not be maintained; those in hand stay in use until they are spent"
            ),
        }
    }

    pub(super) fn looked_up(&self, kid: &KeyId, error: Option<&KeyError>) {
        let mut found = self.lock();
        if error.is_some_and(KeyError::is_outage) {
            found.awaited = Some(*kid);
        } else if found.awaited == Some(*kid) {
            found.awaited = None;
        }
    }

    pub(super) fn awaited(&self) -> Option<KeyId> {
        self.lock().awaited
    }

    /// The outage that upkeep suffers from.
    pub(super) fn outage(&self) -> Option<String> {
        let found = self.lock();
        let outage = found.upkeep.iter().find(|one| one.is_outage);
        if let Some(outage) = outage {
            return outage.fault.clone();
        }
        let hangs = |one: &UpkeepFound| one.since.is_some_and(|since| since.elapsed() > HANGS);
        let is_hanging = found.upkeep.iter().any(hangs);
        is_hanging.then(|| "the key store or the key service hangs".to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
