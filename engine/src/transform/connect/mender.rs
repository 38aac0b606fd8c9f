//! The schema part of an envelope as it is after protecting. Kept from record to record: a topic's
//! records nearly always have the same.

use std::collections::HashSet;
use std::ops::Range;

use super::Becomes;
use crate::budget::Budget;
use crate::envelope::member;
use crate::index_member::has_members;
use crate::index_member::{PREVIOUS, Siblings};
use crate::scan::{Kind, Tape, unescape};
use crate::schema::{Field, Schema};
use crate::select::{Child, Step};
use crate::splice::Edit;

/// Bits of [`Mender::marks`].
const TEXT: u8 = 1;
const OPTIONAL: u8 = 2;
/// A place inside is marked.
const INSIDE: u8 = 4;
/// What a look at a description costs, and what each node in it adds, in units of work.
const LOOK: u64 = 32;
const NODE: u64 = 2;

/// One type description, and where it was found.
#[derive(Clone, Copy)]
struct Place {
    /// Its node.
    node: u32,
    /// It is one of a struct's fields.
    field: bool,
    /// The description it is the items of.
    array: Option<(u32, bool)>,
}

#[derive(Default)]
pub(in crate::transform) struct Mender {
    /// The schema part that `mended` and `marks` were made from.
    source: Vec<u8>,
    mended: Vec<u8>,
    /// Per node of it, counted from its first.
    marks: Vec<u8>,
    siblings: Siblings,
    text: Vec<u8>,
}

impl Mender {
    /// The schema part after [`Mender::mend`].
    pub(in crate::transform) fn mended(&self) -> &[u8] {
        &self.mended
    }

    /// Makes the schema part fit what the fields make of the payload; `false` when it cannot, or
    /// not within the budget. `rotating`: whether a field has two indexes now.
    pub(in crate::transform) fn mend(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        schema: u32,
        rules: &Schema,
        rotating: impl Fn(usize) -> bool,
        budget: &mut Budget,
    ) -> bool {
        let source = &doc[tape.nodes()[schema as usize].span()];
        if !self.source.is_empty() && self.source == source {
            return true;
        }
        self.source.clear();
        let marks = vec![0; (tape.nodes()[schema as usize].next - schema) as usize];
        let mut marking = Marking { doc, tape, schema, marks, added: Vec::new(), budget };
        for (i, (field, steps)) in rules.fields.iter().zip(&rules.enveloped).enumerate() {
            if !marking.field(field, steps, rotating(i)) {
                return false;
            }
        }
        marking.spread();
        let Marking { marks, added, .. } = marking;
        self.marks = marks;
        self.mended.clear();
        Writer { doc, tape, schema, marks: &self.marks, added: &added }.write(&mut self.mended);
        self.source.extend_from_slice(source);
        true
    }

    /// Whether every value of the payload whose type is an optional string now is one, or null;
    /// where the document says what the schema part is, whether every other value is of its type
    /// too. `false` also when the budget does not last.
    pub(in crate::transform) fn fits(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        (schema, payload): (u32, u32),
        edits: &[Edit],
        rules: &Schema,
        budget: &mut Budget,
    ) -> bool {
        self.siblings.clear();
        let marks = std::mem::take(&mut self.marks);
        let (siblings, text) = (&mut self.siblings, &mut self.text);
        let strict = rules.written.is_some();
        let fits = Fitting {
            doc,
            tape,
            schema,
            marks: &marks,
            edits,
            rules,
            strict,
            siblings,
            text,
            budget,
        }
        .value(payload, schema);
        self.marks = marks;
        fits
    }
}

/// What going through all there is in a node costs.
fn cost(tape: &Tape, node: u32) -> u64 {
    LOOK + NODE * u64::from(tape.nodes()[node as usize].next - node)
}

/// A type's name.
fn type_of<'d>(doc: &'d [u8], tape: &Tape, node: u32) -> &'d [u8] {
    let name = member(doc, tape, node, b"type")
        .map(|node| tape.nodes()[node as usize])
        .filter(|node| node.kind == Kind::String);
    name.map_or(b"", |node| &doc[node.inner()])
}

/// The fields of a struct's description: each with the node of its name.
fn fields<'t>(doc: &'t [u8], tape: &'t Tape, node: u32) -> impl Iterator<Item = (u32, u32)> + 't {
    let list = member(doc, tape, node, b"fields")
        .filter(|list| tape.nodes()[*list as usize].kind == Kind::Array);
    let fields = list.into_iter().flat_map(|list| tape.children(list));
    fields.filter_map(move |field| {
        let name = member(doc, tape, field, b"field")?;
        (tape.nodes()[name as usize].kind == Kind::String).then_some((field, name))
    })
}

