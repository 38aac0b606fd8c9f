//! API keys, and who is suspended: a snapshot of the key store's, looked at again every two seconds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use veilstream_keys::credential::{ApiKey, Credential, CredentialId, Credentials, Suspension};

use super::principal::Principal;
use super::refusal::{Cause, Refusal};
use crate::config::PrincipalKind;
use crate::keys::{CredentialSource, KeyFault};
use crate::telemetry::lasting::Lasting;

/// Seconds after which a snapshot may hide a revocation for too long.
const OLDEST: u64 = 5;

/// The API keys that are known.
pub struct ApiKeys {
    source: Arc<dyn CredentialSource>,
    known: ArcSwap<Known>,
    /// Suspensions of this process that the store does not tell of yet.
    unwritten: Mutex<Vec<Suspension>>,
    /// The store does not take them.
    unwritable: Lasting,
    turn: Mutex<()>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<CredentialId, Credential>,
    corrupt: Vec<String>,
    suspensions: Vec<Suspension>,
    /// When it was asked for, in Unix seconds.
    at: u64,
}

/// What the look at the store found.
#[derive(Debug, PartialEq, Eq)]
pub struct Looked {
    /// Rows that somebody changed who does not hold the store key, and that were not there before.
    pub newly_corrupt: Vec<String>,
    /// How many there are in all.
    pub corrupt: usize,
}

impl ApiKeys {
    /// None are known before the first [`ApiKeys::look`].
    #[must_use]
    pub fn new(source: Arc<dyn CredentialSource>) -> Self {
        Self {
            source,
            known: ArcSwap::default(),
            unwritten: Mutex::default(),
            unwritable: Lasting::default(),
            turn: Mutex::default(),
        }
    }

    /// Asks the store. Blocks.
    ///
    /// # Errors
    /// It does not answer; what is known counts until it is too old.
    pub fn look(&self, now: u64) -> Result<Looked, KeyFault> {
        // One at a time: an older answer of the store must not replace a newer one.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.write_suspensions();
        let Credentials { authentic, mut suspensions, corrupt } = self.source.credentials()?;
        suspensions.retain(|one| one.resumed.is_none());
        let old = self.known.load();
        let newly_corrupt =
            corrupt.iter().filter(|id| !old.corrupt.contains(id)).cloned().collect();
        let looked = Looked { newly_corrupt, corrupt: corrupt.len() };
        let keys = authentic.into_iter().map(|key| (key.id, key)).collect();
        self.known.store(Arc::new(Known { keys, corrupt, suspensions, at: now }));
        // Now the snapshot tells of them.
        self.unwritten().retain(|one| !written.contains(&one.id));
        Ok(looked)
    }

    /// Suspends somebody: here at once, elsewhere as soon as the store has it, which the next look
    /// brings there.
    pub(super) fn suspend(&self, suspension: Suspension) {
        self.unwritten().push(suspension);
    }

    /// Whether somebody is suspended. `None`: the store has not answered for so long that nobody
    /// knows.
    pub(super) fn is_suspended(
        &self,
        principal: &str,
        person: Option<&str>,
        now: u64,
    ) -> Option<bool> {
        let covers = |one: &Suspension| one.covers(principal, person);
        if self.unwritten().iter().any(covers) {
            return Some(true);
        }
        Some(self.fresh(now)?.suspensions.iter().any(covers))
    }

    /// Those that the store has now.
    fn write_suspensions(&self) -> Vec<CredentialId> {
        let (unwritten, now) = (self.unwritten().clone(), Instant::now());
        let mut written = Vec::new();
        for one in &unwritten {
            match self.source.suspend(one) {
                Ok(()) => written.push(one.id),
                Err(fault) if self.unwritable.meet(&one.principal, now) => tracing::error!(
                    reason = %fault,
                    principal = one.principal,
                    "a suspension cannot be written; until it is, only this process knows of it"
                ),
                Err(_) => {}
            }
        }
        if written.len() == unwritten.len() && self.unwritable.pass(now).is_some() {
            tracing::info!("every suspension is written");
        }
        written
    }

