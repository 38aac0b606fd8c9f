//! The policies evaluated for one request, each question once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use cedar_policy::{Authorizer, Context, Decision as Effect, Entity};

use super::context::ContextFacts;
use super::kept::{KnownPrincipal, Situation};
use super::request::{
    Answer, Decision, Denial, Permission, Principal, RequestFacts, Want, reason_counts,
};
use super::set::PolicySet;
use super::vocabulary::Action;

static AUTHORIZER: LazyLock<Authorizer> = LazyLock::new(Authorizer::new);

/// One request's questions. Decides each (action, field) once, under one snapshot: a later reload
/// changes nothing in it.
#[derive(Debug)]
pub struct Request<'p> {
    policies: &'p PolicySet,
    /// The caller and, where it proved for whom it asks, that person: both are decided.
    principals: Vec<Asking>,
    context: Result<ContextFacts, Denial>,
    /// The same in Cedar's form, once a question is evaluated.
    cedar_context: Option<Context>,
    want: Want,
    /// By the place among the principals, action and resource.
    judged: HashMap<(usize, Action, Resource), Verdict>,
    #[cfg(test)]
    evaluations: usize,
}

/// One of the principals.
#[derive(Debug)]
struct Asking {
    known: Arc<KnownPrincipal>,
    /// `None`: nothing is asked.
    situation: Option<Arc<Situation>>,
}

/// What is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Resource {
    /// The place in the snapshot's facts.
    Field(usize),
    Schema(Arc<str>),
}

/// What all policies say of one question.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict {
    effect: Ruling,
    policies: BTreeSet<Arc<str>>,
    failed: BTreeSet<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Ruling {
    Permitted,
    /// No policy applies: denied.
    #[default]
    Silent,
    Forbidden,
    Failed,
}

impl PolicySet {
    /// The questions of one request. `person`: on whose behalf it asks, proved by that person's own
    /// token, never claimed; then the lesser of both answers counts.
    #[must_use]
    pub fn request(
        &self,
        caller: &Principal,
        person: Option<&Principal>,
        facts: &RequestFacts,
        want: Want,
    ) -> Request<'_> {
        let reason = facts.reason.as_deref();
        let context = reason_counts(self.purposes(), &facts.purpose, reason)
            .map(|has_reason| ContextFacts::new(has_reason, person, facts));
        self.ask(std::iter::once(caller).chain(person), context, want)
    }

    /// [`PolicySet::request`] of a caller who knows what a reason must look like.
    pub(super) fn request_with_reason(
        &self,
        caller: &Principal,
        facts: &RequestFacts,
        want: Want,
    ) -> Request<'_> {
        self.ask([caller], Ok(ContextFacts::new(true, None, facts)), want)
    }

    fn ask<'a>(
        &self,
        principals: impl IntoIterator<Item = &'a Principal>,
        context: Result<ContextFacts, Denial>,
        want: Want,
    ) -> Request<'_> {
        let of = |principal: &Principal| {
            let entity = || self.entities.principal(principal, self.roles());
            let situation = context.as_ref().ok().map(|context| Situation {
                principal: principal.clone(),
                context: context.clone(),
            });
            Asking {
                known: self.kept.principal(principal, entity),
                situation: situation.map(Arc::new),
            }
        };
        Request {
            policies: self,
            principals: principals.into_iter().map(of).collect(),
            context,
            cedar_context: None,
            want,
            judged: HashMap::new(),
            #[cfg(test)]
            evaluations: 0,
        }
    }
}

