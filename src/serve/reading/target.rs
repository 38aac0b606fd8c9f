//! What items ask for. Items that ask for the same share it: names are looked up once for each
//! target of a request, and not for each of its items.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use veilstream_engine::kdf;
use veilstream_engine::mask::ReadMask;
use veilstream_engine::schema::{Field, Schema};
use veilstream_engine::token::FieldId;

use super::request::{ItemKind, TokenItem};
use crate::policy::{FieldFacts, PolicySet};

/// What stands in the audit for a schema or field that does not exist.
pub(super) const UNKNOWN: &str = "unknown";

/// Fields of a schema, or the field of a token.
pub(super) struct Target<'r> {
    /// The name of its schema, for the audit; one that does not exist is the caller's text, and not
    /// for the log.
    pub(super) schema_name: &'r str,
    /// The schema of a record; `None`: there is no such schema.
    pub(super) schema: Option<&'r Schema>,
    /// The field of a token; `None`: there is no such field.
    pub(super) token: Option<TokenField<'r>>,
    /// The fields asked for, each once.
    pub(super) asked: Vec<Asked<'r>>,
    /// All of a schema is asked for: the caller named none of the fields.
    pub(super) is_whole: bool,
}

/// A field as asked for.
pub(super) struct Asked<'r> {
    /// `<schema>.<id>` and the like.
    pub(super) id: Arc<str>,
    /// Its place among the fields of the request.
    pub(super) place: usize,
    /// Where the caller's name of it within the item begins.
    name_at: usize,
    /// Its place in the schema of a record.
    pub(super) field: Option<usize>,
    /// What the audit calls it: its name in its schema. A name that does not exist is the caller's
    /// text, and not for the log.
    pub(super) audited: &'r str,
}

/// The field of a bare token.
pub(super) struct TokenField<'r> {
    pub(super) fid: FieldId,
    pub(super) mask: Option<ReadMask>,
    pub(super) subject_domain: Option<&'r str>,
    /// The field, where its form is another system's.
    pub(super) interop: Option<&'r Field>,
    pub(super) has_subject: bool,
}

/// By what targets are told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name<'r> {
    Nothing,
    Record(&'r str, Option<&'r [Cow<'r, str>]>),
    Token(&'r str),
}

/// The targets of a request.
pub(super) struct Targets<'r> {
    policies: &'r PolicySet,
    known: BTreeMap<Name<'r>, Rc<Target<'r>>>,
    /// Ids of the fields asked for, each once.
    fields: Vec<Arc<str>>,
    places: BTreeMap<Arc<str>, usize>,
}

impl<'r> Targets<'r> {
    pub(super) fn new(policies: &'r PolicySet) -> Self {
        Self { policies, known: BTreeMap::new(), fields: Vec::new(), places: BTreeMap::new() }
    }

    /// The target of an item.
    pub(super) fn of(&mut self, item: Option<&'r ItemKind<'r>>) -> Rc<Target<'r>> {
        let name = match item {
            None => Name::Nothing,
            Some(ItemKind::Record { schema, fields, .. }) => {
                Name::Record(schema, fields.as_deref())
            }
            Some(ItemKind::Token(TokenItem { field, .. })) => Name::Token(field),
        };
        if let Some(target) = self.known.get(&name) {
            return target.clone();
        }
        let target = Rc::new(match name {
            Name::Nothing => Target::nothing(),
            Name::Record(schema, fields) => self.record(schema, fields),
            Name::Token(field) => self.token(field),
        });
        self.known.insert(name, target.clone());
        target
    }

    /// Ids of the fields asked for, each once.
    pub(super) fn fields(&self) -> &[Arc<str>] {
        &self.fields
    }

    /// How many fields, and schemas as a whole, the request names. What is behind a name does not
    /// count: the limit would tell whether it exists.
    pub(super) fn named(&self) -> usize {
        let whole = self.known.values().filter(|target| target.is_whole).count();
        let others = self.known.values().filter(|target| !target.is_whole);
        let fields: BTreeSet<usize> =
            others.flat_map(|target| target.asked.iter().map(|asked| asked.place)).collect();
        whole + fields.len()
    }

    /// Names of the schemas, for the audit; each once.
    pub(super) fn schemas(&self) -> BTreeSet<&'r str> {
        self.known.values().map(|target| target.schema_name).collect()
    }

    fn record(&mut self, name: &str, fields: Option<&[Cow<'r, str>]>) -> Target<'r> {
        let mut schemas = self.policies.schemas().schemas().iter();
        let schema = schemas.find(|schema| *schema.name == *name).map(|schema| &**schema);
        let all = schema.map_or(&[][..], |schema| &schema.fields);
        let names: BTreeSet<&str> = match fields {
            Some(fields) => fields.iter().map(|field| &**field).collect(),
            None => all.iter().map(|field| &*field.id).collect(),
        };
        let ask = |field: &str| {
            let place = all.iter().position(|known| *known.id == *field);
            let audited = place.map_or(UNKNOWN, |place| &*all[place].id);
            self.asked(format!("{name}.{field}"), name.len() + 1, place, audited)
        };
        let asked = names.into_iter().map(ask).collect();
        let schema_name = schema.map_or(UNKNOWN, |schema| &*schema.name);
        Target { schema_name, schema, token: None, asked, is_whole: fields.is_none() }
    }

    fn token(&mut self, id: &str) -> Target<'r> {
        let policies = self.policies;
        let facts = policies.facts().iter().find(|facts| *facts.id == *id || *facts.name == *id);
        let token = facts.map(|facts| {
            let mut schemas = policies.schemas().schemas().iter();
            let schema = schemas.find(|schema| schema.name == facts.schema);
            TokenField {
                fid: kdf::field_id(&facts.name),
                mask: facts.mask,
                subject_domain: schema.and_then(|schema| schema.subject_domain.as_deref()),
                interop: schema
                    .and_then(|schema| schema.field(facts.name_in_schema()))
                    .filter(|field| field.interop.is_some()),
                has_subject: schema.is_some_and(|schema| !schema.subjects.is_empty()),
            }
        });
        let audited = facts.map_or(UNKNOWN, FieldFacts::name_in_schema);
        let schema_name = facts.map_or(UNKNOWN, |facts| &*facts.schema);
        let asked = vec![self.asked(id.to_owned(), 0, None, audited)];
        Target { schema_name, schema: None, token, asked, is_whole: false }
    }

    fn asked(
        &mut self,
        id: String,
        name_at: usize,
        field: Option<usize>,
        audited: &'r str,
    ) -> Asked<'r> {
        let id = Arc::<str>::from(id);
        let place = *self.places.entry(id.clone()).or_insert_with(|| {
            self.fields.push(id.clone());
            self.fields.len() - 1
        });
        Asked { id, place, name_at, field, audited }
    }
}

