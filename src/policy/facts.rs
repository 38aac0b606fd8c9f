//! What policies speak of: the fields of the live schema documents.

use std::collections::BTreeSet;
use std::sync::Arc;

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::mask::ReadMask;
use veilstream_engine::schema::{IndexRule, Protect, Schema};

/// One field as policies see it, in any version of its schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldFacts {
    /// `<schema>.<id>`, `<schema>#key` or `<schema>#header:<name>`: the id of the Cedar entity.
    pub id: Arc<str>,
    /// Name of its schema.
    pub schema: Arc<str>,
    /// Names that policies refer to, sorted.
    pub tags: Vec<Arc<str>>,
    /// What those see who may only mask; `None`: nothing.
    pub mask: Option<ReadMask>,
    /// Its cryptographic name.
    pub name: Arc<str>,
    /// Fields of one such name share their ciphertext: its cryptographic name, or the form of another
    /// system and the file of its keys, which tell fields apart no more than a domain does.
    pub shares: Arc<str>,
    /// Whether a token of it opens again.
    pub opens: bool,
    /// Whether equal values give equal text in its place.
    pub tells_equality: bool,
    /// How equal values are found; `None`: they are not.
    pub index: Option<IndexFacts>,
}

impl FieldFacts {
    /// Its name within its schema: a field's id, `#key` or `#header:<name>`.
    #[must_use]
    pub fn name_in_schema(&self) -> &str {
        self.id[self.schema.len()..].trim_start_matches('.')
    }

    /// Whose values a search compares: fields of one such name are searched as one.
    pub(super) fn compared_in(&self) -> Arc<str> {
        self.index.as_ref().map_or_else(|| self.name.clone(), |index| index.domain.clone())
    }
}

/// What a blind index says of the values behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexFacts {
    /// Whose values it compares: the field's own name, or `@<domain>`.
    pub domain: Arc<str>,
    /// The normaliser's name.
    pub normalize: String,
    /// How many distinct values the author expects.
    pub distinct: Option<u64>,
}

/// Fields, record keys and headers of every schema, sorted by id.
#[must_use]
pub fn facts(set: &SchemaSet) -> Vec<FieldFacts> {
    let mut facts: Vec<FieldFacts> = set.schemas().iter().flat_map(|s| of_schema(s)).collect();
    facts.sort_by(|a, b| a.id.cmp(&b.id));
    facts
}

/// The tags of these fields.
#[must_use]
pub(super) fn tags(facts: &[FieldFacts]) -> BTreeSet<&str> {
    facts.iter().flat_map(|field| &field.tags).map(|tag| &**tag).collect()
}

fn of_schema(schema: &Schema) -> Vec<FieldFacts> {
    let plain = |id: String, name: &str, protect: &Protect, index: Option<&IndexRule>| FieldFacts {
        id: id.into(),
        schema: schema.name.clone(),
        tags: Vec::new(),
        mask: None,
        name: name.into(),
        shares: name.into(),
        opens: protect.is_reversible(),
        tells_equality: matches!(protect, Protect::Deterministic(_) | Protect::Hash),
        index: index.map(|rule| IndexFacts {
            domain: rule.domain.as_str().into(),
            normalize: rule.normalize.to_string(),
            distinct: rule.distinct,
        }),
    };
    let fields = schema.fields.iter().map(|field| FieldFacts {
        tags: field.tags().to_vec(),
        mask: field.mask(),
        // No name has a white space or a colon.
        shares: match &field.interop {
            Some(interop) => format!("interop: {interop}").into(),
            None => field.name.as_str().into(),
        },
        ..plain(
            format!("{}.{}", schema.name, field.id),
            &field.name,
            &field.protect,
            field.index.as_ref(),
        )
    });
    let key = schema.key.iter().map(|key| {
        plain(format!("{}#key", schema.name), &key.name, &key.protect, key.index.as_ref())
    });
    let headers = schema.headers.iter().map(|header| {
        plain(
            format!("{}#header:{}", schema.name, header.header),
            &header.name,
            &header.protect,
            header.index.as_ref(),
        )
    });
    fields.chain(key).chain(headers).collect()
}
