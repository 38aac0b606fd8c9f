//! Who is denied everything since they opened a honey token (docs/formats.md, "Suspensions").
//!
//! A suspension is a record among the API keys, so every store keeps it, and every instance of the
//! service sees it within seconds. It opens nothing: no text has the hash that stands in it.

use sha2::{Digest as _, Sha256};

use super::{Credential, CredentialId};
use crate::KeyError;

/// What the name of such a record begins with; no API key's does.
const MARK: char = '!';

/// Somebody who is denied everything until somebody else resumes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// Names it in lists.
    pub id: CredentialId,
    /// Id of the principal.
    pub principal: String,
    /// Id of the person for whom it asked, as that person's own token proved; `None`: it asked for
    /// itself, and is denied whoever it asks for.
    pub person: Option<String>,
    /// Since when, in Unix seconds.
    pub since: u64,
    /// When it was resumed, in Unix seconds; `None`: it is not.
    pub resumed: Option<u64>,
}

impl Suspension {
    /// A new one.
    ///
    /// # Errors
    /// The operating system gives no random bytes.
    pub fn new(principal: &str, person: Option<&str>, now: u64) -> Result<Self, KeyError> {
        let mut id = [0; 8];
        getrandom::fill(&mut id).map_err(|_| KeyError::Random)?;
        Ok(Self {
            id: CredentialId(id),
            principal: principal.to_owned(),
            person: person.map(str::to_owned),
            since: now,
            resumed: None,
        })
    }

    /// Whether these are denied by it.
    #[must_use]
    pub fn covers(&self, principal: &str, person: Option<&str>) -> bool {
        self.resumed.is_none()
            && self.principal == principal
            && self.person.as_deref().is_none_or(|own| person == Some(own))
    }

    /// The record of it.
    #[must_use]
    pub fn record(&self) -> Credential {
        let whom: Vec<&str> =
            std::iter::once(&*self.principal).chain(self.person.as_deref()).collect();
        let name = format!("{MARK}{}", serde_json::Value::from(whom));
        let sha256 =
            Sha256::new_with_prefix("vs1/suspension").chain_update(&name).finalize().into();
        Credential {
            id: self.id,
            sha256,
            name,
            roles: Vec::new(),
            created: self.since,
            // As an API key it would have ended when it was made.
            expires: self.since,
            revoked: self.resumed,
        }
    }

    /// The suspension that a record is; `None`: it is an API key's.
    #[must_use]
    pub fn of(record: &Credential) -> Option<Self> {
        let whom: Vec<String> =
            serde_json::from_str(record.name.strip_prefix(MARK)?).unwrap_or_default();
        let mut whom = whom.into_iter();
        // What cannot be read suspends nobody, and is no API key either.
        let principal = whom.next().unwrap_or_default();
        Some(Self {
            id: record.id,
            principal,
            person: whom.next(),
            since: record.created,
            resumed: record.revoked,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspension_covers_whom_it_names() {
        let alone = Suspension::new("key:crm", None, 7).unwrap();
        let pair = Suspension::new("key:crm", Some("jwt:corp:a\n\",\"b"), 7).unwrap();
        for one in [&alone, &pair] {
            let record = one.record();
            assert_eq!(Suspension::of(&record).as_ref(), Some(one));
            assert_eq!((record.end(), record.roles.len()), (7, 0), "it opens nothing");
            let resumed = Credential { revoked: Some(9), ..record };
            let resumed = Suspension::of(&resumed).unwrap();
            assert!(!resumed.covers("key:crm", one.person.as_deref()));
        }
        assert!(alone.covers("key:crm", None) && alone.covers("key:crm", Some("jwt:corp:x")));
        assert!(!alone.covers("key:crm2", None));
        assert!(pair.covers("key:crm", Some("jwt:corp:a\n\",\"b")));
        assert!(!pair.covers("key:crm", None) && !pair.covers("key:crm", Some("jwt:corp:x")));
        let name = "crm".to_owned();
        assert_eq!(Suspension::of(&Credential { name, ..alone.record() }), None);
    }
}