impl Request<'_> {
    /// Denies everything, for this reason.
    #[must_use]
    pub fn denied(self, denial: Denial) -> Self {
        Self { context: Err(denial), ..self }
    }

    /// How much of a field is shown: `<schema>.<id>`, `<schema>#key` or `<schema>#header:<name>`,
    /// or `@<domain>`. Of fields that one ciphertext may belong to, the least answer counts.
    pub fn decide(&mut self, field: &str) -> Decision {
        if let Err(denial) = &self.context {
            return Decision::denied(*denial);
        }
        let policies = self.policies;
        let mut least: Option<Decision> = None;
        for position in policies.sharing(field).iter().copied() {
            for principal in 0..self.principals.len() {
                let decision = self.decide_alone(principal, position);
                least = Some(match least {
                    None => decision,
                    Some(least) => least.least(decision),
                });
            }
        }
        least.unwrap_or_else(|| Decision::denied(Denial::UnknownField))
    }

    /// Whether an action on a field is permitted. `search` needs every field of one index domain,
    /// and of a field whose tokens tell equality `seal` needs `search` too.
    pub fn permits(&mut self, action: Action, field: &str) -> Permission {
        if let Err(denial) = &self.context {
            return Permission::denied(*denial);
        }
        let Some(position) = self.policies.position(field) else {
            return Permission::denied(Denial::UnknownField);
        };
        let mut permission = self.permission(action, &Resource::Field(position));
        let policies = self.policies;
        if action == Action::Seal && policies.facts()[position].tells_equality {
            permission = permission.and(self.permits(Action::Search, field));
        }
        if action == Action::Search {
            for other in policies.compared_with(position) {
                permission = permission.and(self.permission(action, &Resource::Field(*other)));
            }
        }
        permission
    }

    /// Whether `audit_read` or `policy_read` is permitted on a whole schema; any other action is
    /// not.
    pub fn permits_on_schema(&mut self, action: Action, schema: &str) -> Permission {
        if let Err(denial) = &self.context {
            return Permission::denied(*denial);
        }
        if self.policies.entities.schema(schema).is_none() {
            return Permission::denied(Denial::UnknownField);
        }
        if !matches!(action, Action::AuditRead | Action::PolicyRead) {
            return Permission::denied(Denial::NotPermitted);
        }
        self.permission(action, &Resource::Schema(schema.into()))
    }

    /// What the questions so far failed of: ids of fields and names of schemas, with the policies
    /// that failed. Without one the question itself could not be asked.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<&str, BTreeSet<Arc<str>>> {
        let mut failures: BTreeMap<&str, BTreeSet<Arc<str>>> = BTreeMap::new();
        let judged = self.judged.iter().filter(|(_, verdict)| verdict.effect == Ruling::Failed);
        for ((_, _, resource), verdict) in judged {
            let name = match resource {
                Resource::Field(position) => &*self.policies.facts()[*position].id,
                Resource::Schema(name) => name,
            };
            failures.entry(name).or_default().extend(verdict.failed.iter().cloned());
        }
        failures
    }

    /// How many questions the policies were asked.
    #[cfg(test)]
    pub(super) fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// What all principals are permitted.
    fn permission(&mut self, action: Action, resource: &Resource) -> Permission {
        (0..self.principals.len())
            .map(|principal| Permission::of(self.judge(principal, action, resource)))
            .reduce(Permission::and)
            .unwrap_or_else(|| Permission::denied(Denial::NotPermitted))
    }

    /// The order of docs/reading.md: a forbidden mask denies; else a permitted reveal shows all;
    /// else a permitted mask shows what it leaves; else nothing is shown.
    fn decide_alone(&mut self, principal: usize, position: usize) -> Decision {
        let mask = self.judge(principal, Action::Mask, &Resource::Field(position));
        let reveal = self.judge(principal, Action::Reveal, &Resource::Field(position));
        if mask.effect == Ruling::Failed || reveal.effect == Ruling::Failed {
            let mut decision = Decision::denied(Denial::PolicyError);
            decision.failed = mask.failed.union(&reveal.failed).cloned().collect();
            return decision;
        }
        let policies = |of: &Verdict| of.policies.iter().cloned().collect::<Vec<_>>();
        let denied =
            |denial, of: &Verdict| Decision { policies: policies(of), ..Decision::denied(denial) };
        let (whole, deciding) = match (mask.effect, reveal.effect) {
            (Ruling::Forbidden, _) => return denied(Denial::Forbidden, &mask),
            (_, Ruling::Permitted) => (true, &reveal),
            (Ruling::Permitted, _) => (false, &mask),
            (_, Ruling::Forbidden) => return denied(Denial::Forbidden, &reveal),
            _ => return denied(Denial::NotPermitted, &mask),
        };
        let answer = match (whole, self.want, self.policies.facts()[position].mask) {
            (true, Want::Auto | Want::Reveal, _) => Answer::Revealed,
            (false, Want::Reveal, _) => return denied(Denial::MaskNotWanted, deciding),
            (_, _, Some(mask)) => Answer::Masked(mask),
            (_, _, None) => return denied(Denial::NoMask, deciding),
        };
        Decision { answer, denial: None, policies: policies(deciding), failed: Vec::new() }
    }

    /// What the policies say of one question; remembered.
    fn judge(&mut self, principal: usize, action: Action, resource: &Resource) -> Verdict {
        let question = (principal, action, resource.clone());
        if let Some(verdict) = self.judged.get(&question) {
            return verdict.clone();
        }
        let verdict = self.verdict(principal, action, resource).unwrap_or_else(Verdict::failed);
        self.judged.insert(question, verdict.clone());
        verdict
    }

    /// What an earlier request alike was told, or what the policies say now.
    fn verdict(
        &mut self,
        principal: usize,
        action: Action,
        resource: &Resource,
    ) -> Option<Verdict> {
        let situation = self.principals.get(principal)?.situation.clone()?;
        let question = (situation, action, resource.clone());
        let kept = &self.policies.kept;
        if let Some(verdict) = kept.verdict(&question) {
            return Some(verdict);
        }
        #[cfg(test)]
        {
            self.evaluations += 1;
        }
        let verdict = self.evaluate(principal, action, resource)?;
        // A failure is no answer to keep.
        if verdict.effect != Ruling::Failed {
            kept.keep_verdict(question, verdict.clone());
        }
        Some(verdict)
    }

    fn resource(&self, resource: &Resource) -> Option<&Entity> {
        match resource {
            Resource::Field(position) => self.policies.entities.field(*position),
            Resource::Schema(name) => self.policies.entities.schema(name),
        }
    }

    /// `None`: it cannot be asked.
    fn evaluate(
        &mut self,
        principal: usize,
        action: Action,
        resource: &Resource,
    ) -> Option<Verdict> {
        if self.cedar_context.is_none() {
            self.cedar_context = self.context.as_ref().ok()?.to_cedar(&self.policies.kept);
        }
        let context = self.cedar_context.clone()?;
        let known = &self.principals.get(principal)?.known;
        let entity = self.resource(resource)?;
        let store = known.store(resource, entity)?;
        let action = self.policies.entities.action(action)?.clone();
        let (who, what) = (known.entity.uid(), entity.uid());
        let question = cedar_policy::Request::new(who, action, what, context, None).ok()?;
        let response = AUTHORIZER.is_authorized(&question, &self.policies.cedar, &store);
        let ids = |ids: &mut dyn Iterator<Item = &cedar_policy::PolicyId>| {
            ids.map(|id| Arc::from(id.as_ref() as &str)).collect::<BTreeSet<Arc<str>>>()
        };
        let diagnostics = response.diagnostics();
        let policies = ids(&mut diagnostics.reason());
        let failed = ids(&mut diagnostics.errors().map(|error| match error {
            cedar_policy::AuthorizationError::PolicyEvaluationError(error) => error.policy_id(),
        }));
        // Cedar skips a policy that fails, so a failing `forbid` would not forbid.
        let effect = match response.decision() {
            _ if diagnostics.errors().next().is_some() => Ruling::Failed,
            Effect::Allow => Ruling::Permitted,
            Effect::Deny if policies.is_empty() => Ruling::Silent,
            Effect::Deny => Ruling::Forbidden,
        };
        Some(Verdict { effect, policies, failed })
    }
}

