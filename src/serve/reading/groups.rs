//! Audit lines of requests that name no data subject: one for each schema and outcome.

use std::collections::BTreeMap;

use veilstream_reading::audit::{Entry, Event};

/// The lines of a request so far.
pub(super) struct Groups<'a> {
    /// What they have in common.
    template: &'a Entry,
    /// By schema, outcome, and whether the event is another than the template's.
    lines: BTreeMap<(String, &'static str, bool), Entry>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(template: &'a Entry) -> Self {
        Self { template, lines: BTreeMap::new() }
    }

    /// Counts an item in the line of its schema and outcome.
    pub(super) fn count(
        &mut self,
        event: Event,
        schema: &str,
        outcome: &'static str,
    ) -> &mut Entry {
        let group = (schema.to_owned(), outcome, event != self.template.event);
        let entry = self.lines.entry(group).or_insert_with(|| Entry {
            event,
            schema: Some(schema.to_owned()),
            items: Some(0),
            outcome: Some(outcome.to_owned()),
            ..self.template.clone()
        });
        entry.items = entry.items.map(|items| items + 1);
        entry
    }

    /// The lines; of a request without items one that says so.
    pub(super) fn into_entries(self) -> Vec<Entry> {
        if self.lines.is_empty() {
            return vec![Entry { items: Some(0), ..self.template.clone() }];
        }
        self.lines.into_values().collect()
    }
}
