//! `POST /v1/reveal`: fields of records and bare tokens, as far as the policies let.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use veilstream_engine::Keyring;
use veilstream_engine::interop::InteropForm;
use veilstream_engine::key::{KeyId, Scope, SubjectRef};
use veilstream_engine::reveal::{Decision, FetchedKeys, HeldKeys, Revealer};
use veilstream_engine::schema::Field;
use veilstream_reading::audit::{Disclosure, Entry, Event, SubjectPart};

use super::answer::{self, Spent, Summary};
use super::asker::Asker;
use super::asking::{Asking, Decided};
use super::fault::RequestFault;
use super::found::{Found, Item, Read};
use super::prepared::{Prepared, Trace, blocking};
use super::target::Asked;
use super::{REVEAL, Reading};
use crate::policy::budget::{BudgetSpent, Counted, Unit};
use crate::telemetry::events::{Event as _, HoneyOpened};
use crate::telemetry::metrics::Metrics;

/// What came of the items of a request, or of a part of a stream.
pub(super) struct OpenedItems<'a> {
    pub(super) read: Vec<Read<'a>>,
    /// Nothing of `read` may leave before it is durable.
    pub(super) trace: Trace,
    pub(super) shows_audit: bool,
    pub(super) counts: Counts,
}

/// What metrics tell of it.
pub(super) struct Counts {
    pub(super) fields: Summary,
    spent: Spent,
}

/// What was reserved in budgets for an item.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reserved {
    /// All that it opens.
    Whole,
    /// Nothing: policies deny all of it.
    Denied,
    /// There was no room.
    NoRoom,
}

impl Counts {
    fn new(asking: &Asking<'_>, read: &[Read<'_>], reserved: &[Reserved]) -> Self {
        let count = reserved.iter().filter(|of| **of == Reserved::NoRoom).count();
        let spent = Spent::new(asking.policies, &asking.request.claims.purpose, count);
        Self { fields: answer::fields(read), spent }
    }

    pub(super) fn add_to(&self, metrics: &Metrics) {
        answer::add(&metrics.reveals, &self.fields);
        self.spent.add_to(metrics);
    }
}

impl Reading {
    pub(super) fn reveal(&self, asker: &Asker, body: &[u8]) -> Result<Prepared, RequestFault> {
        self.with_items(asker, REVEAL, body, |asking, revealer| {
            let opened = self.open_asked(&asking, &mut BTreeSet::new(), revealer)?;
            let OpenedItems { read, trace, shows_audit, counts } = opened;
            let mut summary = Summary::new();
            answer::count(&asking.found, &counts.fields, &mut summary);
            let items = asking.found.items().zip(read);
            let answer = asking.head().with(&summary, "items", items, answer::item);
            let count = move |metrics: &Metrics| counts.add_to(metrics);
            Ok(Prepared { trace, answer, shows_audit, count: Box::new(count) })
        })
    }

