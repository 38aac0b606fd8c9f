//! Cases of a set of policies, as data: who asks for what, and what must be answered.

use std::net::{IpAddr, Ipv4Addr};

use serde::Deserialize;

use super::request::{
    Credential, Decision, Denial, Permission, Principal, PrincipalKind, RequestFacts, Want,
};
use super::set::PolicySet;
use super::vocabulary::Action;
use crate::config::{Pattern, Purpose};

/// A file of cases.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyCases {
    /// What the file is about.
    #[serde(rename = "description", default)]
    _description: Option<String>,
    /// The purposes that count where no configuration is named.
    #[serde(default)]
    purposes: Vec<CasePurpose>,
    /// The cases.
    pub cases: Vec<PolicyCase>,
}

/// A purpose, as in `[[policy.purposes]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CasePurpose {
    name: String,
    #[serde(default = "yes")]
    reason_required: bool,
    pattern: Option<String>,
}

/// One case. With several actions, fields or purposes it holds for each of them; `"*"` is every one
/// there is, those of tomorrow included.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyCase {
    /// What it shows.
    pub name: String,
    principal: CasePrincipal,
    action: OneOrMore,
    field: OneOrMore,
    #[serde(default)]
    want: CaseWant,
    context: CaseContext,
    expect: Expected,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CasePrincipal {
    user: Option<String>,
    service: Option<String>,
    #[serde(default)]
    roles: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CaseWant {
    #[default]
    Auto,
    Reveal,
    Mask,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseContext {
    purpose: OneOrMore,
    reason: Option<String>,
    on_behalf_of: Option<CasePrincipal>,
    ip: Option<IpAddr>,
    auth: Option<CaseAuth>,
    #[serde(default = "one")]
    items: u64,
    #[serde(default)]
    bare: bool,
    #[serde(default = "one")]
    subjects: u64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CaseAuth {
    Mtls,
    Jwt,
    Key,
}

/// What a case expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expected {
    Revealed,
    Masked,
    Permitted,
    Denied,
}

/// One question of a case and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// The action.
    pub action: Action,
    /// The field.
    pub field: String,
    /// The purpose.
    pub purpose: String,
    /// What was expected: `revealed`, `masked`, `permitted` or `denied`.
    pub expected: &'static str,
    /// What the policies answer.
    pub outcome: Outcome,
}

/// What the policies answer to one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `revealed`, `masked`, `permitted` or `denied`.
    pub answer: &'static str,
    /// Why it is denied.
    pub denial: Option<Denial>,
    /// Ids of the policies that decided.
    pub policies: Vec<std::sync::Arc<str>>,
    /// Ids of the policies whose evaluation failed.
    pub failed: Vec<std::sync::Arc<str>>,
}

impl PolicyCases {
    /// Reads a file of cases (JSON).
    ///
    /// # Errors
    /// What is wrong and where.
    pub fn parse(text: &[u8]) -> Result<Self, CasesError> {
        let cases: Self = serde_json::from_slice(text)?;
        if cases.cases.is_empty() {
            return Err(CasesError::Empty);
        }
        Ok(cases)
    }

    /// The purposes that the file brings.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn purposes(&self) -> Result<Vec<Purpose>, CasesError> {
        let pattern = |purpose: &CasePurpose| {
            let text = purpose.pattern.as_deref();
            text.map(Pattern::new)
                .transpose()
                .map_err(|_| CasesError::Pattern { purpose: purpose.name.clone() })
        };
        self.purposes
            .iter()
            .map(|purpose| {
                Ok(Purpose {
                    name: purpose.name.clone(),
                    reason_required: purpose.reason_required,
                    pattern: pattern(purpose)?,
                })
            })
            .collect()
    }
}

impl PolicyCase {
    /// The roles of the principal.
    #[must_use]
    pub fn roles(&self) -> &[String] {
        &self.principal.roles
    }

    /// Asks the policies each question of the case, as the service would.
    ///
    /// # Errors
    /// The case names what does not exist, or expects what its action never answers: it would hold
    /// whatever the policies say.
    pub fn run(&self, policies: &PolicySet) -> Result<Vec<CaseResult>, CasesError> {
        let case = || self.name.clone();
        let principal = self.principal.principal().ok_or_else(|| CasesError::Principal(case()))?;
        let person = match &self.context.on_behalf_of {
            None => None,
            Some(person) => Some(person.principal().ok_or_else(|| CasesError::Principal(case()))?),
        };
        let all = policies.purposes().iter().map(|purpose| purpose.name.as_str());
        let purposes = self.named("purpose", &self.context.purpose, all)?;
        let all = Action::ALL.into_iter().map(Action::name);
        let actions = self.named("action", &self.action, all)?;
        let all = policies.facts().iter().map(|field| &*field.id);
        let fields = self.named("field", &self.field, all)?;
        let mut results = Vec::new();
        for purpose in purposes {
            let facts = self.context.facts(principal.kind, &purpose);
            for action in actions.iter().filter_map(|name| Action::named(name)) {
                if !self.expect.answers(action) {
                    return Err(CasesError::Expect { case: case(), action: action.name() });
                }
                for field in &fields {
                    let asker = Asker { caller: &principal, person: person.as_ref() };
                    results.push(CaseResult {
                        action,
                        field: field.clone(),
                        purpose: purpose.clone(),
                        expected: self.expect.name(),
                        outcome: ask(policies, asker, &facts, action, self.want.want(), field),
                    });
                }
            }
        }
        Ok(results)
    }
}

