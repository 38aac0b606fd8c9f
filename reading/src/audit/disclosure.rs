//! What one request opened, as the entries it leaves.

use std::collections::{BTreeMap, BTreeSet};

use veilstream_engine::key::{KeyId, SubjectRef};

use super::hex::Hex;
use super::line::{Entry, SubjectPart};

/// Up to so many data subjects, a request writes a line for each.
const MOST_LINES: usize = 100;

/// Collects what a request opened. One line a data subject, or one a schema with a side file where
/// there are more than 100; what names nobody has its own line in either case.
pub struct Disclosure {
    template: Entry,
    /// What came of all of it; `None`: what came of the fields.
    outcome: Option<&'static str>,
    /// By schema, then by data subject.
    told: BTreeMap<String, BTreeMap<Option<SubjectRef>, Told>>,
}

#[derive(Default)]
struct Told {
    fields: BTreeMap<String, String>,
    items: u64,
    /// Sorted and told apart at the end.
    kids: Vec<KeyId>,
}

impl Disclosure {
    /// A disclosure whose entries have what `template` has: event, actor, purpose and the like.
    #[must_use]
    pub fn new(template: Entry) -> Self {
        Self { template, outcome: None, told: BTreeMap::new() }
    }

    /// The same; all of it came to this.
    #[must_use]
    pub fn with_outcome(self, outcome: &'static str) -> Self {
        Self { outcome: Some(outcome), ..self }
    }

    /// Adds records or bare tokens that came to the same: their schema, whose keys were found, what
    /// became of their fields, the keys' ids, and how many they are.
    pub fn add<'f>(
        &mut self,
        schema: &str,
        subjects: impl IntoIterator<Item = SubjectRef>,
        fields: impl Iterator<Item = (&'f str, &'f str)> + Clone,
        kids: impl IntoIterator<Item = KeyId> + Clone,
        items: u64,
    ) {
        let mut subjects = subjects.into_iter().map(Some).peekable();
        let nobody = subjects.peek().is_none().then_some(None);
        for subject in subjects.chain(nobody) {
            let told = self.of(schema, subject);
            told.items += items;
            told.take_kids(kids.clone());
            for (field, status) in fields.clone() {
                told.note(field, status);
            }
        }
    }

    fn of(&mut self, schema: &str, subject: Option<SubjectRef>) -> &mut Told {
        if !self.told.contains_key(schema) {
            self.told.insert(schema.to_owned(), BTreeMap::new());
        }
        let Some(told) = self.told.get_mut(schema) else { unreachable!("it was just put there") };
        told.entry(subject).or_default()
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// The entries.
    #[must_use]
    pub fn into_entries(self) -> Vec<Entry> {
        let subjects: BTreeSet<SubjectRef> =
            self.told.values().flat_map(|told| told.keys().copied().flatten()).collect();
        let has_many = subjects.len() > MOST_LINES;
        let (template, outcome) = (self.template, self.outcome);
        let of_schema = |(schema, told): (String, BTreeMap<Option<SubjectRef>, Told>)| {
            let entry = Entry { schema: Some(schema), ..template.clone() };
            let (many, each): (Vec<_>, Vec<_>) =
                told.into_iter().partition(|(subject, _)| has_many && subject.is_some());
            let bulk = (!many.is_empty()).then(|| bulk(entry.clone(), many, outcome));
            let part = |(subject, told): (_, Told)| told.part(subject, outcome);
            let each = (!each.is_empty())
                .then(|| Entry { each: each.into_iter().map(part).collect(), ..entry });
            bulk.into_iter().chain(each)
        };
        self.told.into_iter().flat_map(of_schema).collect()
    }
}

/// One line for all of these.
fn bulk(
    entry: Entry,
    many: Vec<(Option<SubjectRef>, Told)>,
    outcome: Option<&'static str>,
) -> Entry {
    let (mut sum, mut bulk) = (Told::default(), Vec::with_capacity(many.len()));
    for (subject, told) in many {
        sum.items += told.items;
        told.fields.iter().for_each(|(field, status)| sum.note(field, status));
        bulk.extend(subject);
    }
    Entry {
        items: Some(sum.items),
        outcome: Some(outcome.unwrap_or_else(|| sum.outcome()).to_owned()),
        fields: sum.fields,
        bulk,
        ..entry
    }
}

impl Told {
    /// Those of tokens side by side are mostly one.
    fn take_kids(&mut self, kids: impl IntoIterator<Item = KeyId>) {
        for kid in kids {
            if self.kids.last() != Some(&kid) {
                self.kids.push(kid);
            }
        }
    }

    /// Of a field's places, the status that discloses most stays.
    fn note(&mut self, field: &str, status: &str) {
        match self.fields.get_mut(field) {
            Some(known) if rank(known) >= rank(status) => {}
            Some(known) => status.clone_into(known),
            None => {
                self.fields.insert(field.to_owned(), status.to_owned());
            }
        }
    }