/// The description of a map's values, where the map is written as an object.
fn values(doc: &[u8], tape: &Tape, node: u32) -> Option<u32> {
    let keys = member(doc, tape, node, b"keys")?;
    if type_of(doc, tape, keys) == b"string" { member(doc, tape, node, b"values") } else { None }
}

/// Finds the descriptions of what the paths may select.
struct Marking<'d> {
    doc: &'d [u8],
    tape: &'d Tape,
    schema: u32,
    marks: Vec<u8>,
    /// Descriptions of index members: behind which node, and what.
    added: Vec<(u32, Vec<u8>)>,
    budget: &'d mut Budget,
}

impl Marking<'_> {
    fn field(&mut self, field: &Field, steps: &[Step], rotating: bool) -> bool {
        // The first step is the payload.
        let Some((_, steps)) = steps.split_first() else { return false };
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        self.find(
            Place { node: self.schema, field: false, array: None },
            steps,
            &mut seen,
            &mut found,
        );
        if self.budget.is_overdrawn() {
            return false;
        }
        for place in found {
            let mark = match Becomes::of(field) {
                Becomes::Text => TEXT,
                Becomes::Optional => OPTIONAL,
                Becomes::Same => 0,
            };
            self.marks[(place.node - self.schema) as usize] |= mark;
            if has_members(field) && !self.add_index(field, place, rotating) {
                return false;
            }
        }
        true
    }

    fn find(
        &mut self,
        place: Place,
        steps: &[Step],
        seen: &mut HashSet<(u32, usize)>,
        found: &mut Vec<Place>,
    ) {
        if !seen.insert((place.node, steps.len())) || !self.budget.charge(LOOK) {
            return;
        }
        let Some((step, rest)) = steps.split_first() else {
            found.push(place);
            return;
        };
        if !self.budget.charge(cost(self.tape, place.node)) {
            return;
        }
        for (child, inner) in self.children(place) {
            if step.may_select(child.as_child()) {
                self.find(inner, rest, seen, found);
            }
            if step.descendant {
                self.find(inner, steps, seen, found);
            }
        }
    }

    fn children(&self, place: Place) -> Vec<(Named, Place)> {
        let Place { node, field, .. } = place;
        let plain = |node| Place { node, field: false, array: None };
        match type_of(self.doc, self.tape, node) {
            b"struct" => fields(self.doc, self.tape, node)
                .map(|(field, name)| {
                    (Named::Member(self.name(name)), Place { field: true, ..plain(field) })
                })
                .collect(),
            b"array" => {
                let items = member(self.doc, self.tape, node, b"items");
                items
                    .map(|items| {
                        (Named::Elements, Place { array: Some((node, field)), ..plain(items) })
                    })
                    .into_iter()
                    .collect()
            }
            b"map" => values(self.doc, self.tape, node)
                .map(|values| (Named::Members, plain(values)))
                .into_iter()
                .collect(),
            _ => Vec::new(),
        }
    }

    fn name(&self, node: u32) -> Vec<u8> {
        let mut name = Vec::new();
        unescape(&self.doc[self.tape.nodes()[node as usize].inner()], &mut name);
        name
    }

    /// Describes the members an index is written to; `false` when the schema part has one of that
    /// name. Beside members of a map there is nothing to describe.
    fn add_index(&mut self, field: &Field, place: Place, rotating: bool) -> bool {
        let (owner, of_array) = match place {
            Place { field: true, node, .. } => (node, false),
            Place { array: Some((array, true)), .. } => (array, true),
            _ => return true,
        };
        let Some(name) = member(self.doc, self.tape, owner, b"field") else { return true };
        let into = field.index.as_ref().and_then(|rule| rule.into.as_deref());
        for suffix in if rotating { &["", PREVIOUS][..] } else { &[""] } {
            let mut text = if of_array {
                br#"{"type":"array","items":{"type":"string","optional":true},"optional":true,"field":""#.to_vec()
            } else {
                br#"{"type":"string","optional":true,"field":""#.to_vec()
            };
            let start = text.len();
            match into {
                Some(into) => text.extend_from_slice(into.as_bytes()),
                None => text.extend(
                    [&self.doc[self.tape.nodes()[name as usize].inner()], b"_bidx"].concat(),
                ),
            }
            text.extend_from_slice(suffix.as_bytes());
            let mut index = Vec::new();
            unescape(&text[start..], &mut index);
            let list = self.tape.nodes()[owner as usize].parent;
            if !self.budget.charge(2 * cost(self.tape, list) + self.added.len() as u64) {
                return false;
            }
            let taken = self.tape.children(list).any(|other| {
                member(self.doc, self.tape, other, b"field")
                    .is_some_and(|node| self.name(node) == index)
            });
            if taken {
                return false;
            }
            text.extend_from_slice(b"\"}");
            if !self.added.contains(&(owner, text.clone())) {
                self.added.push((owner, text));
            }
        }
        true
    }

    /// Marks what has a mark inside, or gets a member more.
    fn spread(&mut self) {
        let nodes = self.tape.nodes();
        for rel in (1..self.marks.len()).rev() {
            if self.marks[rel] != 0 {
                let parent = nodes[rel + self.schema as usize].parent;
                self.marks[(parent - self.schema) as usize] |= INSIDE;
            }
        }
        self.added.sort();
    }
}

