//! Which field a caller names.

use std::sync::Arc;

use veilstream::keys::{KeyFault, KeySource};
use veilstream_engine::Keyring;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::kdf;
use veilstream_engine::key::{KeyKind, Scope, SubjectRef};
use veilstream_engine::schema::{Field, IndexRule, Protect, Schema};
use veilstream_engine::seal::append_bound;
use veilstream_engine::subject::{self, Referrer};
use veilstream_engine::token::FieldId;
use veilstream_engine::transform::NeededKey;

use crate::fault::VeilFault;

/// A field, record key or header of a schema in force.
pub(crate) struct Target {
    /// As the caller named it.
    pub(crate) id: String,
    /// What the audit calls it: its name in its schema.
    pub(crate) audited: String,
    /// Its schema.
    pub(crate) schema: Arc<Schema>,
    /// What its tokens name.
    pub(crate) fid: FieldId,
    /// Its place in the schema; `None`: a record key, a header or a domain.
    field: Option<usize>,
}

/// What the schema says of a field: schema, id, names in `bind`, subject, optional subject, indexes
/// (member, bits, unique), deterministic, form.
pub(crate) type Facts =
    (String, String, Vec<String>, bool, bool, Vec<(Option<String>, u16, bool)>, bool, &'static str);

impl Target {
    /// The field of that name: `<schema>.<id>`, `<schema>#key`, `<schema>#header:<name>` or
    /// `@<domain>`.
    ///
    /// # Errors
    /// No schema in force has it.
    pub(crate) fn of(schemas: &SchemaSet, id: &str) -> Result<Self, VeilFault> {
        let mut found = schemas.schemas().iter().filter_map(|schema| Self::in_schema(schema, id));
        found.next().ok_or_else(|| VeilFault::UnknownField(id.chars().take(64).collect()))
    }

    fn in_schema(schema: &Arc<Schema>, id: &str) -> Option<Self> {
        let of = |audited: &str, fid: FieldId, field: Option<usize>| Self {
            id: id.to_owned(),
            audited: audited.to_owned(),
            schema: schema.clone(),
            fid,
            field,
        };
        let rest = id.strip_prefix(&*schema.name);
        if let Some(name) = rest.and_then(|rest| rest.strip_prefix('.'))
            && let Some(at) = schema.fields.iter().position(|field| &*field.id == name)
        {
            return Some(of(name, schema.fields[at].fid, Some(at)));
        }
        if let Some(key) = schema.key.as_ref().filter(|_| rest == Some("#key")) {
            return Some(of("#key", key.fid, None));
        }
        let named = |header: &str| rest == Some(format!("#header:{header}").as_str());
        if let Some(header) = schema.headers.iter().find(|header| named(&header.header)) {
            return Some(of(&format!("#header:{}", header.header), header.fid, None));
        }
        let is_domain = id.starts_with('@') && schema.names().any(|(_, name)| name == id);
        is_domain.then(|| of(id, kdf::field_id(id), None))
    }

    /// The field, where it is one of values.
    pub(crate) fn field(&self) -> Option<&Field> {
        self.field.map(|at| &self.schema.fields[at])
    }

    /// The field, where its form is another system's.
    pub(crate) fn interop(&self) -> Option<&Field> {
        self.field().filter(|field| field.interop.is_some())
    }

    /// Its index.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn index(&self) -> Result<&IndexRule, VeilFault> {
        let mut indexes = self.schema.indexes();
        let found = indexes.find(|(of, _)| *of == *self.audited);
        found.map(|(_, rule)| rule).ok_or_else(|| VeilFault::NotSearchable(self.id.clone()))
    }

    /// What the schema says of it.
    pub(crate) fn facts(&self) -> Facts {
        let binds = self.field().map_or_else(Vec::new, |field| {
            field.bind.iter().map(|bind| bind.name.clone()).collect()
        });
        let index = self.index().ok().map(|rule| {
            let into = rule.into.clone().or_else(|| self.field().and_then(member));
            (into, rule.bits, rule.is_unique())
        });
        let is_deterministic =
            self.field().is_some_and(|field| matches!(field.protect, Protect::Deterministic(_)));
        (
            self.schema.name.to_string(),
            self.audited.clone(),
            binds,
            !self.schema.subjects.is_empty(),
            self.schema.subject_optional,
            index.into_iter().collect(),
            is_deterministic,
            self.field()
                .and_then(|field| field.interop.as_ref())
                .map_or("vs1", |i| i.form.as_str()),
        )
    }

    /// The encoded bound values; `None`: it is bound to nothing. `given` has names and JSON texts.
    ///
    /// # Errors
    /// They are not those of the field.
    pub(crate) fn binding(&self, given: &[(String, String)]) -> Result<Option<Vec<u8>>, VeilFault> {
        self.check_names(given.iter().map(|(name, _)| name.as_str()))?;
        let (mut encoded, mut scalar) = (Vec::new(), Vec::new());
        let mut sorted: Vec<_> = given.iter().collect();
        sorted.sort();
        for (name, json) in &sorted {
            if !subject::scalar_text(json.as_bytes(), &mut scalar) {
                return Err(self.wrong_bind());
            }
            append_bound(name, &scalar, &mut encoded);
        }
        Ok((!sorted.is_empty()).then_some(encoded))
    }

    /// Checks the names of bound values.
    ///
    /// # Errors
    /// They are not those of the field.
    pub(crate) fn check_names<'n>(
        &self,
        given: impl Iterator<Item = &'n str>,
    ) -> Result<(), VeilFault> {
        // Of a record key, a header or a domain nobody knows here.
        let Some(field) = self.field() else { return Ok(()) };
        let mut given: Vec<&str> = given.collect();
        given.sort_unstable();
        let is_whole = given.iter().copied().eq(field.bind.iter().map(|bind| bind.name.as_str()));
        if is_whole { Ok(()) } else { Err(self.wrong_bind()) }
    }

    /// The fault of wrong bound values.
    pub(crate) fn wrong_bind(&self) -> VeilFault {
        let field = self.field();
        let names: Vec<&str> = field
            .iter()
            .flat_map(|field| field.bind.iter().map(|bind| bind.name.as_str()))
            .collect();
        let wanted = if names.is_empty() {
            "no members: the field is bound to nothing".to_owned()
        } else {
            format!("these members, each a string or an integer: {}", names.join(", "))
        };
        VeilFault::Bind { field: self.id.clone(), wanted }
    }

    /// The fault of a wrong subject.
    pub(crate) fn wrong_subject(&self, what: &'static str) -> VeilFault {
        VeilFault::Subject { field: self.id.clone(), what }
    }

    /// What turns subjects of its schema into references.
    ///
    /// # Errors
    /// The schema has no subject, or the key for it is not available.
    pub(crate) fn referrer(&self, keys: &dyn KeySource) -> Result<Referrer, VeilFault> {
        if self.schema.subjects.is_empty() {
            return Err(self.wrong_subject("its schema has no subject; leave it out"));
        }
        let scope = Scope::Version(1);
        let made = |keyring: &Keyring| {
            let key = keyring.sealing(KeyKind::SubjectRef, &scope)?;
            Referrer::new(key, keyring.tenant(), self.schema.subject_domain.as_deref())
        };
        if let Some(referrer) = made(&keys.keyring()) {
            return Ok(referrer);
        }
        keys.fetch(&[NeededKey { kind: KeyKind::SubjectRef, scope: scope.clone() }])?;
        let missing = || KeyFault("there is no key of references of data subjects".to_owned());
        made(&keys.keyring()).ok_or_else(|| missing().into())
    }

    /// The reference of a subject, by its id as JSON.
    ///
    /// # Errors
    /// As [`Target::referrer`], or it is no id.
    pub(crate) fn subject(
        &self,
        keys: &dyn KeySource,
        json: &str,
    ) -> Result<SubjectRef, VeilFault> {
        let mut scalar = Vec::new();
        if !subject::scalar_text(json.as_bytes(), &mut scalar) || scalar.is_empty() {
            return Err(self.wrong_subject("subject must be a string or an integer"));
        }
        Ok(self.referrer(keys)?.reference(&scalar))
    }
}

/// The member that an index stands in where the document does not name it: of a field whose path
/// ends in a name, that name and `_bidx`.
fn member(field: &Field) -> Option<String> {
    let (_, last) = field.path.rsplit_once('.')?;
    let is_name = !last.is_empty() && last.chars().all(|c| c.is_alphanumeric() || c == '_');
    is_name.then(|| format!("{last}_bidx"))
}
