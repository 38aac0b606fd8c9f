//! `POST /v1/reveal`: fields of records and bare tokens, as far as the policies let.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use veilstream_engine::key::{Key, KeyId, Scope, SubjectRef};
use veilstream_engine::reveal::{Decision, HeldKeys, Revealer};
use veilstream_engine::{KeyState, Keyring};
use veilstream_reading::audit::{Disclosure, Durable, Entry, Event};

use super::answer::{self, Head};
use super::asker::Asker;
use super::document::Document;
use super::fault::RequestFault;
use super::found::{Found, Item, Read, tokens_of};
use super::request::{Claims, MOST_FIELDS, RevealRequest};
use super::{Reading, plain};
use crate::policy::budget::{BudgetSpent, Counted, Unit};
use crate::policy::{self, Action, PolicySet, RequestFacts};
use crate::telemetry::events::{Event as _, HoneyOpened, PolicyFailed};

/// What the policies said of a request's fields.
pub(super) struct Decided {
    /// By the field's id.
    pub(super) fields: BTreeMap<String, policy::Decision>,
    /// Who may see where in the audit log the request stands.
    pub(super) shows_audit: bool,
}

/// Keys that a request needs, by id, beside those of the snapshot.
type Fetched = HashMap<KeyId, Option<Arc<Key>>>;

impl Reading {
    pub(super) fn reveal(&self, asker: &Asker, body: &[u8]) -> Result<Vec<u8>, RequestFault> {
        let document = Document::read(body)?;
        let request = RevealRequest::read(&document)?;
        asker.take_items(request.items.len())?;
        let now = self.now();
        let claims = &request.claims;
        let id = claims.request_id.as_deref();
        let attempt = self.replays.attempt(&asker.id, id, "/v1/reveal", body, now)?;
        // One snapshot: what decides and what opens are of one set of schemas.
        let policies = self.policies.current();
        let keyring = self.keys.keyring();
        let tokens = tokens_of(&request);
        self.with_revealer(|revealer| {
            let (schemas, facts) = (policies.schemas(), policies.facts());
            let found = Found::of(&request, &tokens, schemas, facts, revealer);
            if found.fields().count() > MOST_FIELDS {
                return Err(RequestFault::TooMany { most: MOST_FIELDS, of: "fields" });
            }
            let decided = self.decide(asker, &request, &found, &policies);
            let fetched = self.fetch(&found, &decided, &keyring)?;
            let held = HeldKeys { keyring: &keyring, fetched: &fetched };
            let spent = self.reserve(asker, claims, attempt, &found, &decided, held);
            let (read, honey) = open(&found, &decided, &spent, held, revealer);
            let trace = Trace { asker, claims, attempt, policies: &policies, decided: &decided };
            let entries = trace.entries(&found, &read, &spent, &honey);
            if !honey.is_empty() {
                let actor = &*asker.id;
                HoneyOpened { actor, fields: &honey }.emit(&self.metrics);
            }
            let durable = self.append(entries)?;
            self.count(&read, claims, &spent, &policies);
            let place = decided.shows_audit.then_some(durable);
            let head = Head { claims, policy: policies.hash(), audit: place };
            Ok(answer::revealed(&head, &found, &read))
        })
    }

    /// Asks the policies about every field once, before a key is looked for.
    pub(super) fn decide(
        &self,
        asker: &Asker,
        request: &RevealRequest<'_>,
        found: &Found<'_>,
        policies: &PolicySet,
    ) -> Decided {
        let mut questions = self.questions(asker, request, found, policies);
        let mut fields = BTreeMap::new();
        for field in found.fields() {
            fields.entry(field.to_owned()).or_insert_with_key(|field| {
                let decision = questions.decide(field);
                if !decision.failed.is_empty() {
                    PolicyFailed { policies: &decision.failed, field }.emit(&self.metrics);
                }
                decision
            });
        }
        let mut schemas = found.schemas().peekable();
        let shows_audit = schemas.peek().is_some()
            && schemas.all(|schema| {
                questions.permits_on_schema(Action::AuditRead, schema).is_permitted()
            });
        Decided { fields, shows_audit }
    }