    /// Opens what is asked for, as far as policies and budgets let. `honey` has the fields of which
    /// a honey token was met before, and takes new ones.
    pub(super) fn open_asked<'a>(
        &self,
        asking: &'a Asking<'_>,
        honey: &mut BTreeSet<String>,
        revealer: &mut Revealer,
    ) -> Result<OpenedItems<'a>, RequestFault> {
        let keyring = self.keys.keyring();
        let mut questions = asking.questions()?;
        let decided = asking.decide(&mut questions);
        self.tell_failures(asking.policies, &questions);
        let fetched = self.fetch(&asking.found, &decided, &keyring)?;
        let held = HeldKeys { keyring: &keyring, fetched: &fetched };
        let reserved = self.reserve(asking, &decided, held);
        let before = honey.clone();
        let mut opening = || open(&asking.found, &decided, &reserved, held, honey, revealer);
        let mut read = if has_messages(asking) { blocking(opening) } else { opening() };
        let met: BTreeSet<String> = honey.difference(&before).cloned().collect();
        let mut is_suspended = false;
        if !met.is_empty() {
            HoneyOpened { actor: &asking.asker.id, fields: &met }.emit(&self.metrics);
            is_suspended = asking.asker.suspend()?;
        }
        if is_suspended {
            withhold(&mut read, &asking.found, held, revealer);
        }
        let mut entries = entries(asking, &decided, &read, &reserved, &met);
        entries.extend(is_suspended.then(|| asking.asker.suspended()));
        let trace = self.submit(entries)?;
        if is_suspended {
            // It holds here already, and its lines are on their way: only the store is waited for.
            let write = asking.asker.write_suspensions();
            let _ = self.key_threads.wait_for(move || {
                write();
                Ok(())
            });
        }
        leave_out_denied(&mut read, &asking.found, &decided);
        let counts = Counts::new(asking, &read, &reserved);
        Ok(OpenedItems { read, trace, shows_audit: decided.shows_audit, counts })
    }

    /// Looks up the keys of what may be opened, and of nothing else.
    fn fetch(
        &self,
        found: &Found<'_>,
        decided: &Decided,
        keyring: &Keyring,
    ) -> Result<FetchedKeys, RequestFault> {
        let (mut fetched, mut missing) = (FetchedKeys::default(), BTreeSet::new());
        for (field, kid) in found.items().flat_map(Item::tokens) {
            if decided.decision(field) == Decision::Withhold
                || keyring.get(kid).is_some()
                || fetched.contains_key(kid)
            {
                continue;
            }
            match self.keys.held_for_reading(kid) {
                Some(key) => drop(fetched.insert(*kid, Some(key))),
                None => drop(missing.insert(*kid)),
            }
        }
        if !missing.is_empty() {
            let keys = self.keys.clone();
            let look_up = move || {
                let found = missing.iter().map(|kid| Ok((*kid, keys.lookup_for_reading(kid)?)));
                found.collect::<Result<Vec<_>, RequestFault>>()
            };
            fetched.extend(self.key_threads.wait_for(look_up)?);
        }
        Ok(fetched)
    }

    /// Reserves what is going to be opened, item by item.
    fn reserve(&self, asking: &Asking<'_>, decided: &Decided, held: HeldKeys<'_>) -> Vec<Reserved> {
        let Asking { asker, request, found, .. } = asking;
        let (now, id) = (self.now(), asking.repeatable_id());
        let purpose = Arc::<str>::from(request.claims.purpose.as_str());
        let mut budgets = self.budgets();
        let (before, mut anonymous) = (self.replays.spent(&asker.id, id), 0);
        let mut account = budgets.account(now, &asker.id, &purpose, Counted::Subjects);
        let (mut last, mut subjects): (_, Vec<SubjectRef>) = (None, Vec::new());
        let mut of = |item: &Item<'_>| -> Result<Reserved, BudgetSpent> {
            if item.asked().iter().all(|field| decided.decision(field) == Decision::Withhold) {
                return Ok(Reserved::Denied);
            }
            let opened = item.tokens().filter(|(f, _)| decided.decision(f) != Decision::Withhold);
            subjects.clear();
            subjects.extend(opened.filter_map(|(_, kid)| subject_of(kid, held)));
            subjects.sort_unstable();
            subjects.dedup();
            for subject in &subjects {
                // Items side by side are often of one.
                if last != Some(*subject) {
                    account.reserve(Unit::Reference(subject.0))?;
                    last = Some(*subject);
                }
            }
            // What an earlier attempt has spent is the same disclosure.
            if subjects.is_empty() {
                if anonymous >= before {
                    account.reserve(Unit::Anonymous)?;
                }
                anonymous += 1;
            }
            Ok(Reserved::Whole)
        };
        let reserved = found.items().map(|item| of(item).unwrap_or(Reserved::NoRoom)).collect();
        self.replays.spend(&asker.id, id, anonymous);
        reserved
    }
}

/// Whether there may be OpenPGP messages: to open one costs as much hashing as it asks for.
fn has_messages(asking: &Asking<'_>) -> bool {
    let is_message = |field: &Field| {
        field.interop.as_ref().is_some_and(|interop| interop.form == InteropForm::Pgcrypto)
    };
    let schemas = asking.policies.schemas().schemas().iter();
    let mut with = schemas.filter(|schema| schema.fields.iter().any(is_message));
    with.any(|schema| asking.found.items().any(|item| item.schema() == &*schema.name))
}

fn subject_of(kid: &KeyId, held: HeldKeys<'_>) -> Option<SubjectRef> {
    let key = held.keyring.get(kid).or_else(|| held.fetched.get(kid)?.as_ref())?;
    if let Scope::Subject(subject) = key.scope { Some(subject) } else { None }
}

/// Opens every item; with the fields of which a honey token was met: all of their places are
/// withheld, or a lone one among revealed ones would tell which it was.
fn open<'a>(
    found: &'a Found<'_>,
    decided: &Decided,
    reserved: &[Reserved],
    held: HeldKeys<'_>,
    honey: &mut BTreeSet<String>,
    revealer: &mut Revealer,
) -> Vec<Read<'a>> {
    let mut read: Vec<Read<'_>> = Vec::new();
    loop {
        let before = honey.len();
        let mut first = std::mem::take(&mut read).into_iter();
        for (item, reserved) in found.items().zip(reserved) {
            let decide = |field: &Asked<'_>| match decided.decision(field) {
                _ if *reserved == Reserved::NoRoom || honey.contains(&*field.id) => {
                    Decision::Withhold
                }
                decision => decision,
            };
            let opened = item.open(held, &decide, revealer);
            read.push(match first.next() {
                Some(first) => opened.after(first),
                None => opened,
            });
        }
        honey.extend(read.iter().flat_map(|read| read.honey.iter().cloned()));
        if honey.len() == before {
            return read;
        }
    }
}

