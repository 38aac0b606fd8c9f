//! Revealing with values that somebody else opened: the record keeps its bytes, and each protected
//! place is as the answer says.

use std::borrow::Cow;
use std::ops::Range;

use super::paths::value_path;
use super::{Keys, Report, RevealOptions, Revealer, Status};
use crate::error::{OpenError, Reject};
use crate::keyring::Keyring;
use crate::schema::{Field, Schema};
use crate::token;

/// What somebody else says of a protected place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered<'a> {
    /// [`Status::Revealed`] and [`Status::Masked`] come with a value.
    pub status: Status,
    /// A JSON text.
    pub value: Option<&'a [u8]>,
}

/// A protected place of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProtectedPlace {
    /// Index of the field in the schema.
    pub field: usize,
    /// Normalized path (RFC 9535).
    pub path: String,
    /// Where its value stands.
    pub span: Range<usize>,
}

/// Somebody else who opened a record.
pub trait Answers {
    /// What is said of a place: the index of its field in the schema, and its normalized path.
    fn of(&self, field: usize, path: &str) -> Answered<'_>;
}

impl Revealer {
    /// The protected places of a document, in its order, whatever stands there.
    ///
    /// # Errors
    /// As [`Revealer::reveal`].
    pub fn places(&mut self, schema: &Schema, doc: &[u8]) -> Result<Vec<ProtectedPlace>, Reject> {
        let enveloped = schema.enveloped_value(doc);
        // Of what stands before the value.
        let offset = match &enveloped {
            Cow::Owned(_) => schema.written.as_ref().map_or(0, |written| written.offset()),
            Cow::Borrowed(_) => 0,
        };
        let doc = &*enveloped;
        self.select(schema, doc)?;
        let (mut places, mut covered_to) = (Vec::new(), 0);
        for hit in &self.selection.hits {
            let field = usize::from(hit.path);
            if field >= schema.fields.len() || hit.node < covered_to {
                continue;
            }
            let node = self.tape.nodes()[hit.node as usize];
            covered_to = node.next;
            let path = value_path(schema, &self.tape, doc, hit.node);
            let Range { start, end } = node.span();
            places.push(ProtectedPlace { field, path, span: start - offset..end - offset });
        }
        Ok(places)
    }

    /// [`Revealer::reveal`] with what somebody else opened. What is no token of its field is told
    /// as such, whatever the answer says.
    ///
    /// # Errors
    /// As [`Revealer::reveal`].
    pub fn reveal_answered(
        &mut self,
        schema: &Schema,
        answers: &dyn Answers,
        doc: &[u8],
        options: &RevealOptions<'_>,
        out: &mut Vec<u8>,
        report: &mut Report,
    ) -> Result<(), Reject> {
        let keyring = Keyring::new("", []);
        let keys = Keys { keyring: &keyring, lookup: &|_| None };
        self.reveal_with(schema, &keys, Some(answers), doc, options, out, report)
    }

    /// What the answer says of a token, whose value then is the payload.
    pub(super) fn answered(
        &mut self,
        answers: &dyn Answers,
        schema: &Schema,
        (index, field): (usize, &Field),
        doc: &[u8],
        node: u32,
    ) -> Status {
        let token = &doc[self.tape.nodes()[node as usize].inner()];
        match token::decode(token, &mut self.payload) {
            // A form that tells no field: the caller looked at it.
            _ if field.interop.is_some() => {}
            Err(error) => return Status::Failed(error),
            Ok(header) if header.fid != field.fid => {
                return Status::Failed(OpenError::FieldMismatch);
            }
            Ok(_) => {}
        }
        let Answered { status, value } =
            answers.of(index, &value_path(schema, &self.tape, doc, node));
        match (status, value) {
            (Status::Revealed | Status::Masked, Some(value)) => {
                self.payload.clear();
                self.payload.extend_from_slice(value);
                status
            }
            (Status::Revealed | Status::Masked, None) => Status::Failed(OpenError::Corrupt),
            (other, _) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{Grants, compile};
    use crate::key::KeyId;
    use crate::token::{Header, Suite};

    const DOCUMENT: &[u8] = br#"{"veilstream":1,"name":"people","version":1,"fields":[
        {"id":"email","path":"$.email","index":{"normalize":"email"}},{"id":"phone","path":"$..phone"}]}"#;