    /// The questions of a request: the facts are of all of its items.
    pub(super) fn questions<'p>(
        &self,
        asker: &Asker,
        request: &RevealRequest<'_>,
        found: &Found<'_>,
        policies: &'p PolicySet,
    ) -> policy::Request<'p> {
        let facts = RequestFacts {
            purpose: request.claims.purpose.clone(),
            reason: request.claims.reason.clone(),
            ip: plain(asker.ip()),
            auth: asker.credential(),
            items: request.items.len() as u64,
            bare: found.is_bare(),
            subjects: found.subjects(),
        };
        let person = asker.person();
        policies.request(&asker.principal(), person.as_ref(), &facts, request.want)
    }

    /// Looks up the keys of what may be opened, and of nothing else.
    fn fetch(
        &self,
        found: &Found<'_>,
        decided: &Decided,
        keyring: &Keyring,
    ) -> Result<Fetched, RequestFault> {
        let mut fetched = Fetched::new();
        for item in found.items() {
            for (field, kid) in item.tokens() {
                if decided.decision(field) == Decision::Withhold
                    || keyring.get(kid).is_some()
                    || fetched.contains_key(kid)
                {
                    continue;
                }
                // A key that someone may have is no key that opens.
                let key = self
                    .keys
                    .lookup_for_reading(kid)?
                    .filter(|key| key.state != KeyState::Compromised);
                fetched.insert(*kid, key);
            }
        }
        Ok(fetched)
    }

    /// Reserves what is going to be opened; the items for which there is no room.
    fn reserve(
        &self,
        asker: &Asker,
        claims: &Claims,
        attempt: u64,
        found: &Found<'_>,
        decided: &Decided,
        held: HeldKeys<'_>,
    ) -> Vec<bool> {
        let (now, purpose) = (self.now(), Arc::<str>::from(claims.purpose.as_str()));
        let mut budgets = self.budgets();
        let mut reserve = |unit| {
            let counted = Counted::Subjects;
            budgets.reserve(now, &asker.id, &purpose, counted, unit)
        };
        let mut of = |item: &Item<'_>| -> Result<(), BudgetSpent> {
            if item.fields().all(|field| decided.decision(field) == Decision::Withhold) {
                return Ok(());
            }
            let opened = item.tokens().filter(|(f, _)| decided.decision(f) != Decision::Withhold);
            let subjects: BTreeSet<SubjectRef> =
                opened.filter_map(|(_, kid)| subject_of(kid, held)).collect();
            for subject in &subjects {
                reserve(Unit::Reference(subject.0))?;
            }
            // An attempt after the first is the same disclosure.
            if subjects.is_empty() && attempt == 1 {
                reserve(Unit::Anonymous)?;
            }
            Ok(())
        };
        found.items().map(|item| of(item).is_err()).collect()
    }

    /// Writes the trace. What it tells of may leave when this returned.
    pub(super) fn append(&self, entries: Vec<Entry>) -> Result<Durable, RequestFault> {
        let lines = entries.len() as u64;
        let outcome = self.audit.append(entries);
        let label = if outcome.is_ok() { "ok" } else { "failed" };
        self.metrics.audit_lines.with_label_values(&["file", label]).inc_by(lines);
        Ok(outcome?)
    }

    fn count(&self, read: &[Read], claims: &Claims, spent: &[bool], policies: &PolicySet) {
        for status in read.iter().flat_map(|read| read.fields.iter().map(|field| field.status)) {
            self.metrics.reveals.with_label_values(&[status]).inc();
        }
        let spent = spent.iter().filter(|spent| **spent).count() as u64;
        // A purpose that nobody configured is the caller's text, and no label.
        if spent > 0 && policies.purposes().iter().any(|known| known.name == claims.purpose) {
            self.metrics.budget_denials.with_label_values(&[&claims.purpose]).inc_by(spent);
        }
    }
}

