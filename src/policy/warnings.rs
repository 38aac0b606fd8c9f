//! What an author of policies should know, though it is no fault.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use cedar_policy::pst::{Clause, Expr, Literal, PrincipalConstraint, UnaryOp, Var};
use cedar_policy::{EntityUid, PolicyId};

use super::budget::{BudgetLimits, Counted};
use super::facts::FieldFacts;
use super::names::children;
use super::request::{Answer, Credential, Principal, PrincipalKind, RequestFacts, Want};
use super::set::{PolicyPlace, PolicySet};
use super::vocabulary::Action;
use crate::config::Limit;

/// What an author of policies should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyWarning {
    /// A `permit` that asks for nothing but what a caller claims of itself.
    Claimed {
        /// The policy.
        policy: PolicyPlace,
        /// Whether it asks for a purpose at all.
        asks_purpose: bool,
    },
    /// Who sees a field's mask may search it too, and so may find the rest by trying values.
    Dictionary {
        /// The roles, or the principal that a policy names.
        who: String,
        /// The field.
        field: Arc<str>,
        /// For what purpose.
        purpose: String,
        /// How many values the mask leaves; `None`: nobody knows.
        hidden: Option<u64>,
        /// How many values one principal may search in 24 hours.
        budget: Limit,
    },
}

impl fmt::Display for PolicyWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claimed { policy, asks_purpose } => {
                let rests = if *asks_purpose {
                    "rests on the purpose alone, which is the caller's claim"
                } else {
                    "permits every principal"
                };
                let PolicyPlace { file, line, id, .. } = policy;
                write!(
                    f,
                    "{}:{line}: {id} {rests}; name a role: principal in Role::\"...\"",
                    file.display()
                )
            }
            Self::Dictionary { who, field, purpose, hidden, budget } => {
                write!(f, "{who} may mask and search {field} for {purpose}: ")?;
                match hidden {
                    Some(hidden) => write!(f, "the mask leaves at most {hidden} values")?,
                    None => f.write_str(
                        "how many values the mask leaves is not known (say it: index.distinct)",
                    )?,
                }
                write!(
                    f,
                    ", and {budget} may be searched in 24 hours; lower the budget, or forbid one"
                )
            }
        }
    }
}

/// The warnings of a set, in the order of its policies, then by field.
#[must_use]
pub fn warnings(policies: &PolicySet, limits: &BudgetLimits) -> Vec<PolicyWarning> {
    let mut found: Vec<PolicyWarning> = policies
        .policies()
        .iter()
        .filter(|place| !place.forbids)
        .filter_map(|place| {
            let asks_purpose = rests_on_claims(policies, place)?;
            Some(PolicyWarning::Claimed { policy: place.clone(), asks_purpose })
        })
        .collect();
    found.extend(dictionaries(policies, limits));
    found
}

/// Whether a `permit` asks for nothing that is proved of the caller; then whether for a purpose.
fn rests_on_claims(policies: &PolicySet, place: &PolicyPlace) -> Option<bool> {
    let tree = policies.cedar.policy(&PolicyId::new(&place.id))?.to_pst().ok()?;
    let body = tree.body();
    if !matches!(body.principal, PrincipalConstraint::Any | PrincipalConstraint::Is(_)) {
        return None;
    }
    let mut asked = BTreeSet::new();
    for clause in body.clauses() {
        let (Clause::When(expr) | Clause::Unless(expr)) = clause;
        asked_of(expr, &mut asked);
    }
    let proved = ["principal", "auth", "ip", "on_behalf_of"];
    if asked.iter().any(|name| proved.contains(&name.as_str())) {
        return None;
    }
    Some(asked.contains("purpose"))
}

/// Members of the context that an expression looks at, and `principal`.
fn asked_of(expr: &Expr, asked: &mut BTreeSet<String>) {
    match expr {
        Expr::GetAttr { expr: of, attr } if matches!(&**of, Expr::Var(Var::Context)) => {
            asked.insert(attr.to_string());
        }
        Expr::HasAttr { expr: of, attrs } if matches!(&**of, Expr::Var(Var::Context)) => {
            asked.extend(attrs.iter().map(ToString::to_string));
        }
        // A service is not a role: anyone who has any credential is one or the other.
        Expr::Is { expr: of, in_expr: None, .. } if matches!(&**of, Expr::Var(_)) => return,
        Expr::Var(Var::Principal) => {
            asked.insert("principal".to_owned());
        }
        _ => {}
    }
    children(expr).into_iter().for_each(|child| asked_of(child, asked));
}

/// Somebody whom the policies may know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Somebody {
    Roles(Vec<String>),
    Named(String, String),
}

impl Somebody {
    fn principals(&self) -> Vec<Principal> {
        let both = [PrincipalKind::User, PrincipalKind::Service];
        let principal = |kind, id: &str, roles: &[String]| Principal {
            kind,
            id: id.to_owned(),
            roles: roles.to_vec(),
        };
        match self {
            Self::Roles(roles) => both.map(|kind| principal(kind, "", roles)).to_vec(),
            Self::Named(kind, id) => both
                .into_iter()
                .filter(|of| of.name() == kind)
                .map(|kind| principal(kind, id, &[]))
                .collect(),
        }
    }
}

impl fmt::Display for Somebody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roles(roles) if roles.is_empty() => f.write_str("every principal"),
            Self::Roles(roles) => write!(f, "role {}", roles.join(" with role ")),
            Self::Named(kind, id) => write!(f, "{kind}::\"{id}\""),
        }
    }
}

