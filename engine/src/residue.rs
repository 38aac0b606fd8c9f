//! Protected values that stand in clear elsewhere in the record.
//!
//! One pass for all values: any window of six bytes holds a run of three at an offset that is a
//! multiple of four, so a bitmap of the first four three-byte runs of every value, asked at every
//! fourth byte, misses nothing. An event made to be slow this way (many values that begin alike) is
//! searched by an automaton instead.

use std::ops::Range;

use aho_corasick::AhoCorasick;

use crate::scan::{Kind, NO_PARENT, Node, Tape, unescape_generously};
use crate::schema::{PathId, Residue};
use crate::splice::Edit;

/// Shorter values are not looked for: they stand everywhere.
const MIN_CHARS: usize = 6;
const BITS: usize = 1 << 13;
/// Comparisons per byte searched, above which an automaton is built for the record.
const COMPARISONS: usize = 16;
/// Values of one record that are looked for, where finding them is counted: more would cost more
/// than all else that is done for the record.
const COUNTED: usize = 4_096;
/// The same where finding one rejects the record: what is not looked for rejects it too.
const REJECTED: usize = 1 << 16;
/// Longest text of all values that an automaton is built for, in bytes.
const AUTOMATON: usize = 4 << 20;
/// What a byte of these costs, in units of work.
const AUTOMATON_BYTE: u64 = 16;

/// A value to look for.
#[derive(Debug)]
struct Needle {
    /// In the document, or in `Needles::text` when it had escapes.
    range: Range<usize>,
    in_document: bool,
    /// The protected node it is, or lies in.
    node: u32,
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
    /// Texts that protecting wrote in clear, and the node whose own value may stand there.
    outputs: Vec<(Range<usize>, u32)>,
    unescaped: Vec<u8>,
    grams: Box<[u64; BITS / 64]>,
    set: Vec<u16>,
    /// Comparisons left before an automaton is cheaper.
    patience: usize,
    /// Comparisons made, and what the automaton took, in units of work.
    work: u64,
    automaton: Option<AhoCorasick>,
    /// Most values looked for.
    most: usize,
    /// Values that are not looked for.
    capped: u32,
    /// The node whose value does not count where it is found now.
    own: u32,
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
            most: COUNTED,
            capped: 0,
            own: NO_PARENT,
        }
    }
}

impl Residues {
    /// Forgets the last record; what is looked for in the next is `residue`'s.
    pub(crate) fn clear(&mut self, residue: Residue) {
        self.most = if residue == Residue::Reject { REJECTED } else { COUNTED };
        self.capped = 0;
        self.own = NO_PARENT;
        self.forget_runs();
        self.needles.clear();
        self.text.clear();
        self.outputs.clear();
        self.automaton = None;
        self.patience = 0;
        self.work = 0;
    }

    fn forget_runs(&mut self) {
        for bit in self.set.drain(..) {
            self.grams[usize::from(bit) / 64] = 0;
        }
    }

    /// What searching took beyond reading, in units of work.
    pub(crate) fn work(&self) -> u64 {
        self.work
    }

    /// How many values were not looked for, or not everywhere.
    pub(crate) fn capped(&self) -> u32 {
        self.capped
    }

