//! Output that leaves when its line in the audit log is durable, and not before.

use std::collections::BTreeSet;
use std::io::{self, Write};

use veilstream_engine::key::{Key, KeyId, Scope, SubjectRef};
use veilstream_reading::audit::{Disclosure, Entry, Event};

use super::Trail;

/// Records of one batch at most, and bytes held back after which it ends.
const RECORDS: usize = 1000;
const BYTES: usize = 8 << 20;

/// Whose keys were found while a record was opened.
#[derive(Debug, Default)]
pub struct Opened {
    subjects: BTreeSet<SubjectRef>,
    kids: BTreeSet<KeyId>,
}

impl Opened {
    /// Takes a key that was found.
    pub fn found(&mut self, key: &Key) {
        self.kids.insert(key.id);
        if let Scope::Subject(subject) = key.scope {
            self.subjects.insert(subject);
        }
    }
}

/// Holds output back until [`Outlet::release`] has made its lines durable. Without an audit it
/// buffers as any writer.
pub struct Outlet<'t, W> {
    out: W,
    trail: &'t Trail,
    held: Vec<u8>,
    disclosure: Disclosure,
    honey: Vec<Entry>,
    records: usize,
}

impl<'t, W: Write> Outlet<'t, W> {
    /// Output to `out` that `trail` tells of.
    pub fn new(out: W, trail: &'t Trail) -> Self {
        let disclosure = Disclosure::new(trail.entry(Event::Reveal));
        Self { out, trail, held: Vec::new(), disclosure, honey: Vec::new(), records: 0 }
    }

    /// Adds a record or token that was opened: its schema, its keys, and what became of its fields.
    /// A honey token (`honey`) has a line of its own.
    pub fn add<'f>(
        &mut self,
        schema: &str,
        opened: &Opened,
        fields: impl Iterator<Item = (&'f str, &'f str)>,
    ) {
        let fields: Vec<(&str, &str)> = fields.collect();
        for (field, _) in fields.iter().filter(|(_, status)| *status == "honey") {
            self.honey.push(Entry {
                schema: Some(schema.to_owned()),
                fields: [((*field).to_owned(), "denied".to_owned())].into(),
                outcome: Some("denied".to_owned()),
                ..self.trail.entry(Event::Honey)
            });
        }
        if !fields.is_empty() {
            let (subjects, kids) = (opened.subjects.iter().copied(), opened.kids.iter().copied());
            self.disclosure.add(schema, subjects, fields.into_iter(), kids, 1);
        }
    }

    /// Ends a record; where the batch is full, it leaves.
    ///
    /// # Errors
    /// As [`Outlet::release`].
    pub fn end_record(&mut self) -> anyhow::Result<()> {
        self.records += 1;
        if self.records >= RECORDS || self.held.len() >= BYTES { self.release() } else { Ok(()) }
    }

    /// Makes the lines durable, then lets the output go.
    ///
    /// # Errors
    /// The log is unavailable: nothing of this batch left. Or the output fails.
    pub fn release(&mut self) -> anyhow::Result<()> {
        let next = Disclosure::new(self.trail.entry(Event::Reveal));
        let mut entries = std::mem::replace(&mut self.disclosure, next).into_entries();
        entries.append(&mut self.honey);
        self.records = 0;
        let held = std::mem::take(&mut self.held);
        self.trail.append(entries)?;
        self.out.write_all(&held)?;
        self.out.flush()?;
        Ok(())
    }
}

impl<W: Write> Write for Outlet<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// Holds back all the same: [`Outlet::release`] lets go.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use veilstream_reading::audit::{AuditLog, LogParts, Settings, Signer, VerifierKey};

    use super::*;

    /// A trail into a log in `folder`.
    fn trail(folder: &std::path::Path) -> Trail {
        let recipient = VerifierKey::generate().unwrap().recipient().unwrap();
        let signer = Signer::new(SigningKey::from_bytes(&[7; 32]));
        let file = folder.join("audit.jsonl");
        let settings = Settings::new(file, recipient, signer, "ada@host".to_owned());
        Trail { log: Some(AuditLog::open(settings).unwrap()), actor: "ada@host".to_owned() }
    }

    fn opened(outlet: &mut Outlet<'_, &mut Vec<u8>>) {
        outlet.write_all(b"plaintext\n").unwrap();
        let mut opened = Opened::default();
        opened.subjects.insert(SubjectRef([7; 16]));
        outlet.add("people", &opened, [("email", "revealed"), ("ssn", "honey")].into_iter());
    }

    #[test]
    fn what_is_held_leaves_behind_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let (trail, mut out) = (trail(dir.path()), Vec::new());
        let mut outlet = Outlet::new(&mut out, &trail);
        opened(&mut outlet);
        outlet.flush().unwrap();
        assert!(outlet.out.is_empty(), "nothing leaves before its line");
        outlet.release().unwrap();
        assert_eq!(out, b"plaintext\n");
        let mut lines = Vec::new();
        let log = LogParts::of(trail.log().unwrap().file()).unwrap();
        log.each(|_, _, line| {
            lines.push((line.entry.event, line.entry.outcome, line.entry.subject.is_some()));
            Ok(())
        })
        .unwrap();
        let ok = Some("ok".to_owned());
        assert_eq!(lines[1], (Event::Reveal, ok, true));
        assert_eq!(lines[2], (Event::Honey, Some("denied".to_owned()), false));
    }

    #[test]
    fn without_a_line_nothing_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let (trail, mut out) = (trail(dir.path()), Vec::new());
        trail.log().unwrap().stop().unwrap();
        let mut outlet = Outlet::new(&mut out, &trail);
        opened(&mut outlet);
        assert!(outlet.release().is_err());
        drop(outlet);
        assert_eq!(out, b"");
    }

    #[test]
    fn a_batch_is_bounded() {
        let (trail, mut out) = (Trail::none(), Vec::new());
        let mut outlet = Outlet::new(&mut out, &trail);
        for _ in 0..=RECORDS {
            outlet.write_all(b"x\n").unwrap();
            outlet.end_record().unwrap();
        }
        assert_eq!((outlet.out.len(), outlet.held.len()), (2 * RECORDS, 2));
    }
}