/// Withholds everything.
fn withhold<'a>(
    read: &mut [Read<'a>],
    found: &'a Found<'_>,
    held: HeldKeys<'_>,
    revealer: &mut Revealer,
) {
    for (item, read) in found.items().zip(read) {
        let denied = item.open(held, &|_| Decision::Withhold, revealer);
        *read = denied.after(std::mem::take(read));
    }
}

/// Leaves fields out that nobody named and that policies deny.
fn leave_out_denied(read: &mut [Read<'_>], found: &Found<'_>, decided: &Decided) {
    for (item, read) in found.items().zip(read).filter(|(item, _)| item.is_whole()) {
        let mut asked = item.asked().iter();
        let mut is_denied =
            || asked.next().is_none_or(|field| decided.decision(field) == Decision::Withhold);
        read.fields.retain(|_| !is_denied());
    }
}

/// One line for each data subject, or one for many; what was denied or had no room in a budget has
/// its own.
fn entries(
    asking: &Asking<'_>,
    decided: &Decided,
    read: &[Read<'_>],
    reserved: &[Reserved],
    honey: &BTreeSet<String>,
) -> Vec<Entry> {
    let mut entries = Vec::new();
    for of in [Reserved::Whole, Reserved::Denied, Reserved::NoRoom] {
        let told = || asking.found.items().zip(read).zip(reserved).filter(|(_, r)| **r == of);
        if told().next().is_none() {
            continue;
        }
        let fields = told().flat_map(|((item, _), _)| item.asked());
        let template = Entry { policies: deciding(decided, fields), ..asking.entry(Event::Reveal) };
        let disclosure = Disclosure::new(template);
        let mut disclosure = match of {
            Reserved::Whole => disclosure,
            Reserved::Denied => disclosure.with_outcome("denied"),
            Reserved::NoRoom => disclosure.with_outcome("budget"),
        };
        let told: Vec<(&Item<'_>, &Read<'_>)> = told().map(|(told, _)| told).collect();
        for alike in told.chunk_by(|a, b| a.0.shares_target(b.0) && a.1.is_told_as(b.1)) {
            let (item, read) = alike[0];
            let fields = read.fields.iter().map(|field| (field.audited, field.class));
            let (subjects, kids) = (read.subjects.iter().copied(), read.kids.iter().copied());
            disclosure.add(item.schema(), subjects, fields, kids, alike.len() as u64);
        }
        let mut told = disclosure.into_entries();
        if of == Reserved::Whole {
            told.iter_mut().flat_map(|entry| &mut entry.each).for_each(tell_spent);
        }
        entries.append(&mut told);
    }
    if entries.is_empty() {
        entries.push(Entry { items: Some(0), ..asking.entry(Event::Reveal) });
    }
    entries.extend(honey.iter().map(|field| honey_entry(asking, field)));
    entries
}

/// Of nobody, only the outcome tells what was spent though nothing was shown.
fn tell_spent(part: &mut SubjectPart) {
    if part.subject.is_none() && part.outcome == "denied" {
        part.outcome = "failed";
    }
}

/// Ids of the policies that decided about these fields.
fn deciding<'f>(decided: &Decided, fields: impl Iterator<Item = &'f Asked<'f>>) -> Vec<String> {
    let mut is_asked = vec![false; decided.fields.len()];
    fields.for_each(|field| is_asked[field.place] = true);
    let asked = decided.fields.iter().zip(is_asked).filter(|(_, is_asked)| *is_asked);
    let ids: BTreeSet<&str> =
        asked.flat_map(|(decision, _)| decision.policies.iter().map(|id| &**id)).collect();
    ids.into_iter().map(str::to_owned).collect()
}

fn honey_entry(asking: &Asking<'_>, field: &str) -> Entry {
    let facts = asking.policies.facts().iter().find(|facts| *facts.id == *field);
    let (schema, name) =
        facts.map_or((field, field), |facts| (&*facts.schema, facts.name_in_schema()));
    Entry {
        schema: Some(schema.to_owned()),
        fields: BTreeMap::from([(name.to_owned(), "denied".to_owned())]),
        outcome: Some("denied".to_owned()),
        ..asking.entry(Event::Honey)
    }
}
