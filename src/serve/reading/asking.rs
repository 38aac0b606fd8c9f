//! A request to read, as each step of it sees it.

use veilstream_engine::reveal::{Decision, Revealer};
use veilstream_reading::audit::{Entry, Event};

use super::Reading;
use super::answer::Head;
use super::asker::Asker;
use super::document::Document;
use super::fault::RequestFault;
use super::found::Found;
use super::request::RevealRequest;
use super::target::Asked;
use crate::policy::{self, Action, PolicySet, RequestFacts};

/// A request to read: who asks, for what, under which policies.
pub(super) struct Asking<'a> {
    pub(super) asker: &'a Asker,
    pub(super) request: &'a RevealRequest<'a>,
    /// Which attempt of its id it is, from 1. `None`: a part of a stream, which is no retry whatever
    /// its id.
    pub(super) attempt: Option<u64>,
    pub(super) policies: &'a PolicySet,
    pub(super) found: Found<'a>,
    pub(super) totals: Totals,
}

/// How much is asked for, with the parts of a stream before this one.
#[derive(Clone, Copy)]
pub(super) struct Totals {
    pub(super) items: u64,
    /// Data subjects, as far as headers tell.
    pub(super) subjects: u64,
    /// A token came without whose row it stands in.
    pub(super) is_bare: bool,
}

/// What the policies said of a request's fields.
pub(super) struct Decided {
    /// In the order of [`Found::fields`].
    pub(super) fields: Vec<policy::Decision>,
    /// Who may see where in the audit log the request stands.
    pub(super) shows_audit: bool,
}

impl Reading {
    /// Reads a body, takes its items off the caller's limit, and looks at them under one snapshot:
    /// what decides and what opens are of one set of schemas.
    pub(super) fn with_items<T>(
        &self,
        asker: &Asker,
        path: &str,
        body: &[u8],
        work: impl FnOnce(Asking<'_>, &mut Revealer) -> Result<T, RequestFault>,
    ) -> Result<T, RequestFault> {
        let document = Document::read(body)?;
        let request = RevealRequest::read(&document)?;
        asker.take_items(request.items.len())?;
        let attempt = self.attempt(asker, &request.claims, path, body)?;
        let policies = self.policies.current();
        self.with_revealer(|revealer| {
            let found = Found::of(&request, &policies, revealer)?;
            let (request, policies) = (&request, &*policies);
            let totals = Totals {
                items: request.items.len() as u64,
                subjects: found.subjects(),
                is_bare: found.is_bare(),
            };
            let attempt = Some(attempt);
            work(Asking { asker, request, attempt, policies, found, totals }, revealer)
        })
    }
}

impl Asking<'_> {
    /// The questions of the request: the facts are of all of its items.
    pub(super) fn questions(&self) -> Result<policy::Request<'_>, RequestFault> {
        let facts = RequestFacts {
            bare: self.totals.is_bare,
            subjects: self.totals.subjects,
            ..self.asker.facts(&self.request.claims, self.totals.items)
        };
        self.asker.questions(self.policies, &facts, self.request.want)
    }

    /// Asks the policies about every field once, before a key is looked for.
    pub(super) fn decide(&self, questions: &mut policy::Request<'_>) -> Decided {
        let fields = self.found.fields().iter().map(|field| questions.decide(field)).collect();
        let mut schemas = self.found.schemas().peekable();
        let shows_audit = schemas.peek().is_some()
            && schemas.all(|schema| {
                questions.permits_on_schema(Action::AuditRead, schema).is_permitted()
            });
        Decided { fields, shows_audit }
    }

    /// What all lines of the request have.
    pub(super) fn entry(&self, event: Event) -> Entry {
        let attempt = self.attempt.unwrap_or(1);
        self.asker.entry(event, &self.request.claims, attempt, self.policies)
    }

    /// The id under which it may be made again.
    pub(super) fn repeatable_id(&self) -> Option<&str> {
        self.attempt.and(self.request.claims.request_id.as_deref())
    }

    /// What its answer begins with.
    pub(super) fn head(&self) -> Head<'_> {
        Head { claims: &self.request.claims, policy: self.policies.hash() }
    }
}

impl Decided {
    /// What the engine does with a field.
    pub(super) fn decision(&self, field: &Asked<'_>) -> Decision {
        let decision = self.fields.get(field.place);
        decision.map(|decision| decision.answer.decision()).unwrap_or_default()
    }
}
