//! Which roots schemas use, and the schemas that use a root.

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::KeyKind;
use veilstream_engine::schema::{IndexRule, Protect, Schema};

use crate::store::KeyRecord;

/// Roots that a schema names by version.
pub(super) fn pinned(schema: &Schema) -> Vec<(KeyKind, u32)> {
    let key = schema.key.iter().map(|k| (&k.protect, &k.index));
    let headers = schema.headers.iter().map(|h| (&h.protect, &h.index));
    let fields = schema.fields.iter().map(|f| (&f.protect, &f.index));
    let rules = fields.chain(key).chain(headers);
    rules
        .flat_map(|(protect, index)| {
            let root = if let Protect::Deterministic(root) = protect {
                Some((KeyKind::Deterministic, *root))
            } else {
                None
            };
            let pin = index
                .as_ref()
                .and_then(|IndexRule { root, .. }| *root)
                .map(|root| (KeyKind::Index, root));
            root.into_iter().chain(pin)
        })
        .collect()
}

/// The schemas that pin a root.
pub(super) fn pinned_by(root: &KeyRecord, schemas: &SchemaSet) -> Vec<String> {
    names(schemas, |schema| pins(schema, root))
}

/// The schemas that seal or index with an active root: those that pin it, and of an index root
/// those that pin none.
pub(super) fn used_by(root: &KeyRecord, schemas: &SchemaSet) -> Vec<String> {
    let follows = |schema: &Schema| {
        root.kind == KeyKind::Index
            && schema
                .fields
                .iter()
                .any(|f| f.index.as_ref().is_some_and(|index| index.root.is_none()))
    };
    names(schemas, |schema| pins(schema, root) || follows(schema))
}

fn pins(schema: &Schema, root: &KeyRecord) -> bool {
    pinned(schema).contains(&(root.kind, root.version))
}

fn names(schemas: &SchemaSet, which: impl Fn(&Schema) -> bool) -> Vec<String> {
    schemas
        .schemas()
        .iter()
        .filter(|schema| which(schema))
        .map(|schema| schema.name.to_string())
        .collect()
}
