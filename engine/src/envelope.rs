//! Envelopes of Kafka Connect, `{"schema":..,"payload":..}` (`schemas.enable=true`): found, and
//! written around plain values.

use std::borrow::Cow;

use crate::scan::{Kind, Tape};
use crate::schema::Schema;

/// The envelope that a schema document has written around plain values.
#[derive(Debug, Clone)]
pub struct WrittenEnvelope {
    /// What stands before a value: `{"schema":..,"payload":`.
    head: Vec<u8>,
}

impl WrittenEnvelope {
    /// `schema`: a schema of Connect, as JSON.
    pub(crate) fn new(schema: &str) -> Self {
        Self { head: [b"{\"schema\":", schema.as_bytes(), b",\"payload\":"].concat() }
    }

    /// Bytes before a value.
    pub(crate) fn offset(&self) -> usize {
        self.head.len()
    }

    /// The value in its envelope; it replaces what was in `out`.
    pub(crate) fn write(&self, value: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.reserve(self.head.len() + value.len() + 1);
        out.extend_from_slice(&self.head);
        out.extend_from_slice(value);
        out.push(b'}');
    }
}

impl Schema {
    /// A value as the paths of this schema read it: in the envelope that it writes, unless the
    /// value has one.
    #[must_use]
    pub fn enveloped_value<'d>(&self, value: &'d [u8]) -> Cow<'d, [u8]> {
        let Some(written) = self.written.as_ref().filter(|_| payload(value).is_none()) else {
            return Cow::Borrowed(value);
        };
        let mut enveloped = Vec::new();
        written.write(value, &mut enveloped);
        Cow::Owned(enveloped)
    }

    /// A value without the envelope that this schema writes; as it is, where it has none.
    #[must_use]
    pub fn plain_value<'d>(&self, value: &'d [u8]) -> &'d [u8] {
        let payload = self.written.as_ref().and_then(|_| payload(value));
        payload.map_or(value, |payload| &value[payload])
    }

    /// The same in place.
    pub(crate) fn strip_envelope(&self, value: &mut Vec<u8>) {
        if let Some(payload) = self.written.as_ref().and_then(|_| payload(value)) {
            value.truncate(payload.end);
            value.drain(..payload.start);
        }
    }
}

/// Where the payload stands in a value, if that is an envelope.
fn payload(value: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut tape = Tape::default();
    tape.scan(value).ok()?;
    let (_, payload) = parts(value, &tape)?;
    Some(tape.nodes()[payload as usize].span())
}

/// The nodes of the schema part and the payload, where a value is an envelope: an object of these
/// two members, of which the first describes a type or is null.
pub(crate) fn parts(doc: &[u8], tape: &Tape) -> Option<(u32, u32)> {
    let nodes = tape.nodes();
    if nodes.first()?.kind != Kind::Object || nodes[0].count != 2 {
        return None;
    }
    let schema = member(doc, tape, 0, b"schema")?;
    let payload = member(doc, tape, 0, b"payload")?;
    let describes = match nodes[schema as usize].kind {
        Kind::Null => true,
        Kind::Object => member(doc, tape, schema, b"type")
            .is_some_and(|node| nodes[node as usize].kind == Kind::String),
        _ => false,
    };
    describes.then_some((schema, payload))
}

/// The member of that name.
pub(crate) fn member(doc: &[u8], tape: &Tape, object: u32, name: &[u8]) -> Option<u32> {
    let is_object = tape.nodes()[object as usize].kind == Kind::Object;
    tape.children(object)
        .filter(|_| is_object)
        .find(|child| tape.name_is(doc, &tape.nodes()[*child as usize], name))
}