/// Whether the schema part describes a place that the path may select; `None`: that takes too much
/// work.
pub(super) fn describes(doc: &[u8], tape: &Tape, schema: u32, steps: &[Step]) -> Option<bool> {
    let mut budget = Budget::of_record(doc.len());
    let (_, steps) = steps.split_first()?;
    let mut marking =
        Marking { doc, tape, schema, marks: Vec::new(), added: Vec::new(), budget: &mut budget };
    let mut found = Vec::new();
    let root = Place { node: schema, field: false, array: None };
    marking.find(root, steps, &mut HashSet::new(), &mut found);
    (!budget.is_overdrawn()).then_some(!found.is_empty())
}

/// [`Child`] with its name in hand.
enum Named {
    Member(Vec<u8>),
    Members,
    Elements,
}

impl Named {
    fn as_child(&self) -> Child<'_> {
        match self {
            Self::Member(name) => Child::Member(name),
            Self::Members => Child::Members,
            Self::Elements => Child::Elements,
        }
    }
}

/// Writes the schema part with what was marked mended.
struct Writer<'d> {
    doc: &'d [u8],
    tape: &'d Tape,
    schema: u32,
    marks: &'d [u8],
    added: &'d [(u32, Vec<u8>)],
}

impl Writer<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        let nodes = self.tape.nodes();
        let root = nodes[self.schema as usize];
        let mut copied = root.start as usize;
        let mut added = self.added.iter().peekable();
        let mut at = self.schema;
        // Members are added behind descriptions in the order these end in; of one inside another,
        // the inner first.
        let mut waiting: Vec<(u32, &[u8])> = Vec::new();
        while at < root.next {
            self.add(nodes[at as usize].start, &mut waiting, &mut copied, out);
            while let Some((_, text)) = added.next_if(|(owner, _)| *owner == at) {
                waiting.push((nodes[at as usize].end, text));
            }
            let mark = self.marks[(at - self.schema) as usize];
            if mark & (TEXT | OPTIONAL) == 0 {
                at += 1;
                continue;
            }
            let span = nodes[at as usize].span();
            out.extend_from_slice(&self.doc[copied..span.start]);
            copied = span.end;
            if mark & TEXT != 0 {
                self.text(at, out)
            } else {
                self.optional(at, out)
            }
            let next = nodes[at as usize].next;
            // What was described inside is gone.
            while added.next_if(|(owner, _)| *owner < next).is_some() {}
            at = next;
        }
        self.add(root.end, &mut waiting, &mut copied, out);
        out.extend_from_slice(&self.doc[copied..root.end as usize]);
    }

    /// Writes what was waiting for a description that ended before `upto`.
    fn add(
        &self,
        upto: u32,
        waiting: &mut Vec<(u32, &[u8])>,
        copied: &mut usize,
        out: &mut Vec<u8>,
    ) {
        while let Some(first) = waiting.iter().map(|(end, _)| *end).filter(|end| *end <= upto).min()
        {
            if (first as usize) > *copied {
                out.extend_from_slice(&self.doc[*copied..first as usize]);
                *copied = first as usize;
            }
            waiting.retain(|(end, text)| {
                if *end == first {
                    out.push(b',');
                    out.extend_from_slice(text);
                }
                *end != first
            });
        }
    }

    fn text(&self, node: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"type":"string","optional":true"#);
        if let Some(name) = member(self.doc, self.tape, node, b"field") {
            out.extend_from_slice(br#","field":"#);
            out.extend_from_slice(&self.doc[self.tape.nodes()[name as usize].span()]);
        }
        out.push(b'}');
    }

    /// As it is, but for a default, which would stand for what is gone.
    fn optional(&self, node: u32, out: &mut Vec<u8>) {
        out.push(b'{');
        for child in self.tape.children(node) {
            let child = self.tape.nodes()[child as usize];
            if !self.tape.name_is(self.doc, &child, b"default")
                && !self.tape.name_is(self.doc, &child, b"optional")
            {
                let Range { start, end } = child.name();
                out.extend_from_slice(&self.doc[start - 1..end + 1]);
                out.push(b':');
                out.extend_from_slice(&self.doc[child.span()]);
                out.push(b',');
            }
        }
        out.extend_from_slice(br#""optional":true}"#);
    }
}

/// Compares a payload with its mended description.
struct Fitting<'d> {
    doc: &'d [u8],
    tape: &'d Tape,
    schema: u32,
    marks: &'d [u8],
    edits: &'d [Edit],
    rules: &'d Schema,
    /// Of what the engine does not change, too.
    strict: bool,
    siblings: &'d mut Siblings,
    text: &'d mut Vec<u8>,
    budget: &'d mut Budget,
}

