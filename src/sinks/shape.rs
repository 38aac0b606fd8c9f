//! The shape of sanitized records. Learnt from events that went through the engine: names and
//! types, never values.

use std::collections::HashMap;

use serde_json::Value;
use veilstream_engine::scan::{Kind, Tape};
use veilstream_engine::schema::{Field, Protect, Schema, ValueType};
use veilstream_engine::select::{self, Selection, Selector, Step};
use veilstream_engine::token::Suite;

use super::error::SinkError;
use crate::cases::Sanitized;

/// Pad of suite 3, whatever the field says.
const DETERMINISTIC_PAD: u16 = 16;

/// What a place is to protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// As it came, or coarser.
    Plain,
    /// Tokens of the field with that index in the schema.
    Token(usize),
    /// Blind indexes.
    Index,
}

/// What stands in a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing but null so far.
    Unknown,
    /// `true`, `false`.
    Boolean,
    /// Numbers without fraction and exponent that have 64 bits.
    Integer,
    /// Other numbers.
    Number,
    /// Strings.
    Text,
    /// Lists, of what all elements are.
    List(Box<Place>),
    /// Members, in the order in which they came.
    Object(Vec<(String, Place)>),
    /// Two kinds of value, as they are called in messages.
    Mixed(&'static str, &'static str),
    /// A number or boolean, as it is called in messages, and the id of a field whose filter may
    /// make it a token in other events.
    Filtered(&'static str, String),
}

/// One place of sanitized records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What stands there.
    pub content: Content,
    /// What it is to protection.
    pub role: Role,
}

impl Place {
    /// Marks numbers and booleans that may be a token in other events. `at`: where it is.
    fn doubt(&mut self, at: &mut Vec<Step>, filtered_by: &impl Fn(&[Step]) -> Option<String>) {
        let described = described(self);
        let mut below = |place: &mut Self, selector: Selector| {
            at.push(Step { descendant: false, selectors: vec![selector] });
            place.doubt(at, filtered_by);
            at.pop();
        };
        match &mut self.content {
            Content::Object(members) => {
                let members = members.iter_mut();
                members.for_each(|(name, place)| below(place, Selector::Name(name.clone())));
            }
            Content::List(of) => below(of, Selector::Wildcard),
            Content::Boolean | Content::Integer | Content::Number => {
                if let Some(field) = filtered_by(at) {
                    self.content = Content::Filtered(described, field);
                }
            }
            _ => {}
        }
    }
}

/// The shape of a schema's sanitized records.
#[derive(Debug, Clone)]
pub struct Shape {
    /// The record.
    pub root: Place,
    /// By index of the field in the schema: it had a value in some event.
    seen: Vec<bool>,
    events: usize,
}

impl Shape {
    /// Of a schema none of whose records were seen.
    #[must_use]
    pub fn new(schema: &Schema) -> Self {
        let root = Place { content: Content::Unknown, role: Role::Plain };
        Self { root, seen: vec![false; schema.fields.len()], events: 0 }
    }

    /// Learns from one record.
    ///
    /// # Errors
    /// [`SinkError::NotAnObject`].
    pub fn learn(&mut self, schema: &Schema, record: &Sanitized) -> Result<(), SinkError> {
        let doc = record.protected.as_slice();
        let (mut tape, mut selection) = (Tape::default(), Selection::default());
        // The engine wrote it, so it is JSON, and its paths select.
        let is_read = tape.scan(doc).is_ok()
            && schema.program.select(doc, &tape, &mut selection).is_ok()
            && !tape.nodes().is_empty();
        if !is_read {
            return Err(SinkError::NotAnObject);
        }
        let hits = selection.hits.iter().filter(|hit| usize::from(hit.path) < schema.fields.len());
        let fields: HashMap<u32, usize> =
            hits.map(|hit| (hit.node, usize::from(hit.path))).collect();
        for (node, field) in &fields {
            self.seen[*field] |= tape.nodes()[*node as usize].kind != Kind::Null;
        }
        let revealed: Value =
            serde_json::from_slice(&record.revealed).map_err(|_| SinkError::NotAnObject)?;
        let walk = Walk { doc, tape: &tape, fields, schema };
        let start = if schema.envelope.is_some() { walk.payload() } else { Some(0) };
        let Some(start) = start else { return Err(SinkError::NotAnObject) };
        let has_envelope = schema.envelope.is_some() && schema.written.is_none();
        let opened = if has_envelope { revealed.get("payload") } else { Some(&revealed) };
        self.root = merged(self.root.clone(), walk.place(start, opened));
        self.events += 1;
        Ok(())
    }

    /// Looks whether enough was seen: each field that leaves something in the record. From then on
    /// a number or boolean that a filter may make a token in other events is [`Content::Filtered`].
    ///
    /// # Errors
    /// [`SinkError::NoEvents`], [`SinkError::Unseen`].
    pub fn complete(&mut self, schema: &Schema) -> Result<(), SinkError> {
        if self.events == 0 {
            return Err(SinkError::NoEvents);
        }
        let unseen = schema
            .fields
            .iter()
            .zip(&self.seen)
            .find(|(field, seen)| !**seen && field.protect != Protect::Drop);
        if let Some((field, _)) = unseen {
            let (field, path) = (field.id.to_string(), field.path.clone());
            return Err(SinkError::Unseen { field, path });
        }
        let becomes_text = |field: &&Field| {
            matches!(field.protect, Protect::Encrypt | Protect::Deterministic(_) | Protect::Hash)
        };
        let texts = schema.fields.iter().filter(becomes_text);
        let texts: Vec<_> = texts.map(|field| (field, select::parse(&field.path).ok())).collect();
        // The paths were parsed before; one that is not could select anything.
        let filtered_by = |place: &[Step]| {
            let mut texts = texts.iter();
            let by =
                texts.find(|(_, path)| path.as_ref().is_none_or(|path| path.may_select(place)));
            by.map(|(field, _)| field.id.to_string())
        };
        self.root.doubt(&mut Vec::new(), &filtered_by);
        Ok(())
    }
}