    fn unwritten(&self) -> std::sync::MutexGuard<'_, Vec<Suspension>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose key it is. `None`: the store has not answered for so long that nobody knows.
    pub(super) fn check(&self, text: &str, now: u64) -> Option<Result<Principal, Refusal>> {
        let Some(key) = ApiKey::parse(text) else {
            return Some(Err(Refusal::of(Cause::KeyMistyped)));
        };
        let known = self.fresh(now)?;
        let refused = |cause| Some(Err(Refusal::naming(cause, key.id().to_string())));
        let Some(credential) = known.keys.get(&key.id()) else {
            return Some(Err(Refusal::of(Cause::KeyUnknown)));
        };
        if !credential.is(&key) {
            return refused(Cause::KeyWrong);
        }
        if let Some(cause) = ended(credential, now) {
            return refused(cause);
        }
        Some(Ok(Principal {
            id: format!("key:{}", credential.name),
            kind: PrincipalKind::Service,
            roles: credential.roles.iter().cloned().collect(),
            auth: "key",
            credential: credential.id.to_string(),
            expires: credential.end(),
            proved_person: None,
        }))
    }

    /// Whether a key that was accepted still is.
    pub(super) fn holds(&self, id: &str, now: u64) -> bool {
        let Ok(id) = id.parse() else { return false };
        self.fresh(now)
            .is_some_and(|known| known.keys.get(&id).is_some_and(|key| ended(key, now).is_none()))
    }

    fn fresh(&self, now: u64) -> Option<Arc<Known>> {
        let known = self.known.load_full();
        // Whichever way a clock jumps, that is no fresh look.
        (now.abs_diff(known.at) <= OLDEST).then_some(known)
    }
}

