//! What policies see of a request: the members of Cedar's context.

use std::net::IpAddr;

use cedar_policy::{Context, RestrictedExpression};

use super::kept::Kept;
use super::request::{Principal, RequestFacts};

/// The members. With a principal, and of one snapshot, they are all that a verdict depends on:
/// policies know no clock and ask nobody.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ContextFacts {
    purpose: String,
    has_reason: bool,
    ip: IpAddr,
    auth: &'static str,
    items: u64,
    bare: bool,
    subjects: u64,
    on_behalf_of: Option<String>,
}

impl ContextFacts {
    /// Of a request whose reason counts, or not.
    pub(super) fn new(has_reason: bool, person: Option<&Principal>, facts: &RequestFacts) -> Self {
        Self {
            purpose: facts.purpose.clone(),
            has_reason,
            ip: facts.ip,
            auth: facts.auth.name(person.is_some()),
            items: facts.items,
            bare: facts.bare,
            subjects: facts.subjects,
            on_behalf_of: person.map(|person| person.id.clone()),
        }
    }

    /// In Cedar's form; `None`: Cedar refuses them.
    pub(super) fn to_cedar(&self, kept: &Kept) -> Option<Context> {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let number = |n: u64| RestrictedExpression::new_long(i64::try_from(n).unwrap_or(i64::MAX));
        let members = [
            ("purpose", text(&self.purpose)),
            ("has_reason", RestrictedExpression::new_bool(self.has_reason)),
            ("ip", kept.address(self.ip)),
            ("auth", text(self.auth)),
            ("items", number(self.items)),
            ("bare", RestrictedExpression::new_bool(self.bare)),
            ("subjects", number(self.subjects)),
        ];
        let person = self.on_behalf_of.as_ref().map(|person| ("on_behalf_of", text(person)));
        let members =
            members.into_iter().chain(person).map(|(name, value)| (name.to_owned(), value));
        Context::from_pairs(members).ok()
    }
}
