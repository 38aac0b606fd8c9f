//! References of data subjects, for the tokens of records and columns.

use std::sync::{Arc, Weak};

use crate::key::{Key, KeyKind, Scope, SubjectRef};
use crate::keyring::Keyring;
use crate::subject::Referrer;

/// Makes references. What is keyed stays from one to the next: it is two thirds of the work. So does
/// the last reference: tokens side by side are often of one data subject.
#[derive(Default)]
pub(super) struct References {
    kept: Option<Kept>,
}

/// While a `Weak` points to the key, no other key can take its address.
struct Kept {
    key: Weak<Key>,
    domain: Option<String>,
    referrer: Referrer,
    /// Scalar text and reference of the last data subject.
    last: Option<(Vec<u8>, SubjectRef)>,
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
            self.kept = Some(Kept { key, domain, referrer, last: None });
        }
        let Kept { referrer, last, .. } = self.kept.as_mut()?;
        if let Some((text, reference)) = last
            && text == scalar
        {
            return Some(*reference);
        }
        let reference = referrer.reference(scalar);
        let (text, known) = last.get_or_insert((Vec::new(), reference));
        text.clear();
        text.extend_from_slice(scalar);
        *known = reference;
        Some(reference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kdf;
    use crate::key::{Budget, KeyState, SecretKey};
    use crate::subject::subject_reference;

    fn key(byte: u8) -> Arc<Key> {
        let secret = SecretKey::new([byte; 32]);
        let kcv = kdf::key_check_value(&secret);
        Arc::new(Key {
            id: kdf::key_id(&kcv),
            kcv,
            kind: KeyKind::SubjectRef,
            tenant: "t".into(),
            scope: Scope::Version(1),
            version: 1,
            state: KeyState::Active,
            seal_until: None,
            secret: Some(secret),
            budget: Budget::new(1),
        })
    }

    #[test]
    fn the_last_reference_is_that_of_its_text_domain_and_key() {
        let rings = [1, 2].map(|byte| Keyring::new("t", [key(byte)]));
        let mut references = References::default();
        for (ring, domain, text) in [
            (&rings[0], None, "42"),
            (&rings[0], None, "42"),
            (&rings[0], None, "421"),
            (&rings[0], None, ""),
            (&rings[0], None, "42"),
            (&rings[0], Some("people"), "42"),
            (&rings[1], Some("people"), "42"),
        ] {
            let key = ring.sealing(KeyKind::SubjectRef, &Scope::Version(1)).unwrap();
            let expected = subject_reference(key, "t", domain, text.as_bytes());
            assert!(expected.is_some());
            assert_eq!(references.of(ring, domain, text.as_bytes()), expected, "{domain:?} {text}");
        }
    }
}