fn ended(credential: &Credential, now: u64) -> Option<Cause> {
    if credential.revoked.is_some() {
        Some(Cause::KeyRevoked)
    } else if now >= credential.end() {
        Some(Cause::KeyExpired)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const NOW: u64 = 1_795_500_000;

    #[derive(Default)]
    struct Store(Mutex<Option<Credentials>>);

    impl CredentialSource for Store {
        fn credentials(&self) -> Result<Credentials, KeyFault> {
            self.0.lock().unwrap().clone().ok_or_else(|| KeyFault("gone".to_owned()))
        }

        fn suspend(&self, suspension: &Suspension) -> Result<(), KeyFault> {
            let mut store = self.0.lock().unwrap();
            let store = store.as_mut().ok_or_else(|| KeyFault("gone".to_owned()))?;
            store.suspensions.push(suspension.clone());
            Ok(())
        }
    }

    fn made(name: &str) -> (ApiKey, Credential) {
        let key = ApiKey::generate().unwrap();
        let credential = Credential {
            id: key.id(),
            sha256: key.sha256(),
            name: name.to_owned(),
            roles: vec!["analyst".to_owned()],
            created: NOW,
            expires: NOW + 100,
            revoked: None,
        };
        (key, credential)
    }

    fn cause(keys: &ApiKeys, text: &str, now: u64) -> Cause {
        keys.check(text, now).unwrap().unwrap_err().cause
    }

    #[test]
    fn keys_are_accepted_until_they_end() {
        let (key, credential) = made("reports");
        let store = Arc::new(Store::default());
        let keys = ApiKeys::new(store.clone());
        let put = |credentials: &[Credential], corrupt: &[&str]| {
            *store.0.lock().unwrap() = Some(Credentials {
                authentic: credentials.to_vec(),
                corrupt: corrupt.iter().map(|id| (*id).to_owned()).collect(),
                ..Credentials::default()
            });
        };
        assert!(keys.check(key.expose(), NOW).is_none(), "nobody has looked yet");
        put(std::slice::from_ref(&credential), &["x"]);
        assert_eq!(keys.look(NOW).unwrap(), Looked { newly_corrupt: vec!["x".into()], corrupt: 1 });
        assert_eq!(keys.look(NOW).unwrap(), Looked { newly_corrupt: vec![], corrupt: 1 });
        let principal = keys.check(key.expose(), NOW).unwrap().unwrap();
        assert_eq!((&*principal.id, principal.auth), ("key:reports", "key"));
        assert!(principal.roles.contains("analyst") && keys.holds(&principal.credential, NOW));
        assert_eq!(cause(&keys, &key.expose().replace('_', "-"), NOW), Cause::KeyMistyped);
        let (other, _) = made("reports");
        assert_eq!(cause(&keys, other.expose(), NOW), Cause::KeyUnknown);
        put(&[Credential { sha256: other.sha256(), ..credential.clone() }], &[]);
        keys.look(NOW).unwrap();
        assert_eq!(cause(&keys, key.expose(), NOW), Cause::KeyWrong);
        put(&[Credential { revoked: Some(NOW), ..credential.clone() }], &[]);
        keys.look(NOW).unwrap();
        assert_eq!(cause(&keys, key.expose(), NOW), Cause::KeyRevoked);
        assert!(!keys.holds(&principal.credential, NOW));
        put(std::slice::from_ref(&credential), &[]);
        keys.look(NOW + 100).unwrap();
        assert_eq!(cause(&keys, key.expose(), NOW + 100), Cause::KeyExpired);
        // A year at most, whatever its record says.
        let year = 365 * 86_400;
        put(&[Credential { expires: NOW + 10 * year, ..credential }], &[]);
        keys.look(NOW + year).unwrap();
        assert_eq!(cause(&keys, key.expose(), NOW + year), Cause::KeyExpired);
        assert!(keys.check(key.expose(), NOW + year - 1).unwrap().is_ok());
    }

    /// Otherwise an outage of the store would be a way to use a key after it was revoked.
    #[test]
    fn an_old_snapshot_accepts_nobody() {
        let (key, credential) = made("reports");
        let store = Arc::new(Store::default());
        let keys = ApiKeys::new(store.clone());
        *store.0.lock().unwrap() =
            Some(Credentials { authentic: vec![credential.clone()], ..Credentials::default() });
        keys.look(NOW).unwrap();
        *store.0.lock().unwrap() = None;
        assert!(keys.look(NOW + 2).is_err());
        assert!(keys.check(key.expose(), NOW + OLDEST).unwrap().is_ok());
        assert!(keys.check(key.expose(), NOW + OLDEST + 1).is_none());
        assert!(keys.check(key.expose(), NOW - OLDEST - 1).is_none(), "a clock that went back");
        assert!(!keys.holds(&credential.id.to_string(), NOW + OLDEST + 1));
    }

    /// Otherwise an outage of the store would be a way round it.
    #[test]
    fn a_suspension_counts_here_before_the_store_has_it() {
        let store = Arc::new(Store::default());
        let keys = ApiKeys::new(store.clone());
        assert_eq!(keys.is_suspended("key:crm", None, NOW), None, "nobody has looked yet");
        keys.suspend(Suspension::new("key:crm", None, NOW).unwrap());
        assert!(keys.look(NOW).is_err());
        assert_eq!(keys.is_suspended("key:crm", None, NOW), Some(true));
        assert_eq!(keys.is_suspended("key:other", None, NOW), None);
        *store.0.lock().unwrap() = Some(Credentials::default());
        keys.look(NOW).unwrap();
        assert!(keys.unwritten().is_empty());
        assert_eq!(keys.is_suspended("key:crm", None, NOW), Some(true));
        assert_eq!(keys.is_suspended("key:other", None, NOW), Some(false));
        store.0.lock().unwrap().as_mut().unwrap().suspensions[0].resumed = Some(NOW + 1);
        keys.look(NOW + 1).unwrap();
        assert_eq!(keys.is_suspended("key:crm", None, NOW + 1), Some(false));
        assert_eq!(keys.is_suspended("key:crm", None, NOW + OLDEST + 2), None);
    }
}