    /// Bytes of its buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        let automaton = self.automaton.as_ref().map_or(0, AhoCorasick::memory_usage);
        let tables = self.needles.capacity() * size_of::<Needle>()
            + self.outputs.capacity() * size_of::<(Range<usize>, u32)>()
            + self.set.capacity() * 2;
        self.text.capacity() + self.unescaped.capacity() + tables + automaton
    }

    /// Adds a protected value: a string's unescaped text, a number's digits, each of them inside an
    /// object or array.
    #[inline(never)]
    pub(crate) fn add(&mut self, doc: &[u8], tape: &Tape, edit: Edit) {
        let nodes = tape.nodes();
        for node in &nodes[edit.node as usize..nodes[edit.node as usize].next as usize] {
            self.add_scalar(doc, node, edit);
        }
    }

    fn add_scalar(&mut self, doc: &[u8], node: &Node, edit: Edit) {
        let (range, in_document) = match node.kind {
            Kind::String if node.escaped => {
                let start = self.text.len();
                unescape_generously(&doc[node.inner()], &mut self.text);
                (start..self.text.len(), false)
            }
            Kind::String => (node.inner(), true),
            Kind::Number => (node.span(), true),
            _ => return,
        };
        let needle = Needle { range, in_document, node: edit.node, field: edit.field, found: 0 };
        let bytes = needle.bytes(doc, &self.text);
        let Some(start) = bytes.first_chunk::<MIN_CHARS>() else { return };
        if bytes.len() < 4 * MIN_CHARS && !bytes.is_ascii() && characters(bytes) < MIN_CHARS {
            return;
        }
        let [a, b, c, d, e, f] = *start;
        if self.needles.len() >= self.most {
            self.capped = self.capped.saturating_add(1);
            return;
        }
        for run in [[a, b, c, d], [b, c, d, e], [c, d, e, f], [d, e, f, 0]] {
            let bit = gram(run);
            self.grams[bit / 64] |= 1 << (bit % 64);
            self.set.push(bit as u16);
        }
        self.needles.push(needle);
    }

    /// A JSON text that protecting wrote in clear (mask, generalize, redact), as a range of the
    /// output. The value of the node `own` ([`NO_PARENT`]: none) may stand there.
    pub(crate) fn add_output(&mut self, range: Range<usize>, own: u32) {
        self.outputs.push((range, own));
    }

    /// Searches every string and number of the document that stays as it is, and those that were
    /// written in clear.
    pub(crate) fn search_document(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        edits: &[Edit],
        output: &[u8],
    ) {
        if self.needles.is_empty() {
            return;
        }
        self.add_patience(doc.len() + output.len());
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
            match node.kind {
                Kind::String if (node.end - node.start) as usize >= MIN_CHARS + 2 => {
                    self.search_string(doc, &doc[node.inner()], node.escaped)
                }
                Kind::Number if (node.end - node.start) as usize >= MIN_CHARS => {
                    self.search_text(doc, &doc[node.span()])
                }
                _ => {}
            }
            at += 1;
        }
        for i in 0..self.outputs.len() {
            let (range, own) = self.outputs[i].clone();
            let text = &output[range];
            self.own = own;
            match text.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\"")) {
                Some(inner) => self.search_string(doc, inner, true),
                None => self.search_text(doc, text),
            }
        }
        self.own = NO_PARENT;
    }

    #[inline]
    fn search_string(&mut self, doc: &[u8], inner: &[u8], escaped: bool) {
        if escaped { self.search_escaped(doc, inner) } else { self.search_text(doc, inner) }
    }

    fn search_escaped(&mut self, doc: &[u8], inner: &[u8]) {
        let mut unescaped = std::mem::take(&mut self.unescaped);
        unescaped.clear();
        unescape_generously(inner, &mut unescaped);
        self.search_text(doc, &unescaped);
        self.unescaped = unescaped;
    }

    /// Searches raw bytes: a clear key or header value.
    pub(crate) fn search(&mut self, doc: &[u8], hay: &[u8]) {
        self.add_patience(hay.len());
        self.search_text(doc, hay);
    }

    fn add_patience(&mut self, searched: usize) {
        self.patience = self.patience.saturating_add(COMPARISONS * searched);
    }

    /// Searches what patience was added for.
    #[inline]
    fn search_text(&mut self, doc: &[u8], hay: &[u8]) {
        if hay.len() < MIN_CHARS {
            return;
        }
        if self.automaton.is_some() {
            return self.search_with_automaton(hay);
        }
        let mut from = 0;
        while let Some(at) = hay.get(from..).and_then(|hay| self.known_run(hay)) {
            if !self.compare(doc, hay, from + at) {
                // What begins up to here was compared.
                return self.give_up_comparing(doc, &hay[from + at + 1..]);
            }
            from += at + 4;
        }
    }

    /// The first run, at a multiple of four, that a value may have among its first four.
    #[inline]
    fn known_run(&self, hay: &[u8]) -> Option<usize> {
        let known = |run: [u8; 4]| {
            let bit = gram(run);
            self.grams[bit / 64] >> (bit % 64) & 1 == 1
        };
        let (runs, rest) = hay.as_chunks::<4>();
        match (runs.iter().position(|run| known(*run)), rest) {
            (Some(n), _) => Some(4 * n),
            (None, [a, b, c]) if known([*a, *b, *c, 0]) => Some(4 * runs.len()),
            (None, _) => None,
        }
    }

    /// Goes on with an automaton, or, where the values are too long for one, stops looking and says
    /// so.
    #[cold]
    fn give_up_comparing(&mut self, doc: &[u8], hay: &[u8]) {
        let length: usize = self.needles.iter().map(|n| n.range.len()).sum();
        if length <= AUTOMATON {
            self.work += AUTOMATON_BYTE * length as u64;
            self.automaton =
                AhoCorasick::new(self.needles.iter().map(|n| n.bytes(doc, &self.text))).ok();
        }
        if self.automaton.is_some() {
            return self.search_with_automaton(hay);
        }
        // No run is known any more, so nothing is found; what was found so far counts.
        self.forget_runs();
        self.capped = self.capped.saturating_add(self.needles.len() as u32);
    }

    /// A run at `at` is one of a needle's first four: compares the needles that would put it there.
    /// `false`: too much work.
    #[inline(never)]
    fn compare(&mut self, doc: &[u8], hay: &[u8], at: usize) -> bool {
        for needle in &mut self.needles {
            let bytes = needle.bytes(doc, &self.text);
            for back in 0..4.min(at + 1) {
                let here = &hay[at - back..];
                if here.len() >= bytes.len() && here[..4] == bytes[..4] {
                    // The bytes of a comparison that goes far count as work too.
                    self.patience = self.patience.saturating_sub(bytes.len());
                    needle.found += u32::from(needle.node != self.own && here.starts_with(bytes));
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
            let needle = &mut self.needles[found.pattern().as_usize()];
            needle.found += u32::from(needle.node != self.own);
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

/// Hash of the first three bytes.
#[inline]
fn gram(run: [u8; 4]) -> usize {
    let word = u32::from_le_bytes(run) << 8;
    (word.wrapping_mul(0x9e37_79b1) >> 19) as usize
}