impl PolicyCase {
    /// The names that a case gives, each of which must be there; of `"*"` all that are.
    fn named<'n>(
        &self,
        what: &'static str,
        given: &OneOrMore,
        all: impl Iterator<Item = &'n str>,
    ) -> Result<Vec<String>, CasesError> {
        let all: Vec<&str> = all.collect();
        if given.all() == ["*"] {
            return Ok(all.into_iter().map(str::to_owned).collect());
        }
        match given.all().iter().find(|name| !all.contains(&name.as_str())) {
            Some(name) => {
                Err(CasesError::Unknown { case: self.name.clone(), what, name: name.clone() })
            }
            None => Ok(given.all().to_vec()),
        }
    }
}

impl CaseResult {
    /// Whether the policies answer what the case expects.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.expected == self.outcome.answer
    }
}

/// Who asks, and on whose proved behalf.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The caller.
    pub caller: &'a Principal,
    /// The person whose own token came along.
    pub person: Option<&'a Principal>,
}

/// One question in a request of its own. `mask` is a `reveal` that wants the mask.
#[must_use]
pub fn ask(
    policies: &PolicySet,
    asker: Asker<'_>,
    facts: &RequestFacts,
    action: Action,
    want: Want,
    field: &str,
) -> Outcome {
    let want = if action == Action::Mask { Want::Mask } else { want };
    let mut request = policies.request(asker.caller, asker.person, facts, want);
    match action {
        Action::Reveal | Action::Mask => request.decide(field).into(),
        _ => request.permits(action, field).into(),
    }
}

impl From<Decision> for Outcome {
    fn from(decision: Decision) -> Self {
        let Decision { answer, denial, policies, failed } = decision;
        Self { answer: answer.name(), denial, policies, failed }
    }
}

impl From<Permission> for Outcome {
    fn from(permission: Permission) -> Self {
        let answer = if permission.is_permitted() { "permitted" } else { "denied" };
        let Permission { denial, policies, failed } = permission;
        Self { answer, denial, policies, failed }
    }
}

impl CasePrincipal {
    fn principal(&self) -> Option<Principal> {
        let (kind, id) = match (&self.user, &self.service) {
            (Some(id), None) => (PrincipalKind::User, id),
            (None, Some(id)) => (PrincipalKind::Service, id),
            _ => return None,
        };
        Some(Principal { kind, id: id.clone(), roles: self.roles.clone() })
    }
}

impl CaseContext {
    fn facts(&self, kind: PrincipalKind, purpose: &str) -> RequestFacts {
        let auth = match (self.auth, kind) {
            (Some(CaseAuth::Mtls), _) | (None, PrincipalKind::Service) => Credential::Mtls,
            (Some(CaseAuth::Jwt), _) | (None, PrincipalKind::User) => Credential::Jwt,
            (Some(CaseAuth::Key), _) => Credential::Key,
        };
        RequestFacts {
            purpose: purpose.to_owned(),
            reason: self.reason.clone(),
            ip: self.ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            auth,
            items: self.items,
            bare: self.bare,
            subjects: self.subjects,
        }
    }
}

impl OneOrMore {
    fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::More(texts) => texts,
        }
    }
}

impl CaseWant {
    fn want(self) -> Want {
        match self {
            Self::Auto => Want::Auto,
            Self::Reveal => Want::Reveal,
            Self::Mask => Want::Mask,
        }
    }
}

impl Expected {
    fn name(self) -> &'static str {
        match self {
            Self::Revealed => "revealed",
            Self::Masked => "masked",
            Self::Permitted => "permitted",
            Self::Denied => "denied",
        }
    }

    /// Whether the action can be answered so.
    fn answers(self, action: Action) -> bool {
        match self {
            Self::Revealed => action == Action::Reveal,
            Self::Masked => matches!(action, Action::Reveal | Action::Mask),
            Self::Permitted => !matches!(action, Action::Reveal | Action::Mask),
            Self::Denied => true,
        }
    }
}

/// What is wrong with cases.
#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    /// Not JSON, or not of the form.
    #[error("is no file of cases: {0}")]
    Form(#[from] serde_json::Error),
    /// It has no case.
    #[error("has no case; write one")]
    Empty,
    /// A pattern is no regular expression.
    #[error("purpose \"{purpose}\": the pattern is no regular expression")]
    Pattern {
        /// The purpose.
        purpose: String,
    },
    /// A principal that is neither user nor service, or both.
    #[error("case \"{0}\": a principal is {{\"user\": ID}} or {{\"service\": ID}}; write one")]
    Principal(String),
    /// A name that does not exist.
    #[error("case \"{case}\": there is no {what} \"{name}\"; write one that exists")]
    Unknown {
        /// The case.
        case: String,
        /// What it names.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An answer that the action never has.
    #[error(
        "case \"{case}\": {action} is never answered so; write revealed, masked or denied of \
        reveal, masked or denied of mask, else permitted or denied"
    )]
    Expect {
        /// The case.
        case: String,
        /// The action.
        action: &'static str,
    },
}

const fn yes() -> bool {
    true
}

const fn one() -> u64 {
    1
}