    struct Said<F>(F);

    impl<F: Fn(usize, &str) -> Answered<'static>> Answers for Said<F> {
        fn of(&self, field: usize, path: &str) -> Answered<'_> {
            (self.0)(field, path)
        }
    }

    fn token_of(schema: &Schema, id: &str) -> String {
        let fid = schema.field(id).unwrap().fid;
        let mut raw =
            Header { suite: Suite::XaesGcm, flags: 0, kid: KeyId([7; 16]), fid }.encode().to_vec();
        raw.extend_from_slice(&[0; 60]);
        let mut text = Vec::new();
        token::encode(&raw, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn places_are_as_the_answer_says_and_all_else_keeps_its_bytes() {
        let schema = compile(DOCUMENT, &Grants::local()).unwrap().schema;
        let (email, phone) = (token_of(&schema, "email"), token_of(&schema, "phone"));
        let doc = format!(
            r#"{{"email": "{email}","email_bidx":"1~aaaaaaaaaaaaaaaaaaaaaa","n":1.50,
            "all":[{{"phone":"{phone}"}},{{"phone":"{email}"}},{{"phone":"{phone}"}},{{"phone":"vs1.x"}}],"phone":null}}"#
        );
        let mut revealer = Revealer::default();
        let places = revealer.places(&schema, doc.as_bytes()).unwrap();
        let paths: Vec<&str> = places.iter().map(|place| &*place.path).collect();
        assert_eq!(
            paths,
            [
                "$['email']",
                "$['all'][0]['phone']",
                "$['all'][1]['phone']",
                "$['all'][2]['phone']",
                "$['all'][3]['phone']",
                "$['phone']"
            ]
        );
        assert_eq!(&doc[places[5].span.clone()], "null");
        let answers = Said(|field: usize, path: &str| match (field, path) {
            (0, "$['email']") => {
                Answered { status: Status::Revealed, value: Some(br#"{"phone":2.0}"#) }
            }
            (1, "$['all'][0]['phone']") => {
                Answered { status: Status::Masked, value: Some(b"\"****\"") }
            }
            (1, "$['all'][2]['phone']") => Answered { status: Status::Revealed, value: None },
            _ => Answered { status: Status::Withheld, value: None },
        });
        let (mut out, mut report) = (Vec::new(), Report::default());
        let options = RevealOptions::default();
        revealer
            .reveal_answered(&schema, &answers, doc.as_bytes(), &options, &mut out, &mut report)
            .unwrap();
        let expected = format!(
            r#"{{"email": {{"phone":2.0}},"n":1.50,
            "all":[{{"phone":"****"}},{{"phone":"{email}"}},{{"phone":"{phone}"}},{{"phone":"vs1.x"}}],"phone":null}}"#
        );
        assert_eq!(String::from_utf8(out.clone()).unwrap(), expected);
        let statuses: Vec<&str> = report.fields.iter().map(|(_, status)| status.as_str()).collect();
        assert_eq!(
            statuses,
            ["revealed", "masked", "field_mismatch", "corrupt", "malformed", "no_token"]
        );
        // A place that nobody asked about is no place of the answer.
        let options = RevealOptions { fields: Some(&["email".to_owned()]), keep_indexes: true };
        revealer
            .reveal_answered(&schema, &answers, doc.as_bytes(), &options, &mut out, &mut report)
            .unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("email_bidx") && text.contains(&phone), "{text}");
        assert_eq!(report.fields[1].1, Status::Skipped);
    }
}
