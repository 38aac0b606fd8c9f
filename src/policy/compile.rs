//! Files of policies to one Cedar policy set, every fault at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cedar_policy::{
    EntityUid, Policy, PolicyId, PolicySet, PolicySetError, Schema, ValidationError,
    ValidationMode, Validator,
};
use miette::Diagnostic;

use super::facts::{FieldFacts, tags};
use super::fault::{PolicyFault, PolicyFile};
use super::names::{Names, UnknownLiteral, UnknownName};
use super::set::PolicyPlace;
use super::text;
use crate::config::Purpose;

/// What files of policies became.
pub(super) struct CompiledPolicies {
    pub(super) cedar: PolicySet,
    pub(super) places: Vec<PolicyPlace>,
    pub(super) roles: BTreeSet<String>,
}

/// A policy with its text's place in its file.
struct Source<'f> {
    policy: Policy,
    id: String,
    file: &'f PolicyFile,
    /// Bytes of the file before it.
    offset: usize,
}

/// Parses, names and validates.
pub(super) fn compile(
    files: &[PolicyFile],
    facts: &[FieldFacts],
    purposes: &[Purpose],
    schema_text: &str,
) -> Result<CompiledPolicies, Vec<PolicyFault>> {
    let (mut sources, mut faults) = (Vec::new(), Vec::new());
    for file in files {
        match parse(file) {
            Ok(found) => sources.extend(found),
            Err(found) => faults.extend(found),
        }
    }
    let names = Names {
        fields: facts.iter().map(|field| &*field.id).collect(),
        schemas: facts.iter().map(|field| &*field.schema).collect(),
        tags: tags(facts),
        purposes: purposes.iter().map(|purpose| purpose.name.as_str()).collect(),
    };
    let mut named = BTreeSet::new();
    for source in &sources {
        let unknown = names.unknown(&source.policy);
        if !unknown.is_empty() {
            named.insert(source.id.as_str());
        }
        faults.extend(unknown.into_iter().map(|name| source.unknown(name)));
    }
    let (cedar, twice) = unite(&sources);
    faults.extend(twice);
    match Schema::from_cedarschema_str(schema_text) {
        Ok((schema, _)) => {
            faults.extend(validate(&Validator::new(schema), &cedar, &sources, &named));
        }
        Err(error) => faults.extend(files.first().map(|file| {
            let message =
                format!("cannot be judged: the generated Cedar schema is faulty ({error})");
            PolicyFault::whole(&file.path, message)
        })),
    }
    if !faults.is_empty() {
        faults.sort();
        faults.dedup();
        return Err(faults);
    }
    Ok(CompiledPolicies {
        cedar,
        places: sources.iter().map(Source::place).collect(),
        roles: sources.iter().flat_map(|source| roles(&source.policy)).collect(),
    })
}

fn roles(policy: &Policy) -> Vec<String> {
    let is_role = |uid: &EntityUid| uid.type_name().basename() == "Role";
    let literals = policy.entity_literals().into_iter();
    literals.filter(is_role).map(|uid| uid.id().unescaped().to_owned()).collect()
}

/// The policies of one file, in its order.
fn parse(file: &PolicyFile) -> Result<Vec<Source<'_>>, Vec<PolicyFault>> {
    let set: PolicySet = file.text.parse().map_err(|errors: cedar_policy::ParseErrors| {
        errors
            .iter()
            .map(|error| fault(file, 0, error, &format!("is not Cedar: {error}")))
            .collect::<Vec<_>>()
    })?;
    if let Some(template) = set.templates().next() {
        let offset = file.text.find(template.to_cedar().as_str()).unwrap_or(0);
        let message = "is a template, which nothing links; name a principal and a resource instead \
            of ?principal and ?resource";
        return Err(vec![PolicyFault::at(file, offset, message)]);
    }
    // Cedar numbers the policies of a text and keeps them in no order.
    let number = |policy: &Policy| {
        policy.id().to_string().trim_start_matches("policy").parse::<usize>().unwrap_or(usize::MAX)
    };
    let mut policies: Vec<&Policy> = set.policies().collect();
    policies.sort_by_key(|policy| number(policy));
    let name = file.name();
    let stem = name.strip_suffix(".cedar").unwrap_or(&name);
    let (mut end, mut sources) = (0, Vec::new());
    for (policy, n) in policies.into_iter().zip(1..) {
        let text = policy.to_cedar().unwrap_or_default();
        // Two equal policies have one text: each is looked for behind the one before.
        let offset = file.text.get(end..).and_then(|rest| rest.find(&text)).unwrap_or(0) + end;
        end = offset + text.len();
        let id = match policy.annotation("id") {
            None => format!("{stem}#{n}"),
            Some(id) if is_id(id) => id.to_owned(),
            Some(_) => {
                let message = "its @id is no id; write up to 64 of A-Z, a-z, 0-9, ., _, # and -";
                return Err(vec![PolicyFault::at(file, offset, message)]);
            }
        };
        let policy = policy.new_id(PolicyId::new(&id));
        sources.push(Source { policy, id, file, offset });
    }
    Ok(sources)
}