    fn outcome(&self) -> &'static str {
        match self.fields.values().map(|status| rank(status)).max() {
            Some(DENIED) => "denied",
            Some(0) => "failed",
            _ => "ok",
        }
    }

    fn part(mut self, subject: Option<SubjectRef>, outcome: Option<&'static str>) -> SubjectPart {
        self.kids.sort_unstable();
        self.kids.dedup();
        SubjectPart {
            subject: subject.map(Hex::from),
            items: self.items,
            kids: self.kids.iter().map(|kid| Hex::from(*kid)).collect(),
            outcome: outcome.unwrap_or_else(|| self.outcome()),
            fields: self.fields,
        }
    }
}

const DENIED: u8 = 1;

/// How much a status discloses.
fn rank(status: &str) -> u8 {
    match status {
        "revealed" => 3,
        "masked" => 2,
        "denied" => DENIED,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::Event;
    use super::*;

    fn disclosure(people: u8) -> Vec<Entry> {
        let mut disclosure = Disclosure::new(Entry::new(Event::Reveal));
        for n in 0..people {
            for status in ["revealed", "erased"] {
                disclosure.add(
                    "people",
                    [SubjectRef([n; 16])],
                    [("email", status), ("ssn", "denied")].into_iter(),
                    [KeyId([n; 16])],
                    1,
                );
            }
        }
        disclosure.into_entries()
    }

    #[test]
    fn each_data_subject_has_a_line() {
        let entries = disclosure(100);
        assert_eq!((entries.len(), entries[0].lines()), (1, 100));
        let first = &entries[0].each[0];
        assert_eq!(first.subject, Some(Hex([0; 16])));
        assert_eq!((first.items, first.kids.as_slice()), (2, [Hex([0; 16])].as_slice()));
        assert_eq!(first.fields["email"], "revealed", "what discloses most stays");
        assert_eq!(first.outcome, "ok");
    }

    #[test]
    fn more_than_a_hundred_share_one() {
        let entries = disclosure(101);
        assert_eq!((entries.len(), entries[0].lines()), (1, 1));
        assert_eq!((entries[0].bulk.len(), entries[0].items), (101, Some(202)));
        assert_eq!((entries[0].subject, entries[0].kids.len()), (None, 0));
    }

    #[test]
    fn what_names_nobody_has_its_own_line_beside_many() {
        let mut disclosure = Disclosure::new(Entry::new(Event::Reveal));
        for n in 0..101 {
            let ada = [SubjectRef([n; 16])];
            disclosure.add("people", ada, [("email", "revealed")].into_iter(), None, 1);
        }
        for schema in ["people", "webhooks"] {
            let kid = [KeyId([7; 16])];
            disclosure.add(schema, None, [("email", "erased")].into_iter(), kid, 50);
        }
        let entries = disclosure.into_entries();
        let [many, nobody, webhooks] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((many.bulk.len(), many.items, many.each.len()), (101, Some(101), 0));
        assert_eq!(many.outcome.as_deref(), Some("ok"));
        for (entry, schema) in [(nobody, "people"), (webhooks, "webhooks")] {
            assert_eq!((entry.schema.as_deref(), entry.bulk.len()), (Some(schema), 0));
            let [part] = &entry.each[..] else { panic!("{entry:?}") };
            assert_eq!((part.subject, part.items, part.outcome), (None, 50, "failed"));
        }
    }

    #[test]
    fn what_came_to_the_same_is_counted_together() {
        let mut disclosure = Disclosure::new(Entry::new(Event::Reveal));
        let (ada, kid) = (Some(SubjectRef([1; 16])), Some(KeyId([2; 16])));
        disclosure.add("people", ada, [("email", "corrupt")].into_iter(), kid, 3);
        disclosure.add("people", ada, [("email", "revealed")].into_iter(), kid, 40);
        disclosure.add("people", None, [("email", "malformed")].into_iter(), None, 1);
        let parts = disclosure.into_entries().pop().unwrap().each;
        assert_eq!(parts.len(), 2);
        assert_eq!((parts[0].items, parts[0].outcome), (1, "failed"));
        assert_eq!((parts[1].items, &*parts[1].fields["email"]), (43, "revealed"));
        assert_eq!(parts[1].kids, [Hex([2; 16])]);
    }

    #[test]
    fn the_outcome_is_that_of_the_fields() {
        for (status, outcome) in [("masked", "ok"), ("denied", "denied"), ("erased", "failed")] {
            let mut disclosure = Disclosure::new(Entry::new(Event::Reveal));
            disclosure.add("people", [], [("email", status)].into_iter(), [], 1);
            let part = disclosure.into_entries().pop().unwrap().each.pop().unwrap();
            assert_eq!((part.outcome, part.subject), (outcome, None));
        }
        let mut disclosure = Disclosure::new(Entry::new(Event::Reveal)).with_outcome("budget");
        disclosure.add("people", [], [("email", "denied")].into_iter(), [], 1);
        assert_eq!(disclosure.into_entries()[0].each[0].outcome, "budget");
    }
}