impl Decided {
    /// What the engine does with a field.
    pub(super) fn decision(&self, field: &str) -> Decision {
        match self.fields.get(field).map(|decision| decision.answer) {
            Some(policy::Answer::Revealed) => Decision::Reveal,
            Some(policy::Answer::Masked(_)) => Decision::Mask,
            Some(policy::Answer::Denied) | None => Decision::Withhold,
        }
    }

    /// Ids of the policies that decided about these fields.
    fn policies<'f>(&self, fields: impl Iterator<Item = &'f str>) -> Vec<String> {
        let ids: BTreeSet<&str> = fields
            .filter_map(|field| self.fields.get(field))
            .flat_map(|decision| decision.policies.iter().map(|id| &**id))
            .collect();
        ids.into_iter().map(str::to_owned).collect()
    }
}

fn subject_of(kid: &KeyId, held: HeldKeys<'_>) -> Option<SubjectRef> {
    let key = held.keyring.get(kid).or_else(|| held.fetched.get(kid)?.as_ref())?;
    if let Scope::Subject(subject) = key.scope { Some(subject) } else { None }
}

/// Opens every item; with the fields of which a honey token was met: all of their places are
/// withheld, or a lone one among revealed ones would tell which it was.
fn open(
    found: &Found<'_>,
    decided: &Decided,
    spent: &[bool],
    held: HeldKeys<'_>,
    revealer: &mut Revealer,
) -> (Vec<Read>, BTreeSet<String>) {
    let mut honey = BTreeSet::new();
    loop {
        let before = honey.len();
        let mut read = Vec::with_capacity(spent.len());
        for (item, is_spent) in found.items().zip(spent) {
            let decide = |field: &str| match decided.decision(field) {
                _ if *is_spent || honey.contains(field) => Decision::Withhold,
                decision => decision,
            };
            read.push(item.open(held, &decide, revealer));
        }
        honey.extend(read.iter().flat_map(|read| read.honey.iter().cloned()));
        if honey.len() == before {
            return (read, honey);
        }
    }
}

/// What the lines of one request are made of.
struct Trace<'a> {
    asker: &'a Asker,
    claims: &'a Claims,
    attempt: u64,
    policies: &'a PolicySet,
    decided: &'a Decided,
}

impl Trace<'_> {
    /// One line for each data subject, or one for many; what had no room in a budget has its own.
    fn entries(
        &self,
        found: &Found<'_>,
        read: &[Read],
        spent: &[bool],
        honey: &BTreeSet<String>,
    ) -> Vec<Entry> {
        let mut entries = Vec::new();
        for is_spent in [false, true] {
            let told = || found.items().zip(read).zip(spent).filter(|(_, s)| **s == is_spent);
            if told().next().is_none() {
                continue;
            }
            let template = Entry {
                policies: self.decided.policies(told().flat_map(|((item, _), _)| item.fields())),
                ..self.entry(Event::Reveal)
            };
            let mut disclosure = Disclosure::new(template);
            for ((item, read), _) in told() {
                let fields = read.fields.iter().map(|field| (&*field.name, field.class));
                disclosure.add(item.schema(), &read.subjects, fields, &read.kids);
            }
            let mut lines = disclosure.into_entries();
            if is_spent {
                lines.iter_mut().for_each(|line| line.outcome = Some("budget".to_owned()));
            }
            entries.append(&mut lines);
        }
        if entries.is_empty() {
            entries.push(Entry { items: Some(0), ..self.entry(Event::Reveal) });
        }
        entries.extend(honey.iter().map(|field| self.honey(field)));
        entries
    }

    fn honey(&self, field: &str) -> Entry {
        let (schema, name) = field.split_once('.').unwrap_or((field, field));
        Entry {
            schema: Some(schema.to_owned()),
            fields: BTreeMap::from([(name.to_owned(), "denied".to_owned())]),
            outcome: Some("denied".to_owned()),
            ..self.entry(Event::Honey)
        }
    }

    fn entry(&self, event: Event) -> Entry {
        self.asker.entry(event, self.claims, self.attempt, self.policies)
    }
}
