//! What the audit log says of a rotation.

use std::collections::BTreeMap;

use veilstream_engine::key::KeyId;
use veilstream_reading::audit::{Entry, Event, Hex, cut_reason};

use crate::audit::Trail;
use crate::rotate::Rotated;
use crate::rotate::topic::TopicRotated;

/// Lines for keys at the end; data subjects' keys that tokens left are one line, and what is beyond
/// is another.
const KEYS: usize = 1000;

/// The lines of one rotation.
pub(super) struct Trace<'a> {
    pub(super) trail: &'a Trail,
    /// `postgres` or `topic`.
    pub(super) command: &'static str,
    /// The table, or the topics.
    pub(super) place: String,
    pub(super) schema: String,
    /// Ids of the fields that move.
    pub(super) fields: Vec<String>,
}

impl Trace<'_> {
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

    /// What became of each field of a table, by key and form.
    pub(super) fn end(&self, rotated: &Rotated) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for field in &self.fields {
            let left = rotated.left.iter().filter(|((of, _), _)| of == field);
            lines.extend(self.moved(field, left.map(|((_, kid), tokens)| (*kid, *tokens))));
            let Some(counts) = rotated.counts.fields.get(field) else { continue };
            for (key, tokens) in &counts.keys {
                let status = if key.is_newest { "newest" } else { "old" };
                lines.push(self.line(field, status, key.kid, *tokens));
            }
            let failed = counts.failed.iter().map(|(class, values)| (*class, *values));
            let others = failed.chain([("erased", counts.erased)]);
            lines.extend(
                others.filter(|(_, n)| *n > 0).map(|(class, n)| self.line(field, class, None, n)),
            );
        }
        self.append_end(lines, rotated.is_whole())
    }

    /// What became of the records of a topic that this schema claims.
    pub(super) fn end_topic(&self, rotated: &TopicRotated) -> anyhow::Result<()> {
        let mut lines = Vec::new();
        for field in &self.fields {
            let left =
                rotated.moved.iter().filter(|((of, id, _), _)| *of == self.schema && id == field);
            lines.extend(self.moved(field, left.map(|((.., kid), tokens)| (*kid, *tokens))));
        }
        let kept = rotated.kept.iter().filter(|((of, ..), _)| *of == self.schema);
        lines.extend(kept.map(|((_, field, class), records)| {
            let field = if field.is_empty() { "record" } else { field };
            self.line(field, class, None, *records)
        }));
        self.append_end(lines, rotated.is_whole())
    }

    /// The keys that tokens of a field left.
    fn moved(&self, field: &str, left: impl Iterator<Item = (KeyId, u64)>) -> Vec<Entry> {
        let mut moved: BTreeMap<Option<KeyId>, u64> = BTreeMap::new();
        for (kid, tokens) in left {
            let named = Some(kid).filter(|_| moved.len() < KEYS);
            *moved.entry(named).or_default() += tokens;
        }
        moved.into_iter().map(|(kid, n)| self.line(field, "rotated", kid, n)).collect()
    }

    fn line(&self, field: &str, status: &str, kid: Option<KeyId>, items: u64) -> Entry {
        Entry {
            fields: [(field.to_owned(), status.to_owned())].into(),
            kids: kid.iter().map(|kid| Hex(kid.0)).collect(),
            items: Some(items),
            ..self.entry("end")
        }
    }

    fn append_end(&self, mut lines: Vec<Entry>, is_whole: bool) -> anyhow::Result<()> {
        if lines.is_empty() {
            lines.push(self.entry("end"));
        }
        let outcome = if is_whole { "ok" } else { "failed" };
        lines.iter_mut().for_each(|line| line.outcome = Some(outcome.to_owned()));
        self.trail.append_done_all(lines)
    }

    fn entry(&self, what: &str) -> Entry {
        let Self { command, place, .. } = self;
        Entry {
            schema: Some(self.schema.clone()),
            reason: Some(cut_reason(&format!("rotate {command} {what}: {place}"))),
            ..self.trail.entry(Event::Rotate)
        }
    }
}