/// Asks the policies themselves, as each role, two roles together and each named principal would.
/// The widest context is tried: with a reason, by each credential, from each network they name.
fn dictionaries(policies: &PolicySet, limits: &BudgetLimits) -> Vec<PolicyWarning> {
    let everybody = somebodies(policies);
    let places = networks(policies);
    let mut found = Vec::new();
    let searchable = |field: &&FieldFacts| field.index.is_some() && field.mask.is_some();
    for field in policies.facts().iter().filter(searchable) {
        for purpose in policies.purposes() {
            let Some(budget) = limits.of_purpose(&purpose.name, Counted::Values) else { continue };
            let hidden = hidden_values(field);
            if let (Some(hidden), Limit::Count(budget)) = (hidden, budget)
                && hidden >= budget
            {
                continue;
            }
            let mut known: Vec<&Somebody> = Vec::new();
            for who in &everybody {
                // Who holds more roles than one that was found is no news.
                let is_news = !known.iter().any(|other| is_part(other, who));
                if is_news && may_do_both(policies, who, &field.id, &purpose.name, &places) {
                    known.push(who);
                }
            }
            found.extend(known.into_iter().map(|who| PolicyWarning::Dictionary {
                who: who.to_string(),
                field: field.id.clone(),
                purpose: purpose.name.clone(),
                hidden,
                budget,
            }));
        }
    }
    found
}

fn is_part(part: &Somebody, of: &Somebody) -> bool {
    match (part, of) {
        (Somebody::Roles(part), Somebody::Roles(of)) => part.iter().all(|role| of.contains(role)),
        (Somebody::Roles(part), Somebody::Named(..)) => part.is_empty(),
        _ => false,
    }
}

/// Nobody in particular first, then single roles, pairs and named principals.
fn somebodies(policies: &PolicySet) -> Vec<Somebody> {
    let roles: Vec<&String> = policies.roles().iter().collect();
    let mut all = vec![Somebody::Roles(Vec::new())];
    all.extend(roles.iter().map(|role| Somebody::Roles(vec![(*role).clone()])));
    for (i, first) in roles.iter().enumerate() {
        let pair = |second: &&String| Somebody::Roles(vec![(*first).clone(), (*second).clone()]);
        all.extend(roles[i + 1..].iter().map(pair));
    }
    let literals: BTreeSet<EntityUid> =
        policies.cedar.policies().flat_map(cedar_policy::Policy::entity_literals).collect();
    let is_principal =
        |uid: &&EntityUid| matches!(uid.type_name().to_string().as_str(), "User" | "Service");
    all.extend(
        literals.iter().filter(is_principal).map(|uid| {
            Somebody::Named(uid.type_name().to_string(), uid.id().unescaped().to_owned())
        }),
    );
    all
}

/// The first address of each network that a policy names, and this machine.
fn networks(policies: &PolicySet) -> BTreeSet<IpAddr> {
    fn collect(expr: &Expr, into: &mut BTreeSet<IpAddr>) {
        if let Expr::UnaryOp { op: UnaryOp::Ip, expr } = expr
            && let Expr::Literal(Literal::String(text)) = &**expr
        {
            into.extend(text.split('/').next().and_then(|text| text.parse::<IpAddr>().ok()));
        }
        children(expr).into_iter().for_each(|child| collect(child, into));
    }
    let mut found = BTreeSet::from([IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    for tree in policies.cedar.policies().filter_map(|policy| policy.to_pst().ok()) {
        for clause in tree.body().clauses() {
            let (Clause::When(expr) | Clause::Unless(expr)) = clause;
            collect(expr, &mut found);
        }
    }
    found
}

/// Whether somebody sees only the mask of a field and may search it.
fn may_do_both(
    policies: &PolicySet,
    who: &Somebody,
    field: &str,
    purpose: &str,
    places: &BTreeSet<IpAddr>,
) -> bool {
    let contexts = places.iter().flat_map(|ip| {
        [Credential::Mtls, Credential::Jwt, Credential::Key].map(|auth| RequestFacts {
            purpose: purpose.to_owned(),
            reason: None,
            ip: *ip,
            auth,
            items: 1,
            bare: false,
            subjects: 1,
        })
    });
    let contexts: Vec<RequestFacts> = contexts.collect();
    who.principals().iter().any(|principal| {
        // What is masked from one place and searched from another is known all the same.
        let (mut masked, mut searched) = (false, false);
        for facts in &contexts {
            let mut request = policies.request_with_reason(principal, facts, Want::Auto);
            match request.decide(field).answer {
                Answer::Revealed => return false,
                Answer::Masked(_) => masked = true,
                Answer::Denied => {}
            }
            searched |= request.permits(Action::Search, field).is_permitted();
        }
        masked && searched
    })
}

/// How many values a mask leaves open, at most: as many as the author expects in all, or as many as
/// the form of the value allows behind the characters that are shown.
fn hidden_values(field: &FieldFacts) -> Option<u64> {
    /// Dates of 120 years: of persons who live.
    const DATES: u64 = 43_830;
    let (index, mask) = (field.index.as_ref()?, field.mask?);
    let shown = mask.keep_first.saturating_add(mask.keep_last);
    let by_form = match index.normalize.as_str() {
        // Ten digits in the North American plan; a shown character may be none.
        "phone-us" | "phone-ca" => {
            let hidden = u32::try_from(10_usize.saturating_sub(shown)).unwrap_or_default();
            Some(10_u64.pow(hidden))
        }
        "date" => Some(DATES),
        _ => None,
    };
    match (by_form, index.distinct) {
        (Some(form), Some(distinct)) => Some(form.min(distinct)),
        (form, distinct) => form.or(distinct),
    }
}