/// A document on its way to a shape.
struct Walk<'a> {
    doc: &'a [u8],
    tape: &'a Tape,
    /// By node: the field that selects it.
    fields: HashMap<u32, usize>,
    schema: &'a Schema,
}

impl Walk<'_> {
    /// The payload of a Connect envelope.
    fn payload(&self) -> Option<u32> {
        self.tape.children(0).find(|child| self.name(*child).as_deref() == Some("payload"))
    }

    fn name(&self, node: u32) -> Option<String> {
        let node = self.tape.nodes()[node as usize];
        let quoted = node.name().start.checked_sub(1)?..node.name().end + 1;
        serde_json::from_slice(self.doc.get(quoted)?).ok()
    }

    /// What the node is. `opened`: the same place with tokens opened and indexes gone.
    fn place(&self, node: u32, opened: Option<&Value>) -> Place {
        let role = match self.fields.get(&node).map(|field| (*field, &self.schema.fields[*field])) {
            Some((field, rule)) => match rule.protect {
                Protect::Encrypt | Protect::Deterministic(_) => Role::Token(field),
                Protect::Hash => Role::Index,
                _ => Role::Plain,
            },
            // Reveal takes away what transform added.
            None if opened.is_none() => Role::Index,
            None => Role::Plain,
        };
        let kind = self.tape.nodes()[node as usize].kind;
        let content = match kind {
            Kind::Null => Content::Unknown,
            Kind::Bool => Content::Boolean,
            Kind::String => Content::Text,
            Kind::Number => {
                let span = self.tape.nodes()[node as usize].span();
                let is_integer = std::str::from_utf8(&self.doc[span])
                    .is_ok_and(|text| text.parse::<i64>().is_ok());
                if is_integer { Content::Integer } else { Content::Number }
            }
            Kind::Array => Content::List(Box::new(self.elements(node, opened))),
            Kind::Object => {
                let mut members = Vec::new();
                for child in self.tape.children(node) {
                    let Some(name) = self.name(child) else { continue };
                    let below = opened.and_then(|value| value.get(&name));
                    members.push((name, self.place(child, below)));
                }
                Content::Object(members)
            }
        };
        Place { content, role }
    }

    /// What all elements of a list are.
    fn elements(&self, list: u32, opened: Option<&Value>) -> Place {
        let none = Place { content: Content::Unknown, role: Role::Plain };
        let elements = self.tape.children(list).enumerate();
        elements.fold(none, |all, (i, child)| {
            merged(all, self.place(child, opened.and_then(|value| value.get(i))))
        })
    }
}

/// What both are.
fn merged(one: Place, other: Place) -> Place {
    let mixed = Content::Mixed(described(&one), described(&other));
    // A string that is a token in some events only is a string.
    let role = if one.role == other.role { one.role } else { Role::Plain };
    let content = match (one.content, other.content) {
        (Content::Unknown, content) => return Place { content, role: other.role },
        (content, Content::Unknown) => return Place { content, role: one.role },
        (mixed @ Content::Mixed(..), _) | (_, mixed @ Content::Mixed(..)) => mixed,
        (Content::Integer | Content::Number, Content::Number)
        | (Content::Number, Content::Integer) => Content::Number,
        (Content::List(ours), Content::List(theirs)) => {
            Content::List(Box::new(merged(*ours, *theirs)))
        }
        (Content::Object(ours), Content::Object(theirs)) => Content::Object(members(ours, theirs)),
        (ours, theirs) if ours == theirs => ours,
        _ => mixed,
    };
    Place { content, role }
}

/// The members of both.
fn members(mut ours: Vec<(String, Place)>, theirs: Vec<(String, Place)>) -> Vec<(String, Place)> {
    for (name, theirs) in theirs {
        match ours.iter_mut().find(|(other, _)| *other == name) {
            Some((_, place)) => *place = merged(place.clone(), theirs),
            None => ours.push((name, theirs)),
        }
    }
    ours
}

/// Characters of the shortest token of a field.
pub(super) fn shortest_token(field: &Field) -> usize {
    match field.protect {
        _ if let Some(interop) = &field.interop => interop.form.chars(0),
        Protect::Deterministic(_) => Suite::AesSiv.token_chars(DETERMINISTIC_PAD, 0),
        _ => Suite::AesGcm.token_chars(field.pad, 0),
    }
}

/// Characters of the longest token of a field, where its values have a longest text.
pub(super) fn longest_token(field: &Field) -> Option<usize> {
    // Texts, numbers, lists and objects have none.
    let longest = match field.value_type? {
        ValueType::Boolean => "false".len(),
        _ => return None,
    };
    Some(match field.protect {
        _ if let Some(interop) = &field.interop => interop.form.chars(longest),
        Protect::Deterministic(_) => Suite::AesSiv.token_chars(DETERMINISTIC_PAD, longest),
        _ => Suite::XaesGcm.token_chars(field.pad, longest),
    })
}

fn described(place: &Place) -> &'static str {
    match (place.role, &place.content) {
        (_, Content::Unknown) => "null",
        (_, Content::Mixed(one, _) | Content::Filtered(one, _)) => one,
        (Role::Token(_), _) => "a token",
        (Role::Index, Content::Text) => "a blind index",
        (_, Content::Boolean) => "a boolean",
        (_, Content::Integer | Content::Number) => "a number",
        (_, Content::Text) => "a string",
        (_, Content::List(_)) => "a list",
        (_, Content::Object(_)) => "an object",
    }
}
