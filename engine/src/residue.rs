//! Protected values that stand in clear elsewhere in the record.
//!
//! One pass for all values: any window of six bytes holds a run of three at an offset that is a multiple of four, so a bitmap of the first four
//! three-byte runs of every value, asked at every fourth byte, misses nothing. An event made to be slow this way (many values that begin alike) is
//! searched by an automaton instead.

use std::ops::Range;

use aho_corasick::AhoCorasick;

use crate::scan::{Kind, Node, Tape, unescape};
use crate::schema::PathId;
use crate::transform::Edit;

/// Shorter values are not looked for: they stand everywhere.
const MIN_CHARS: usize = 6;
const BITS: usize = 1 << 13;
/// Comparisons per byte searched, above which an automaton is built for the record.
const COMPARISONS: usize = 16;

/// What a byte of an automaton costs, in units of work.
const AUTOMATON: u64 = 16;

/// A value to look for.
#[derive(Debug)]
struct Needle {
    /// In the document, or in `Needles::text` when it had escapes.
    range: Range<usize>,
    in_document: bool,
    field: PathId,
    found: u32,
}

impl Needle {
    fn bytes<'a>(&self, doc: &'a [u8], text: &'a [u8]) -> &'a [u8] {
        if self.in_document { &doc[self.range.clone()] } else { &text[self.range.clone()] }
    }
}

/// The protected values of one record and where they were seen.
#[derive(Debug)]
pub(crate) struct Residues {
    needles: Vec<Needle>,
    text: Vec<u8>,
    outputs: Vec<Range<usize>>,
    unescaped: Vec<u8>,
    grams: Box<[u64; BITS / 64]>,
    set: Vec<u16>,
    /// Comparisons left before an automaton is cheaper.
    patience: usize,
    /// Comparisons made, and what the automaton took, in units of work.
    work: u64,
    automaton: Option<AhoCorasick>,
}

impl Default for Residues {
    fn default() -> Self {
        Self {
            needles: Vec::new(),
            text: Vec::new(),
            outputs: Vec::new(),
            unescaped: Vec::new(),
            grams: Box::new([0; BITS / 64]),
            set: Vec::new(),
            patience: 0,
            work: 0,
            automaton: None,
        }
    }
}

impl Residues {
    pub(crate) fn clear(&mut self) {
        for bit in self.set.drain(..) {
            self.grams[usize::from(bit) / 64] = 0;
        }
        self.needles.clear();
        self.text.clear();
        self.outputs.clear();
        self.automaton = None;
        self.patience = 0;
        self.work = 0;
    }

    /// What searching took beyond reading, in units of work.
    pub(crate) fn work(&self) -> u64 {
        self.work
    }

    /// Adds a protected value: a string's unescaped text, a number's digits, each of them inside an object or array.
    pub(crate) fn add(&mut self, doc: &[u8], tape: &Tape, edit: Edit) {
        let nodes = tape.nodes();
        for node in &nodes[edit.node as usize..nodes[edit.node as usize].next as usize] {
            self.add_scalar(doc, node, edit.field);
        }
    }

    fn add_scalar(&mut self, doc: &[u8], node: &Node, field: PathId) {
        let (range, in_document) = match node.kind {
            Kind::String if node.escaped => {
                let start = self.text.len();
                if !unescape(&doc[node.inner()], &mut self.text) {
                    // Without text it is looked for as it is written.
                    self.text.truncate(start);
                    self.text.extend_from_slice(&doc[node.inner()]);
                }
                (start..self.text.len(), false)
            }
            Kind::String => (node.inner(), true),
            Kind::Number => (node.span(), true),
            _ => return,
        };
        let needle = Needle { range, in_document, field, found: 0 };
        let bytes = needle.bytes(doc, &self.text);
        if bytes.len() < MIN_CHARS || bytes.len() < 4 * MIN_CHARS && characters(bytes) < MIN_CHARS {
            return;
        }
        for at in 0..4 {
            let bit = gram(&bytes[at..]);
            self.grams[bit / 64] |= 1 << (bit % 64);
            self.set.push(bit as u16);
        }
        self.needles.push(needle);
    }

    /// A JSON text that protecting wrote in clear (mask, generalize, redact), as a range of the output.
    pub(crate) fn add_output(&mut self, range: Range<usize>) {
        self.outputs.push(range);
    }

