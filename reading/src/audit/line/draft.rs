//! Lines before their place in a chain is known. The thread that has them to tell writes them, and
//! the log's own thread adds what the chain says.

use std::io::Write as _;

use super::canonical::{self, Places};
use super::{Entry, Line};
use crate::audit::side_file::References;

/// The lines of a request, in one text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::audit) struct Drafts {
    text: Vec<u8>,
    /// Where each ends.
    lines: Vec<(usize, Places)>,
    /// Whom they name in side files, which stand before the lines.
    pub(in crate::audit) references: Vec<References>,
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(in crate::audit) struct Draft<'d> {
    text: &'d [u8],
    places: Places,
}

impl Drafts {
    /// One after another.
    pub(in crate::audit) fn iter(&self) -> impl Iterator<Item = Draft<'_>> {
        let mut from = 0;
        self.lines.iter().map(move |(end, places)| {
            let start = std::mem::replace(&mut from, *end);
            Draft { text: &self.text[start..*end], places: *places }
        })
    }
}

impl FromIterator<Entry> for Drafts {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        let mut drafts = Self::default();
        for mut entry in entries {
            if !entry.bulk.is_empty() {
                let references = References::new(std::mem::take(&mut entry.bulk));
                entry.subjects = Some(references.count());
                entry.subjects_sha256 = Some(references.sha256);
                drafts.references.push(references);
            }
            let parts = std::mem::take(&mut entry.each);
            let of_entry = |entry| Line::new([0; 16], 0, "", [0; 32], entry);
            if parts.is_empty() {
                let places = canonical::write(&of_entry(entry), &mut drafts.text);
                drafts.lines.push((drafts.text.len(), places));
            } else {
                let shared = of_entry(entry.without_parts());
                drafts.lines.extend(canonical::write_each(&shared, &parts, &mut drafts.text));
            }
        }
        drafts
    }
}

impl Draft<'_> {
    /// Appends the line with its number and time, without its chain, `prev` and MAC; where those
    /// stand.
    pub(in crate::audit) fn write(&self, seq: u64, time: &str, out: &mut Vec<u8>) -> Places {
        let Places { seq: number, time: begin, .. } = self.places;
        out.extend_from_slice(&self.text[..number]);
        // Memory, and nothing that could fail.
        let _ = write!(out, "{seq}");
        // Behind the zero that stands for the number.
        out.extend_from_slice(&self.text[number + 1..begin]);
        out.extend_from_slice(time.as_bytes());
        out.extend_from_slice(&self.text[begin..]);
        self.places
    }
}