impl Target<'_> {
    /// That of no item.
    fn nothing() -> Self {
        let (asked, is_whole) = (Vec::new(), false);
        Self { schema_name: UNKNOWN, schema: None, token: None, asked, is_whole }
    }
}

impl Asked<'_> {
    /// As the caller named it within the item.
    pub(super) fn name(&self) -> &str {
        &self.id[self.name_at..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_ask_for_the_same_share_a_target() {
        let policies = PolicySet::load(&[], Arc::default(), &[]).unwrap();
        let record = |fields: &[&'static str]| {
            let fields = fields.iter().copied().map(Cow::Borrowed).collect();
            ItemKind::Record { schema: "people".into(), fields: Some(fields), record: b"{}" }
        };
        let token = |field: &'static str| {
            let (field, bind) = (field.into(), Vec::new());
            ItemKind::Token(TokenItem { field, token: "vs1.".into(), bind, subject: None })
        };
        let items = [
            record(&["email", "phone"]),
            token("people.email"),
            record(&["email", "phone"]),
            token("people.email"),
            record(&["phone"]),
            token("@email"),
        ];
        let mut targets = Targets::new(&policies);
        let of: Vec<_> = items.iter().map(|item| targets.of(Some(item))).collect();
        let shares: Vec<_> = of
            .iter()
            .map(|target| of.iter().position(|first| Rc::ptr_eq(first, target)).unwrap())
            .collect();
        assert_eq!(shares, [0, 1, 0, 1, 4, 5]);
        let fields: Vec<&str> = targets.fields().iter().map(|field| &**field).collect();
        assert_eq!(fields, ["people.email", "people.phone", "@email"]);
        let places = |target: &Target<'_>| -> Vec<_> {
            target.asked.iter().map(|asked| (asked.place, asked.name().to_owned())).collect()
        };
        let named = |place, name: &str| (place, name.to_owned());
        assert_eq!(places(&of[0]), [named(0, "email"), named(1, "phone")]);
        assert_eq!(places(&of[1]), [named(0, "people.email")]);
        assert_eq!(places(&of[4]), [named(1, "phone")]);
        assert_eq!(targets.schemas(), [UNKNOWN].into());
        assert!(targets.of(None).asked.is_empty());
    }
}
