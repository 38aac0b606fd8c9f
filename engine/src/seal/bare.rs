//! What is sealed of a value that stands in no record.

use super::{append_bound, canonical_json};
use crate::error::RejectCode;
use crate::scan::{Kind, Tape};
use crate::schema::{Field, Protect};
use crate::subject;

/// What a token of a field holds, and what it is tied to.
#[derive(Debug, PartialEq, Eq)]
pub struct BarePayload {
    /// The payload: a JSON text, of deterministic fields the canonical one.
    pub payload: Vec<u8>,
    /// The encoded bound values; `None`: the field is tied to nothing.
    pub binding: Option<Vec<u8>>,
}

impl BarePayload {
    /// Checks a value as a record of the field's schema is checked. `value` and the values of
    /// `bind`, which come in any order, are JSON texts.
    ///
    /// # Errors
    /// The reason for which such a record would be rejected; [`RejectCode::MissingRequired`] also
    /// where `bind` names other values than the field does.
    pub fn new(field: &Field, value: &[u8], bind: &[(&str, &[u8])]) -> Result<Self, RejectCode> {
        let mut tape = Tape::default();
        tape.scan(value).map_err(|error| error.code)?;
        let node = tape.nodes().first().copied().ok_or(RejectCode::WrongType)?;
        let value = &value[node.span()];
        let is_null = node.kind == Kind::Null;
        let fits = field.value_type.is_none_or(|wanted| wanted.is_of(node.kind, value));
        if if is_null { !field.encrypt_null } else { !fits } {
            return Err(RejectCode::WrongType);
        }
        let mut payload = value.to_vec();
        if matches!(field.protect, Protect::Deterministic(_))
            && !canonical_json(value, &mut tape, &mut payload)
        {
            return Err(RejectCode::UnsupportedValue);
        }
        Ok(Self { payload, binding: binding(field, bind)? })
    }
}

fn binding(field: &Field, given: &[(&str, &[u8])]) -> Result<Option<Vec<u8>>, RejectCode> {
    if given.len() != field.bind.len() {
        return Err(RejectCode::MissingRequired);
    }
    let (mut encoded, mut scalar) = (Vec::new(), Vec::new());
    // The field's are sorted by name. As many as it has, and each of its: none twice, none else.
    for bind in &field.bind {
        let (_, json) =
            given.iter().find(|(name, _)| *name == bind.name).ok_or(RejectCode::MissingRequired)?;
        if !subject::scalar_text(json, &mut scalar) {
            return Err(RejectCode::WrongType);
        }
        append_bound(&bind.name, &scalar, &mut encoded);
    }
    Ok((!encoded.is_empty()).then_some(encoded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Grants, compile};

    const DOCUMENT: &[u8] = br#"{"veilstream":1,"name":"people","version":1,"fields":[
        {"id":"email","path":"$.email","type":"string"},{"id":"gone","path":"$.gone","null":"encrypt","type":"integer"},
        {"id":"ssn","path":"$.ssn","bind":[{"name":"b","path":"$.b"},{"name":"a","path":"$.a"}]},
        {"id":"card","path":"$.card","protect":"deterministic","root":1}]}"#;

    #[test]
    fn a_value_is_sealed_as_in_a_record() {
        let compiled = compile(DOCUMENT, &Grants::local()).unwrap();
        let of = |id: &str, value: &str, bind: &[(&str, &[u8])]| {
            BarePayload::new(compiled.schema.field(id).unwrap(), value.as_bytes(), bind)
        };
        let sealed = of("email", " \"ada\"\n", &[]).unwrap();
        assert_eq!((&*sealed.payload, sealed.binding), (&b"\"ada\""[..], None));
        assert_eq!(of("card", r#""\u0034""#, &[]).unwrap().payload, br#""4""#);
        assert_eq!(of("gone", "null", &[]).unwrap().payload, b"null");
        let mut encoded = Vec::new();
        append_bound("a", b"x", &mut encoded);
        append_bound("b", b"7", &mut encoded);
        let bound = of("ssn", "1", &[("b", b"7"), ("a", b"\"x\"")]).unwrap();
        assert_eq!(bound.binding, Some(encoded));
        for (id, value, bind, code) in [
            ("email", "null", &[][..], RejectCode::WrongType),
            ("email", "1", &[], RejectCode::WrongType),
            ("gone", "1.5", &[], RejectCode::WrongType),
            ("card", "1.5", &[], RejectCode::UnsupportedValue),
            ("email", "1", &[("a", &b"1"[..])], RejectCode::WrongType),
            ("email", "\"\"", &[("a", b"1")], RejectCode::MissingRequired),
            ("ssn", "1", &[("a", b"1")], RejectCode::MissingRequired),
            ("ssn", "1", &[("a", b"1"), ("a", b"1")], RejectCode::MissingRequired),
            ("ssn", "1", &[("a", b"1"), ("b", b"1.5")], RejectCode::WrongType),
        ] {
            assert_eq!(of(id, value, bind), Err(code), "{id} {value}");
        }
    }
}
