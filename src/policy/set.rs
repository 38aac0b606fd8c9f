//! A snapshot: policies, fields, tags, masks and purposes that were judged together.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cedar_policy as cedar;
use serde_json::json;
use sha2::{Digest, Sha256};
use veilstream_engine::compile::SchemaSet;

use super::compile;
use super::entities::Entities;
use super::facts::{FieldFacts, facts};
use super::fault::{PolicyFault, PolicyFile, read_dir};
use super::kept::Kept;
use super::vocabulary::cedar_schema;
use crate::config::Purpose;

/// The policies in force with what they speak of: an immutable snapshot, parsed and validated once.
#[derive(Debug)]
pub struct PolicySet {
    hash: Arc<str>,
    document: String,
    schemas: Arc<SchemaSet>,
    facts: Vec<FieldFacts>,
    by_id: HashMap<Arc<str>, usize>,
    /// Fields that one ciphertext may belong to, by their cryptographic name.
    by_name: HashMap<Arc<str>, Vec<usize>>,
    /// Fields whose values one search compares, by the domain of their index.
    by_domain: HashMap<Arc<str>, Vec<usize>>,
    purposes: Vec<Purpose>,
    policies: Vec<PolicyPlace>,
    roles: BTreeSet<String>,
    pub(super) cedar: cedar::PolicySet,
    pub(super) entities: Entities,
    pub(super) kept: Kept,
}

/// One policy and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyPlace {
    /// Its annotation `@id("..")`, else its file's name and its number there: `support#2`.
    pub id: Arc<str>,
    /// Its file.
    pub file: PathBuf,
    /// Its first line, from 1.
    pub line: usize,
    /// Whether it forbids.
    pub forbids: bool,
}

impl PolicySet {
    /// The policies of a directory (`*.cedar`) over these schemas and purposes.
    ///
    /// # Errors
    /// Every fault of every file: not Cedar, not of the generated Cedar schema, a field, schema,
    /// tag or purpose that does not exist.
    pub fn open(
        dir: &Path,
        schemas: Arc<SchemaSet>,
        purposes: &[Purpose],
    ) -> Result<Self, Vec<PolicyFault>> {
        Self::load(&read_dir(dir)?, schemas, purposes)
    }

    /// Like [`PolicySet::open`], of files that were read before.
    ///
    /// # Errors
    /// As [`PolicySet::open`].
    pub fn load(
        files: &[PolicyFile],
        schemas: Arc<SchemaSet>,
        purposes: &[Purpose],
    ) -> Result<Self, Vec<PolicyFault>> {
        let facts = facts(&schemas);
        Self::of_facts(files, facts, schemas, purposes)
    }

    /// [`PolicySet::load`] with fields that need no document: for tests of what decides.
    pub(super) fn of_facts(
        files: &[PolicyFile],
        facts: Vec<FieldFacts>,
        schemas: Arc<SchemaSet>,
        purposes: &[Purpose],
    ) -> Result<Self, Vec<PolicyFault>> {
        let schema_text = cedar_schema(&facts);
        let compiled = compile::compile(files, &facts, purposes, &schema_text)?;
        let document = document(files, &facts, purposes);
        let entities = Entities::new(&facts).map_err(|error| {
            let place = files.first().map(|file| file.path.clone()).unwrap_or_default();
            vec![PolicyFault::whole(&place, error.to_string())]
        })?;
        Ok(Self {
            hash: hash(&document).into(),
            document,
            schemas,
            by_name: grouped(&facts, |field| field.shares.clone()),
            by_domain: grouped(&facts, FieldFacts::compared_in),
            by_id: facts.iter().zip(0..).map(|(field, i)| (field.id.clone(), i)).collect(),
            kept: Kept::new(entities.len()),
            facts,
            purposes: purposes.to_vec(),
            policies: compiled.places,
            roles: compiled.roles,
            cedar: compiled.cedar,
            entities,
        })
    }

