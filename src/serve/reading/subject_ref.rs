//! `POST /v1/subject-ref`: the reference by which the audit log names a data subject, so that an
//! auditor holds no key.

use serde_json::json;
use std::collections::BTreeMap;

use veilstream_engine::key::{KeyKind, Scope, SubjectRef};
use veilstream_engine::schema::Schema;
use veilstream_engine::subject::{Referrer, scalar_text};
use veilstream_engine::transform::NeededKey;
use veilstream_reading::audit::{Entry, Event, Hex};

use super::Reading;
use super::answer::{self, Head, begin, member};
use super::asker::Asker;
use super::document::Document;
use super::fault::RequestFault;
use super::groups::Groups;
use super::prepared::Prepared;
use super::request::{SubjectItem, SubjectRequest};
use super::target::UNKNOWN;
use crate::keys::KeyFault;
use crate::policy::{Action, PolicySet, Request, Want};

/// Makes references; the key is asked for once, and only where one is needed.
#[derive(Default)]
pub(super) struct Subjects {
    /// By domain.
    referrers: BTreeMap<Option<String>, Referrer>,
    scalar: Vec<u8>,
}

/// What came of an item.
enum Referred {
    Malformed,
    Denied,
    /// Records of the schema have no subject.
    NoSubject,
    Ok(SubjectRef),
}

impl Subjects {
    /// The reference of a subject of a schema, by its id as JSON; `None`: it is no id.
    pub(super) fn reference(
        &mut self,
        reading: &Reading,
        schema: &Schema,
        subject: &[u8],
    ) -> Result<Option<SubjectRef>, KeyFault> {
        if !scalar_text(subject, &mut self.scalar) || self.scalar.is_empty() {
            return Ok(None);
        }
        let domain = &schema.subject_domain;
        if !self.referrers.contains_key(domain) {
            let scope = Scope::Version(1);
            let needed = NeededKey { kind: KeyKind::SubjectRef, scope: scope.clone() };
            reading.keys.fetch(&[needed])?;
            let keyring = reading.keys.keyring();
            let referrer = keyring
                .sealing(KeyKind::SubjectRef, &scope)
                .and_then(|key| Referrer::new(key, keyring.tenant(), domain.as_deref()))
                .ok_or_else(|| KeyFault("there is no key of references".to_owned()))?;
            self.referrers.insert(domain.clone(), referrer);
        }
        Ok(self.referrers.get(domain).map(|referrer| referrer.reference(&self.scalar)))
    }
}

impl Reading {
    pub(super) fn subject_refs(
        &self,
        asker: &Asker,
        body: &[u8],
    ) -> Result<Prepared, RequestFault> {
        let document = Document::read(body)?;
        let request = SubjectRequest::read(&document)?;
        asker.take_items(request.items.len())?;
        let claims = &request.claims;
        let attempt = self.attempt(asker, claims, "/v1/subject-ref", body)?;
        let policies = self.policies.current();
        let facts = asker.facts(claims, request.items.len() as u64);
        let mut questions = asker.questions(&policies, &facts, Want::Auto)?;
        let mut subjects = Subjects::default();
        let referred: Vec<Referred> = request
            .items
            .iter()
            .map(|item| self.refer(item, &policies, &mut questions, &mut subjects))
            .collect::<Result<_, _>>()?;
        self.tell_failures(&policies, &questions);
        let template = asker.entry(Event::AuditRead, claims, attempt, &policies);
        let trace = self.submit(entries(&template, &policies, &request.items, &referred))?;
        let summary = answer::summary(referred.iter().map(Referred::status));
        let items = request.items.iter().zip(&referred);
        let write = |out: &mut Vec<u8>, (item, referred): (&SubjectItem<'_>, &Referred)| {
            referred.write(out, item.id);
        };
        let answer = Head { claims, policy: policies.hash() }.with(&summary, "items", items, write);
        Ok(Prepared { trace, answer, shows_audit: false, count: Box::new(|_| {}) })
    }

    fn refer(
        &self,
        item: &SubjectItem<'_>,
        policies: &PolicySet,
        questions: &mut Request<'_>,
        subjects: &mut Subjects,
    ) -> Result<Referred, RequestFault> {
        let Some((name, subject)) = &item.what else { return Ok(Referred::Malformed) };
        if !questions.permits_on_schema(Action::AuditRead, name).is_permitted() {
            return Ok(Referred::Denied);
        }
        let mut schemas = policies.schemas().schemas().iter();
        let Some(schema) = schemas.find(|schema| *schema.name == **name) else {
            return Ok(Referred::Denied);
        };
        if schema.subjects.is_empty() {
            return Ok(Referred::NoSubject);
        }
        let reference = subjects.reference(self, schema, subject)?;
        Ok(reference.map_or(Referred::Malformed, Referred::Ok))
    }
}

impl Referred {
    fn status(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Denied => "denied",
            Self::NoSubject => "no_subject",
            Self::Ok(_) => "ok",
        }
    }

    fn write(&self, out: &mut Vec<u8>, id: Option<&[u8]>) {
        begin(out, id);
        member(out, "status", json!(self.status()).to_string().as_bytes());
        if let Self::Ok(reference) = self {
            let text = json!(Hex(reference.0).to_string());
            member(out, "subject_ref", text.to_string().as_bytes());
        }
        out.push(b'}');
    }
}

/// One line a schema and outcome, without the references: who asks is looked at, not who is asked
/// about.
fn entries(
    template: &Entry,
    policies: &PolicySet,
    items: &[SubjectItem<'_>],
    referred: &[Referred],
) -> Vec<Entry> {
    let mut lines = Groups::new(template);
    for (item, referred) in items.iter().zip(referred) {
        let name = item.what.as_ref().map_or(UNKNOWN, |(name, _)| name.as_str());
        // A schema that does not exist is the caller's text, and not for the log.
        let mut known = policies.schemas().schemas().iter();
        let name = known.find(|schema| *schema.name == *name).map_or(UNKNOWN, |s| &*s.name);
        let outcome = match referred {
            Referred::Ok(_) => "ok",
            Referred::Denied => "denied",
            Referred::Malformed | Referred::NoSubject => "failed",
        };
        lines.count(template.event, name, outcome);
    }
    lines.into_entries()
}