impl Fitting<'_> {
    /// Depth is bounded by the scanner.
    fn value(&mut self, value: u32, description: u32) -> bool {
        if !self.budget.charge(LOOK) {
            return false;
        }
        let mark = self.marks[(description - self.schema) as usize];
        let kind = self.tape.nodes()[value as usize].kind;
        let edit =
            self.edits.binary_search_by_key(&value, |edit| edit.node).ok().map(|i| self.edits[i]);
        if kind == Kind::Null {
            return !self.strict
                || mark & (TEXT | OPTIONAL) != 0
                || is_optional(self.doc, self.tape, description);
        }
        if let Some(edit) = edit {
            let becomes = self.rules.fields.get(usize::from(edit.field)).map(Becomes::of);
            return match becomes {
                Some(Becomes::Text) => mark & TEXT != 0,
                Some(Becomes::Same) => mark & TEXT == 0,
                _ => mark & (TEXT | OPTIONAL) != 0,
            };
        }
        if mark & TEXT != 0 {
            return kind == Kind::String;
        }
        if self.strict {
            return is_of_type(self.doc, self.tape, value, description)
                && self.children(value, description);
        }
        mark & INSIDE == 0 || self.children(value, description)
    }

    fn children(&mut self, value: u32, description: u32) -> bool {
        let (doc, tape) = (self.doc, self.tape);
        if !self.budget.charge(cost(tape, description)) {
            return false;
        }
        match (type_of(doc, tape, description), tape.nodes()[value as usize].kind) {
            (b"struct", Kind::Object) => fields(doc, tape, description).all(|(field, name)| {
                self.text.clear();
                unescape(&doc[tape.nodes()[name as usize].inner()], self.text);
                let found = self.siblings.find_text(doc, tape, value, self.text);
                let may_lack = !self.strict
                    || self.marks[(field - self.schema) as usize] & (TEXT | OPTIONAL) != 0
                    || is_optional(doc, tape, field);
                found.map_or(may_lack, |member| self.value(member, field))
            }),
            (b"array", Kind::Array) => match member(doc, tape, description, b"items") {
                Some(items) => tape.children(value).all(|element| self.value(element, items)),
                None => true,
            },
            (b"map", Kind::Object) => match values(doc, tape, description) {
                Some(values) => tape.children(value).all(|member| self.value(member, values)),
                None => true,
            },
            _ => true,
        }
    }
}

/// Whether a value may be missing.
fn is_optional(doc: &[u8], tape: &Tape, description: u32) -> bool {
    member(doc, tape, description, b"optional")
        .is_some_and(|node| &doc[tape.nodes()[node as usize].span()] == b"true")
}

/// Whether a value that is not null is of the type; what is in it is not looked at.
fn is_of_type(doc: &[u8], tape: &Tape, value: u32, description: u32) -> bool {
    let node = &tape.nodes()[value as usize];
    let integer = |least: i64, most: i64| {
        let text = std::str::from_utf8(&doc[node.span()]).unwrap_or_default();
        text.parse().is_ok_and(|n: i64| (least..=most).contains(&n))
    };
    match type_of(doc, tape, description) {
        b"int8" => integer(i8::MIN.into(), i8::MAX.into()),
        b"int16" => integer(i16::MIN.into(), i16::MAX.into()),
        b"int32" => integer(i32::MIN.into(), i32::MAX.into()),
        b"int64" => integer(i64::MIN, i64::MAX),
        b"float" | b"double" => node.kind == Kind::Number,
        b"boolean" => node.kind == Kind::Bool,
        b"string" | b"bytes" => node.kind == Kind::String,
        b"array" => node.kind == Kind::Array,
        b"struct" | b"map" => node.kind == Kind::Object,
        _ => false,
    }
}
