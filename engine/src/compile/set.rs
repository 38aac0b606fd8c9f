//! Several schemas that work together.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{Fault, Severity};
use crate::kdf;
use crate::record::Record;
use crate::schema::Schema;
use crate::token::FieldId;

/// Names nobody else's field id may equal.
const DEAD_LETTERS: [&str; 4] =
    ["dead_letter.record", "dead_letter.value", "dead_letter.key", "dead_letter.header"];

/// The schemas in force, an immutable snapshot.
#[derive(Debug, Default)]
pub struct SchemaSet {
    schemas: Vec<Arc<Schema>>,
    by_topic: HashMap<String, Vec<usize>>,
}

impl SchemaSet {
    /// A set of schemas.
    ///
    /// # Errors
    /// Faults between them: a name twice, a raw topic with two sanitized ones, a sanitized topic
    /// that is another's raw topic, several unconditional schemas on one topic, two names (of
    /// fields, record keys and headers) with one field id, subjects of several schemas without a
    /// domain. The pointer is the schema's name.
    pub fn new(schemas: Vec<Arc<Schema>>) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |schema: &Schema, message: String| {
            faults.push(Fault {
                pointer: schema.name.to_string(),
                message,
                severity: Severity::Error,
            });
        };
        let mut fids: HashMap<FieldId, &str> =
            DEAD_LETTERS.iter().map(|name| (kdf::field_id(name), *name)).collect();
        for (i, schema) in schemas.iter().enumerate() {
            for other in &schemas[..i] {
                if other.name == schema.name {
                    fault(schema, "two documents have this name; names are unique".to_owned());
                }
                if schema.from.is_some() && schema.from == other.from {
                    if schema.to != other.to {
                        fault(
                            schema,
                            format!(
                                "sends its raw topic elsewhere than {}; schemas that share a raw \
                                topic share the sanitized one",
                                other.name
                            ),
                        );
                    }
                    if schema.when.is_empty() || other.when.is_empty() {
                        fault(
                            schema,
                            format!(
                                "shares its raw topic with {}; both need a \"when\" that tells \
                                them apart",
                                other.name
                            ),
                        );
                    }
                }
            }
            if let Some(reader) = schemas.iter().find(|s| s.from.is_some() && s.from == schema.to) {
                fault(
                    schema,
                    format!(
                        "writes to the raw topic of {}; a sanitized topic is nobody's raw topic",
                        reader.name
                    ),
                );
            }
            for (fid, name) in schema.names() {
                if let Some(other) = fids.insert(fid, name)
                    && other != name
                {
                    fault(
                        schema,
                        format!("the names {name} and {other} have the same field id; rename one"),
                    );
                }
            }
            if let Some(other) =
                schemas.iter().find(|other| other.name != schema.name && !other.subjects.is_empty())
                && !schema.subjects.is_empty()
                && schema.subject_domain.is_none()
            {
                fault(
                    schema,
                    format!(
                        "names data subjects as {} does; say whose ids they are: \
                        \"subject_domain\": \"customers\", or \"\"",
                        other.name
                    ),
                );
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let mut by_topic: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, schema) in schemas.iter().enumerate() {
            if let Some(from) = &schema.from {
                by_topic.entry(from.clone()).or_default().push(i);
            }
        }
        Ok(Self { schemas, by_topic })
    }

    /// What may not become of the schemas of `before`: the subjects of one are counted in another
    /// domain, where the keys they have are not found and erasures do not reach them. The pointer
    /// is the schema's name.
    #[must_use]
    pub fn refused_changes(&self, before: &Self) -> Vec<Fault> {
        let domain = |schema: &Schema| schema.subject_domain.clone().unwrap_or_default();
        let named = |schema: &&Arc<Schema>| !schema.subjects.is_empty();
        let mut faults = Vec::new();
        for schema in self.schemas.iter().filter(named) {
            let Some(old) = before
                .get(&schema.name)
                .filter(named)
                .map(|old| domain(old))
                .filter(|old| *old != domain(schema))
            else {
                continue;
            };
            let message = format!(
                "counts its subjects in \"{old}\": they would lose their keys; leave \
                \"subject_domain\" as it is, or give the schema a new name"
            );
            faults.push(Fault {
                pointer: schema.name.to_string(),
                message,
                severity: Severity::Error,
            });
        }
        faults
    }

    /// Every schema, in the order given.
    #[must_use]
    pub fn schemas(&self) -> &[Arc<Schema>] {
        &self.schemas
    }

    /// The schema of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Schema>> {
        self.schemas.iter().find(|s| &*s.name == name)
    }

    /// Raw topics and where their records go.
    pub fn routes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.by_topic.iter().filter_map(|(from, schemas)| {
            Some((from.as_str(), self.schemas[*schemas.first()?].to.as_deref()?))
        })
    }

    /// The index of the schema that a tombstone is of. It has no value to judge `when` by:
    /// conditions on headers decide, and the schemas that are left must agree on keys and headers.
    #[must_use]
    pub fn tombstone_schema(&self, record: &Record<'_>) -> Option<usize> {
        let mut left = self
            .candidates(record.topic)
            .filter(|i| self.schemas[*i].takes_headers(record.headers));
        let first = left.next()?;
        left.all(|i| self.schemas[i].same_envelope(&self.schemas[first])).then_some(first)
    }

    /// Indexes of the schemas that may claim a record of `topic`; all when there is no topic
    /// (command line).
    pub(crate) fn candidates(&self, topic: Option<&str>) -> Candidates<'_> {
        match topic {
            None => Candidates::All(0..self.schemas.len()),
            Some(topic) => {
                Candidates::Some(self.by_topic.get(topic).map_or(&[][..], Vec::as_slice).iter())
            }
        }
    }
}

/// Iterator of [`SchemaSet::candidates`].
pub(crate) enum Candidates<'s> {
    All(std::ops::Range<usize>),
    Some(std::slice::Iter<'s, usize>),
}

impl Iterator for Candidates<'_> {
    type Item = usize;
    fn next(&mut self) -> Option<usize> {
        match self {
            Self::All(range) => range.next(),
            Self::Some(list) => list.next().copied(),
        }
    }
}