    /// `sha256:` and 64 hex digits over [`PolicySet::document`]: equal policies, fields, tags,
    /// masks and purposes give equal hashes on every host.
    #[must_use]
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// What the hash is of: one JSON text with all that decides. Kept beside the audit log, it says
    /// later what was in force.
    #[must_use]
    pub fn document(&self) -> &str {
        &self.document
    }

    /// The schemas of this snapshot: what decides and what opens must be of one.
    #[must_use]
    pub fn schemas(&self) -> &Arc<SchemaSet> {
        &self.schemas
    }

    /// The fields, sorted by id.
    #[must_use]
    pub fn facts(&self) -> &[FieldFacts] {
        &self.facts
    }

    /// The configured purposes.
    #[must_use]
    pub fn purposes(&self) -> &[Purpose] {
        &self.purposes
    }

    /// Whether that purpose is configured.
    #[must_use]
    pub fn has_purpose(&self, name: &str) -> bool {
        self.purposes.iter().any(|purpose| purpose.name == name)
    }

    /// Every policy, in the order of files and lines.
    #[must_use]
    pub fn policies(&self) -> &[PolicyPlace] {
        &self.policies
    }

    /// The policy of that id.
    #[must_use]
    pub fn policy(&self, id: &str) -> Option<&PolicyPlace> {
        self.policies.iter().find(|policy| &*policy.id == id)
    }

    /// Roles that some policy names. No other role has an effect, and [`super::Request`] drops it.
    #[must_use]
    pub fn roles(&self) -> &BTreeSet<String> {
        &self.roles
    }

    /// The fields that one ciphertext may belong to, by a field's id or their name.
    pub(super) fn sharing(&self, field: &str) -> &[usize] {
        let name = self.position(field).map_or(field, |position| &self.facts[position].shares);
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// The fields that a search of this one compares with, itself among them.
    pub(super) fn compared_with(&self, position: usize) -> &[usize] {
        let domain = self.facts[position].compared_in();
        self.by_domain.get(&domain).map_or(&[], Vec::as_slice)
    }

    /// Index of a field in [`PolicySet::facts`].
    pub(super) fn position(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }
}

fn grouped(
    facts: &[FieldFacts],
    by: impl Fn(&FieldFacts) -> Arc<str>,
) -> HashMap<Arc<str>, Vec<usize>> {
    let mut groups: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
    for (field, i) in facts.iter().zip(0..) {
        groups.entry(by(field)).or_default().push(i);
    }
    groups
}

fn hash(document: &str) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(document) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// All that decides, in an order of its own: members sorted, files by name, fields by id.
fn document(files: &[PolicyFile], facts: &[FieldFacts], purposes: &[Purpose]) -> String {
    let mut policies: Vec<(String, &str)> =
        files.iter().map(|file| (file.name(), file.text.as_str())).collect();
    policies.sort();
    let policies: Vec<_> =
        policies.iter().map(|(name, text)| json!({ "file": name, "text": text })).collect();
    let fields: Vec<_> = facts
        .iter()
        .map(|field| {
            let mask = field
                .mask
                .map(|mask| json!({ "keep_first": mask.keep_first, "keep_last": mask.keep_last }));
            let tags: Vec<&str> = field.tags.iter().map(|tag| &**tag).collect();
            json!({ "id": &*field.id, "name": &*field.name, "tags": tags, "mask": mask })
        })
        .collect();
    let mut purposes: Vec<&Purpose> = purposes.iter().collect();
    purposes.sort_by(|a, b| a.name.cmp(&b.name));
    let purposes: Vec<_> = purposes
        .iter()
        .map(|purpose| {
            json!({
                "name": purpose.name,
                "reason_required": purpose.reason_required,
                "pattern": purpose.pattern.as_ref().map(|pattern| pattern.as_str()),
            })
        })
        .collect();
    let mut document =
        json!({ "veilstream": 1, "policies": policies, "fields": fields, "purposes": purposes });
    document.sort_all_objects();
    document.to_string()
}
