//! Protected values that stand in clear elsewhere in the record.
//!
//! One pass for all values: any window of six bytes holds a run of three at an offset that is a multiple of four, so a bitmap of the first four
//! three-byte runs of every value, asked at every fourth byte, misses nothing.

use std::ops::Range;

use crate::scan::{Kind, Node, Tape, unescape};
use crate::schema::PathId;
use crate::transform::Edit;

/// Shorter values are not looked for: they stand everywhere.
const MIN_CHARS: usize = 6;
const BITS: usize = 1 << 13;

/// A value to look for.
#[derive(Debug)]
struct Needle {
    /// In the document, or in `text` when it had escapes.
    range: Range<usize>,
    in_document: bool,
    field: PathId,
    found: u32,
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
    }

    /// Adds a protected value: a string's unescaped text, a number's digits.
    pub(crate) fn add(&mut self, doc: &[u8], node: &Node, field: PathId) {
        let (range, in_document) = match node.kind {
            Kind::String if node.escaped => {
                let start = self.text.len();
                if !unescape(&doc[node.inner()], &mut self.text) {
                    self.text.truncate(start);
                    return;
                }
                (start..self.text.len(), false)
            }
            Kind::String => (node.inner(), true),
            Kind::Number => (node.span(), true),
            _ => return,
        };
        let bytes = if in_document { &doc[range.clone()] } else { &self.text[range.clone()] };
        let characters = bytes.iter().filter(|b| (**b as i8) >= -0x40).count();
        if characters < MIN_CHARS {
            return;
        }
        for at in 0..4 {
            let bit = gram(&bytes[at..]);
            self.grams[bit / 64] |= 1 << (bit % 64);
            self.set.push(bit as u16);
        }
        self.needles.push(Needle { range, in_document, field, found: 0 });
    }

    /// Text that protecting wrote in clear (masks), as a range of the output.
    pub(crate) fn add_output(&mut self, range: Range<usize>) {
        self.outputs.push(range);
    }

    /// Searches every string of the document that stays as it is.
    pub(crate) fn search_document(&mut self, doc: &[u8], tape: &Tape, edits: &[Edit], output: &[u8]) {
        if self.needles.is_empty() {
            return;
        }
        let nodes = tape.nodes();
        let mut edits = edits.iter().peekable();
        let mut at = 0;
        while let Some(node) = nodes.get(at as usize) {
            if edits.next_if(|e| e.node == at).is_some() {
                at = node.next;
                continue;
            }
            if node.kind == Kind::String && (node.end - node.start) as usize >= MIN_CHARS + 2 {
                self.search_string(doc, &doc[node.inner()], node.escaped);
            }
            at += 1;
        }
        for i in 0..self.outputs.len() {
            let range = self.outputs[i].start + 1..self.outputs[i].end - 1;
            self.search_string(doc, &output[range], true);
        }
    }

    fn search_string(&mut self, doc: &[u8], inner: &[u8], escaped: bool) {
        if !escaped {
            return self.search(doc, inner);
        }
        let mut unescaped = std::mem::take(&mut self.unescaped);
        unescaped.clear();
        // A lone surrogate ends the text that can be compared; both sides of it still are, as written.
        if unescape(inner, &mut unescaped) { self.search(doc, &unescaped) } else { self.search(doc, inner) }
        self.unescaped = unescaped;
    }

    /// Searches raw bytes: a clear key or header value.
    pub(crate) fn search(&mut self, doc: &[u8], hay: &[u8]) {
        if hay.len() < MIN_CHARS || self.needles.is_empty() {
            return;
        }
        let mut at = 0;
        while at + 3 <= hay.len() {
            let bit = gram(&hay[at..]);
            if self.grams[bit / 64] >> (bit % 64) & 1 == 1 {
                self.compare(doc, hay, at);
            }
            at += 4;
        }
    }

    /// A run at `at` is one of a needle's first four: compares the needles that would put it there.
    #[inline(never)]
    fn compare(&mut self, doc: &[u8], hay: &[u8], at: usize) {
        for needle in &mut self.needles {
            let bytes = if needle.in_document { &doc[needle.range.clone()] } else { &self.text[needle.range.clone()] };
            for back in 0..4.min(at + 1) {
                if hay[at - back..].starts_with(bytes) {
                    needle.found += 1;
                }
            }
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

/// Hash of three bytes.
#[inline]
fn gram(bytes: &[u8]) -> usize {
    let word = u32::from(bytes[0]) | u32::from(bytes[1]) << 8 | u32::from(bytes[2]) << 16;
    (word.wrapping_mul(0x9e37_79b1) >> 19) as usize
}
