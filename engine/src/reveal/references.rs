//! References of data subjects, for the tokens of records and columns.

use std::sync::{Arc, Weak};

use crate::key::{Key, KeyKind, Scope, SubjectRef};
use crate::keyring::Keyring;
use crate::subject::Referrer;

/// Makes references. What is keyed stays from one to the next: it is two thirds of the work.
#[derive(Default)]
pub(super) struct References {
    kept: Option<Kept>,
}

/// While a `Weak` points to the key, no other key can take its address.
struct Kept {
    key: Weak<Key>,
    domain: Option<String>,
    referrer: Referrer,
}

impl References {
    /// The reference of the data subject with that scalar text; `None`: the keyring has no key for
    /// it.
    pub(super) fn of(
        &mut self,
        keys: &Keyring,
        domain: Option<&str>,
        scalar: &[u8],
    ) -> Option<SubjectRef> {
        let key = keys.sealing(KeyKind::SubjectRef, &Scope::Version(1))?;
        let is_kept = |kept: &Kept| {
            std::ptr::eq(kept.key.as_ptr(), Arc::as_ptr(key))
                && kept.domain.as_deref() == domain
                && key.tenant == *keys.tenant()
        };
        if !self.kept.as_ref().is_some_and(is_kept) {
            let referrer = Referrer::new(key, keys.tenant(), domain)?;
            let (key, domain) = (Arc::downgrade(key), domain.map(str::to_owned));
            self.kept = Some(Kept { key, domain, referrer });
        }
        self.kept.as_ref().map(|kept| kept.referrer.reference(scalar))
    }
}