/// Ids stand in the audit log and in answers.
fn is_id(id: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '#' | '-');
    (1..=64).contains(&id.len()) && id.chars().all(is_part)
}

/// One set of all policies; ids that stand twice are faults.
fn unite(sources: &[Source<'_>]) -> (PolicySet, Vec<PolicyFault>) {
    let (mut set, mut faults) = (PolicySet::new(), Vec::new());
    let mut first: BTreeMap<&str, &Source<'_>> = BTreeMap::new();
    for source in sources {
        let message = match set.add(source.policy.clone()) {
            Ok(()) => {
                first.insert(&source.id, source);
                continue;
            }
            Err(PolicySetError::AlreadyDefined(_)) => {
                let other = first.get(source.id.as_str()).map_or_else(String::new, |other| {
                    let file = other.file.path.display();
                    format!(", as {file}:{} has", other.file.line_of(other.offset))
                });
                format!("has the id \"{}\"{other}; ids are unique", source.id)
            }
            Err(error) => format!("is refused: {error}"),
        };
        faults.push(PolicyFault::at(source.file, source.offset, message));
    }
    (set, faults)
}

/// Strict validation. Warnings count as faults: a policy that can never hold, or whose text looks
/// like another, is not what its author means. `named`: policies with a fault of `Names`, which
/// says better what to write.
fn validate(
    validator: &Validator,
    set: &PolicySet,
    sources: &[Source<'_>],
    named: &BTreeSet<&str>,
) -> Vec<PolicyFault> {
    let result = validator.validate(set, ValidationMode::Strict);
    let place = |id: &PolicyId| sources.iter().find(|source| source.id == id.as_ref() as &str);
    let said = |id: &PolicyId, error: &dyn Diagnostic| {
        let message = error.to_string();
        let message = message.strip_prefix(&format!("for policy `{id}`, ")).unwrap_or(&message);
        match place(id) {
            Some(source) => fault(source.file, source.offset, error, message),
            None => PolicyFault::whole(std::path::Path::new(""), message),
        }
    };
    let of_names = |error: &ValidationError| {
        let is_name = matches!(
            error,
            ValidationError::InvalidEnumEntity(_)
                | ValidationError::UnrecognizedActionId(_)
                | ValidationError::InvalidActionApplication(_)
        );
        is_name && named.contains(error.policy_id().as_ref() as &str)
    };
    // A policy with an error is often impossible as well: one cause is told once.
    let faulty: BTreeSet<&PolicyId> =
        result.validation_errors().map(ValidationError::policy_id).collect();
    let errors = result
        .validation_errors()
        .filter(|error| !of_names(error))
        .map(|error| said(error.policy_id(), error));
    let warnings = result
        .validation_warnings()
        .filter(|warning| !faulty.contains(warning.policy_id()))
        .map(|warning| said(warning.policy_id(), warning));
    errors.chain(warnings).collect()
}

/// A fault at the place that Cedar names, else at `offset`.
fn fault(
    file: &PolicyFile,
    offset: usize,
    error: &(impl Diagnostic + ?Sized),
    message: &str,
) -> PolicyFault {
    let labels = error.labels();
    let offset = labels.and_then(|mut labels| labels.next()).map_or(offset, |label| label.offset());
    let help = error.help().map(|help| format!("; {help}")).unwrap_or_default();
    PolicyFault::at(file, offset, format!("{message}{help}"))
}

impl Source<'_> {
    fn place(&self) -> PolicyPlace {
        PolicyPlace {
            id: Arc::from(self.id.as_str()),
            file: self.file.path.clone(),
            line: self.file.line_of(self.offset),
            forbids: self.policy.effect() == cedar_policy::Effect::Forbid,
        }
    }

    fn unknown(&self, name: UnknownName) -> PolicyFault {
        let own = self.policy.to_cedar().unwrap_or_default();
        let within = match &name.literal {
            UnknownLiteral::Entity(kind, id) => text::entity(&own, kind, id),
            UnknownLiteral::Text(content) => text::string(&own, content),
            UnknownLiteral::Policy => None,
        };
        PolicyFault::at(self.file, self.offset + within.unwrap_or(0), name.message)
    }
}
