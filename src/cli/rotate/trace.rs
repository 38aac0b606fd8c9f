//! What the audit log says of a rotation.

use std::collections::BTreeMap;

use veilstream_engine::key::KeyId;
use veilstream_reading::audit::{Entry, Event, Hex, cut_reason};

use super::Opened;
use crate::audit::Trail;
use crate::rotate::Rotated;

/// Lines for keys at the end; data subjects' keys that tokens left are one line, and what is beyond
/// is another.
const KEYS: usize = 1000;

/// The lines of one rotation.
pub(super) struct Trace<'a> {
    trail: &'a Trail,
    table: String,
    schema: String,
    fields: Vec<String>,
}

impl<'a> Trace<'a> {
    pub(super) fn new(trail: &'a Trail, opened: &Opened) -> Self {
        let id = |field: usize| opened.schema.fields[field].id.to_string();
        Self {
            trail,
            table: opened.table.shown.clone(),
            schema: opened.schema.name.to_string(),
            fields: opened.columns.fields.iter().map(|columns| id(columns.field)).collect(),
        }
    }

    /// Before anything is opened.
    pub(super) fn begin(&self, dry_run: bool) -> anyhow::Result<()> {
        let what = if dry_run { "begin, dry run" } else { "begin" };
        let fields = self.fields.iter().map(|field| (field.clone(), "rotate".to_owned())).collect();
        self.trail.append(vec![Entry { fields, ..self.entry(what) }])
    }

    /// It failed; what was written is written.
    pub(super) fn broke_off(&self) -> anyhow::Result<()> {
        let outcome = Some("failed".to_owned());
        self.trail.append_done_all(vec![Entry { outcome, ..self.entry("broke off") }])
    }

    /// What became of each field, by key and form.
    pub(super) fn end(&self, rotated: &Rotated) -> anyhow::Result<()> {
        let outcome = if rotated.is_whole() { "ok" } else { "failed" };
        let line = |field: &str, status: &str, kid: Option<KeyId>, items: u64| Entry {
            fields: [(field.to_owned(), status.to_owned())].into(),
            kids: kid.iter().map(|kid| Hex(kid.0)).collect(),
            items: Some(items),
            outcome: Some(outcome.to_owned()),
            ..self.entry("end")
        };
        let mut lines = Vec::new();
        for field in &self.fields {
            let mut moved: BTreeMap<Option<KeyId>, u64> = BTreeMap::new();
            for ((_, kid), tokens) in rotated.left.iter().filter(|((of, _), _)| of == field) {
                let named = Some(*kid).filter(|_| moved.len() < KEYS);
                *moved.entry(named).or_default() += tokens;
            }
            lines.extend(moved.into_iter().map(|(kid, n)| line(field, "rotated", kid, n)));
            let Some(counts) = rotated.counts.fields.get(field) else { continue };
            for (key, tokens) in &counts.keys {
                let status = if key.is_newest { "newest" } else { "old" };
                lines.push(line(field, status, key.kid, *tokens));
            }
            let failed = counts.failed.iter().map(|(class, values)| (*class, *values));
            let others = failed.chain([("erased", counts.erased)]);
            lines.extend(
                others.filter(|(_, n)| *n > 0).map(|(class, n)| line(field, class, None, n)),
            );
        }
        if lines.is_empty() {
            lines.push(Entry { outcome: Some(outcome.to_owned()), ..self.entry("end") });
        }
        self.trail.append_done_all(lines)
    }

    fn entry(&self, what: &str) -> Entry {
        Entry {
            schema: Some(self.schema.clone()),
            reason: Some(cut_reason(&format!("rotate postgres {what}: {}", self.table))),
            ..self.trail.entry(Event::Rotate)
        }
    }
}