    /// Searches every string of the document that stays as it is, and those that were written in clear.
    pub(crate) fn search_document(&mut self, doc: &[u8], tape: &Tape, edits: &[Edit], output: &[u8]) {
        if self.needles.is_empty() {
            return;
        }
        let nodes = tape.nodes();
        let mut edits = edits.iter().map(|e| e.node as usize);
        let mut edit = edits.next().unwrap_or(nodes.len());
        let mut at = 0;
        while let Some(node) = nodes.get(at) {
            if at == edit {
                at = node.next as usize;
                edit = edits.next().unwrap_or(nodes.len());
                continue;
            }
            if node.kind == Kind::String && (node.end - node.start) as usize >= MIN_CHARS + 2 {
                self.search_string(doc, &doc[node.inner()], node.escaped);
            }
            at += 1;
        }
        for i in 0..self.outputs.len() {
            let text = &output[self.outputs[i].clone()];
            if let Some(inner) = text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\"")) {
                self.search_string(doc, inner, true);
            }
        }
    }

    #[inline]
    fn search_string(&mut self, doc: &[u8], inner: &[u8], escaped: bool) {
        if escaped { self.search_escaped(doc, inner) } else { self.search(doc, inner) }
    }

    fn search_escaped(&mut self, doc: &[u8], inner: &[u8]) {
        let mut unescaped = std::mem::take(&mut self.unescaped);
        unescaped.clear();
        // A lone surrogate ends the text that can be compared: what is before it, then all of it as written.
        let whole = unescape(inner, &mut unescaped);
        self.search(doc, &unescaped);
        if !whole {
            self.search(doc, inner);
        }
        self.unescaped = unescaped;
    }

    /// Searches raw bytes: a clear key or header value.
    #[inline]
    pub(crate) fn search(&mut self, doc: &[u8], hay: &[u8]) {
        if hay.len() < MIN_CHARS || self.needles.is_empty() {
            return;
        }
        if self.automaton.is_some() {
            return self.search_with_automaton(hay);
        }
        self.patience = self.patience.saturating_add(COMPARISONS * hay.len());
        let mut at = 0;
        while let Some(run) = hay.get(at..at + 3) {
            let bit = gram(run);
            if self.grams[bit / 64] >> (bit % 64) & 1 == 1 && !self.compare(doc, hay, at) {
                // Too large for an automaton: then it takes its time.
                self.patience = usize::MAX;
                self.work += AUTOMATON * self.needles.iter().map(|n| n.range.len() as u64).sum::<u64>();
                self.automaton = AhoCorasick::new(self.needles.iter().map(|n| n.bytes(doc, &self.text))).ok();
                if self.automaton.is_some() {
                    return self.search_with_automaton(hay);
                }
            }
            at += 4;
        }
    }

    /// A run at `at` is one of a needle's first four: compares the needles that would put it there. `false`: too much work.
    #[inline(never)]
    fn compare(&mut self, doc: &[u8], hay: &[u8], at: usize) -> bool {
        for needle in &mut self.needles {
            let bytes = needle.bytes(doc, &self.text);
            for back in 0..4.min(at + 1) {
                let here = &hay[at - back..];
                if here.len() >= bytes.len() && here[..4] == bytes[..4] {
                    // The bytes of a comparison that goes far count as work too.
                    self.patience = self.patience.saturating_sub(bytes.len());
                    needle.found += u32::from(here.starts_with(bytes));
                }
            }
        }
        self.work += 4 * self.needles.len() as u64;
        self.patience = self.patience.saturating_sub(4 * self.needles.len());
        self.patience > 0
    }

    fn search_with_automaton(&mut self, hay: &[u8]) {
        let Some(automaton) = &self.automaton else { return };
        for found in automaton.find_iter(hay) {
            self.needles[found.pattern().as_usize()].found += 1;
        }
    }

    /// Appends (field, times) of what was found.
    pub(crate) fn report(&self, out: &mut Vec<(usize, u32)>) {
        for needle in self.needles.iter().filter(|n| n.found > 0) {
            let field = usize::from(needle.field);
            match out.iter_mut().find(|(f, _)| *f == field) {
                Some((_, n)) => *n += needle.found,
                None => out.push((field, needle.found)),
            }
        }
    }
}

fn characters(utf8: &[u8]) -> usize {
    utf8.iter().filter(|b| (**b as i8) >= -0x40).count()
}

/// Hash of three bytes.
#[inline]
fn gram(bytes: &[u8]) -> usize {
    let word = u32::from(bytes[0]) | u32::from(bytes[1]) << 8 | u32::from(bytes[2]) << 16;
    (word.wrapping_mul(0x9e37_79b1) >> 19) as usize
}
