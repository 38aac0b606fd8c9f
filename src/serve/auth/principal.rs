//! Who asks.

use std::collections::BTreeSet;

use crate::config::PrincipalKind;

/// Somebody whose credential was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// `mtls:<name>`, `jwt:<issuer's name>:<sub>` or `key:<name>`: says whence it comes, so that
    /// one name from two places is two principals. Limits and budgets count by it.
    pub id: String,
    /// The configuration's word, not the credential's.
    pub kind: PrincipalKind,
    /// As the configuration, the API key or the token says.
    pub roles: BTreeSet<String>,
    /// `mtls`, `jwt` or `key`; with a proved person `mtls+jwt` and so on.
    pub auth: &'static str,
    /// Which credential it was: SHA-256 of a certificate, `kid` of a token, id of an API key. No
    /// secret.
    pub credential: String,
    /// From when on it counts no more, in Unix seconds.
    pub expires: u64,
    /// For whom it asks, as that person's own JWT proved.
    pub proved_person: Option<Box<Person>>,
}

/// A person whom a second JWT proved. Both are decided, and the lesser answer counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// `jwt:<issuer's name>:<sub>`.
    pub id: String,
    /// As the token says.
    pub roles: BTreeSet<String>,
    /// The token's `kid`.
    pub credential: String,
}

impl Principal {
    /// How it proved who it is, as the audit names it.
    #[must_use]
    pub fn audited_auth(&self) -> String {
        self.auth.replace("key", "api_key")
    }

    /// Drops roles that no policy names, the person's too: a token may carry hundreds.
    pub fn retain_roles(&mut self, is_named: impl Fn(&str) -> bool) {
        self.roles.retain(|role| is_named(role));
        if let Some(person) = &mut self.proved_person {
            person.roles.retain(|role| is_named(role));
        }
    }

    /// With the person for whom it asks.
    pub(super) fn on_behalf_of(mut self, person: Self) -> Self {
        self.auth = match self.auth {
            "mtls" => "mtls+jwt",
            "jwt" => "jwt+jwt",
            _ => "key+jwt",
        };
        self.expires = self.expires.min(person.expires);
        self.proved_person = Some(Box::new(Person {
            id: person.id,
            roles: person.roles,
            credential: person.credential,
        }));
        self
    }
}
