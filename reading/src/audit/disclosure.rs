//! What one request opened, as the entries it leaves.

use std::collections::{BTreeMap, BTreeSet};

use veilstream_engine::key::{KeyId, SubjectRef};

use super::hex::Hex;
use super::line::Entry;

/// Up to so many data subjects, a request writes a line for each.
const MOST_LINES: usize = 100;

/// Collects what a request opened. One line a data subject, or one a schema with a side file where
/// there are more than 100.
pub struct Disclosure {
    template: Entry,
    told: BTreeMap<(String, Option<SubjectRef>), Told>,
}

#[derive(Default)]
struct Told {
    fields: BTreeMap<String, String>,
    items: u64,
    kids: BTreeSet<KeyId>,
}

impl Disclosure {
    /// A disclosure whose entries have what `template` has: event, actor, purpose and the like.
    #[must_use]
    pub fn new(template: Entry) -> Self {
        Self { template, told: BTreeMap::new() }
    }

    /// Adds one record or bare token: its schema, whose keys were found, what became of its fields,
    /// and the keys' ids.
    pub fn add<'f>(
        &mut self,
        schema: &str,
        subjects: &BTreeSet<SubjectRef>,
        fields: impl Iterator<Item = (&'f str, &'f str)>,
        kids: &BTreeSet<KeyId>,
    ) {
        let fields: Vec<(&str, &str)> = fields.collect();
        let mut whose: Vec<Option<SubjectRef>> = subjects.iter().copied().map(Some).collect();
        if whose.is_empty() {
            whose.push(None);
        }
        for subject in whose {
            let told = self.told.entry((schema.to_owned(), subject)).or_default();
            told.items += 1;
            told.kids.extend(kids);
            for (field, status) in &fields {
                told.note(field, status);
            }
        }
    }

    /// Adds tokens of one column that share a key and came to the same: whose key it is, what
    /// became of their field, and how many they are.
    pub fn add_tokens(
        &mut self,
        schema: &str,
        subject: Option<SubjectRef>,
        (field, status): (&str, &str),
        kid: Option<KeyId>,
        items: u64,
    ) {
        let told = self.told.entry((schema.to_owned(), subject)).or_default();
        told.items += items;
        told.kids.extend(kid);
        told.note(field, status);
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
            self.told.keys().filter_map(|(_, subject)| *subject).collect();
        let template = self.template;
        if subjects.len() <= MOST_LINES {
            return self
                .told
                .into_iter()
                .map(|((schema, subject), told)| {
                    let kids = told.kids.iter().map(|kid| Hex::from(*kid)).collect();
                    Entry { subject: subject.map(Hex::from), kids, ..told.entry(&template, schema) }
                })
                .collect();
        }
        let mut by_schema: BTreeMap<String, (Told, Vec<SubjectRef>)> = BTreeMap::new();
        for ((schema, subject), told) in self.told {
            let (sum, subjects) = by_schema.entry(schema).or_default();
            sum.items += told.items;
            told.fields.iter().for_each(|(field, status)| sum.note(field, status));
            subjects.extend(subject);
        }
        by_schema
            .into_iter()
            .map(|(schema, (told, bulk))| Entry { bulk, ..told.entry(&template, schema) })
            .collect()
    }
}

impl Told {
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

    fn entry(&self, template: &Entry, schema: String) -> Entry {
        let most = self.fields.values().map(|status| rank(status)).max();
        let outcome = match most {
            Some(DENIED) => "denied",
            Some(0) => "failed",
            _ => "ok",
        };
        Entry {
            schema: Some(schema),
            fields: self.fields.clone(),
            items: Some(self.items),
            outcome: Some(outcome.to_owned()),
            ..template.clone()
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
                    &[SubjectRef([n; 16])].into(),
                    [("email", status), ("ssn", "denied")].into_iter(),
                    &[KeyId([n; 16])].into(),
                );
            }
        }
        disclosure.into_entries()
    }

    #[test]
    fn each_data_subject_has_a_line() {
        let entries = disclosure(100);
        assert_eq!(entries.len(), 100);
        let first = &entries[0];
        assert_eq!(first.subject, Some(Hex([0; 16])));
        assert_eq!((first.items, first.kids.as_slice()), (Some(2), [Hex([0; 16])].as_slice()));
        assert_eq!(first.fields["email"], "revealed", "what discloses most stays");
        assert_eq!(first.outcome.as_deref(), Some("ok"));
    }

    #[test]
    fn more_than_a_hundred_share_one() {
        let entries = disclosure(101);
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].bulk.len(), entries[0].items), (101, Some(202)));
        assert_eq!((entries[0].subject, entries[0].kids.len()), (None, 0));
    }

    #[test]
    fn tokens_of_a_column_are_counted_together() {
        let mut disclosure = Disclosure::new(Entry::new(Event::Reveal));
        let (ada, kid) = (Some(SubjectRef([1; 16])), Some(KeyId([2; 16])));
        disclosure.add_tokens("people", ada, ("email", "corrupt"), kid, 3);
        disclosure.add_tokens("people", ada, ("email", "revealed"), kid, 40);
        disclosure.add_tokens("people", None, ("email", "malformed"), None, 1);
        let entries = disclosure.into_entries();
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].items, entries[0].outcome.as_deref()), (Some(1), Some("failed")));
        assert_eq!((entries[1].items, &*entries[1].fields["email"]), (Some(43), "revealed"));
        assert_eq!(entries[1].kids, [Hex([2; 16])]);
    }

    #[test]
    fn the_outcome_is_that_of_the_fields() {
        for (status, outcome) in [("masked", "ok"), ("denied", "denied"), ("erased", "failed")] {
            let mut disclosure = Disclosure::new(Entry::new(Event::Reveal));
            disclosure.add(
                "people",
                &BTreeSet::new(),
                [("email", status)].into_iter(),
                &BTreeSet::new(),
            );
            let entry = disclosure.into_entries().pop().unwrap();
            assert_eq!((entry.outcome.as_deref(), entry.subject), (Some(outcome), None));
        }
    }
}