impl Verdict {
    /// The question could not even be asked.
    fn failed() -> Self {
        Self { effect: Ruling::Failed, ..Self::default() }
    }
}

impl Decision {
    fn denied(denial: Denial) -> Self {
        Self {
            answer: Answer::Denied,
            denial: Some(denial),
            policies: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// The lesser of what is decided of two fields that one ciphertext may belong to.
    fn least(self, other: Self) -> Self {
        let answer = self.answer.least(other.answer);
        let failed = united(&self.failed, &other.failed);
        let (denial, policies) = match (self.answer == answer, other.answer == answer) {
            (true, true) => (self.denial.or(other.denial), united(&self.policies, &other.policies)),
            (true, false) => (self.denial, self.policies),
            (false, true) => (other.denial, other.policies),
            (false, false) => (Some(Denial::MasksDiffer), united(&self.policies, &other.policies)),
        };
        Self { answer, denial, policies, failed }
    }
}

impl Permission {
    fn denied(denial: Denial) -> Self {
        Self { denial: Some(denial), policies: Vec::new(), failed: Vec::new() }
    }

    fn of(verdict: Verdict) -> Self {
        let denial = match verdict.effect {
            Ruling::Permitted => None,
            Ruling::Silent => Some(Denial::NotPermitted),
            Ruling::Forbidden => Some(Denial::Forbidden),
            Ruling::Failed => Some(Denial::PolicyError),
        };
        Self {
            denial,
            policies: verdict.policies.into_iter().collect(),
            failed: verdict.failed.into_iter().collect(),
        }
    }

    /// Both are needed.
    fn and(self, other: Self) -> Self {
        let failed = united(&self.failed, &other.failed);
        let (denial, policies) = match (self.denial, other.denial) {
            (None, Some(denial)) => (Some(denial), other.policies),
            (Some(denial), None) => (Some(denial), self.policies),
            (denial, _) => (denial, united(&self.policies, &other.policies)),
        };
        Self { denial, policies, failed }
    }
}

fn united(a: &[Arc<str>], b: &[Arc<str>]) -> Vec<Arc<str>> {
    a.iter().chain(b).cloned().collect::<BTreeSet<_>>().into_iter().collect()
}
