//! Principals, actions and resources as Cedar's entities.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{Entity, EntityId, EntityTypeName, EntityUid};

use super::facts::FieldFacts;
use super::request::{Principal, PrincipalKind};
use super::vocabulary::Action;

/// What a snapshot's entities are made from, once.
#[derive(Debug)]
pub(super) struct Entities {
    user: EntityTypeName,
    service: EntityTypeName,
    role: EntityTypeName,
    actions: HashMap<Action, EntityUid>,
    /// By the place in the snapshot's facts.
    fields: Vec<Entity>,
    /// By the schema's name.
    schemas: HashMap<Arc<str>, Entity>,
}

/// Cedar refuses the name of an entity type.
#[derive(Debug, thiserror::Error)]
#[error("cannot be judged: no entity type {name} ({source})")]
pub(super) struct NameError {
    name: String,
    source: Box<cedar_policy::ParseErrors>,
}

impl Entities {
    /// # Errors
    /// Cedar refuses a name of ours.
    pub(super) fn new(facts: &[FieldFacts]) -> Result<Self, NameError> {
        let kind = |name: &str| {
            name.parse::<EntityTypeName>()
                .map_err(|source| NameError { name: name.to_owned(), source: Box::new(source) })
        };
        let (action, field) = (kind("Action")?, kind("Field")?);
        let (schema, tag) = (kind("Schema")?, kind("Tag")?);
        let of_field = |facts: &FieldFacts| {
            let parents = facts.tags.iter().map(|name| uid(&tag, name));
            let parents = parents.chain([uid(&schema, &facts.schema)]).collect();
            Entity::new_no_attrs(uid(&field, &facts.id), parents)
        };
        let of_schema = |name: &Arc<str>| {
            (name.clone(), Entity::new_no_attrs(uid(&schema, name), HashSet::new()))
        };
        Ok(Self {
            user: kind("User")?,
            service: kind("Service")?,
            role: kind("Role")?,
            actions: Action::ALL.into_iter().map(|a| (a, uid(&action, a.name()))).collect(),
            fields: facts.iter().map(of_field).collect(),
            schemas: facts.iter().map(|facts| of_schema(&facts.schema)).collect(),
        })
    }

    /// A principal in those of its roles that some policy names.
    pub(super) fn principal(&self, principal: &Principal, roles: &BTreeSet<String>) -> Entity {
        let kind = match principal.kind {
            PrincipalKind::User => &self.user,
            PrincipalKind::Service => &self.service,
        };
        let named = principal.roles.iter().filter(|role| roles.contains(role.as_str()));
        let parents = named.map(|role| uid(&self.role, role)).collect();
        Entity::new_no_attrs(uid(kind, &principal.id), parents)
    }

    /// How many resources there are.
    pub(super) fn len(&self) -> usize {
        self.fields.len() + self.schemas.len()
    }

    pub(super) fn action(&self, action: Action) -> Option<&EntityUid> {
        self.actions.get(&action)
    }

    pub(super) fn field(&self, position: usize) -> Option<&Entity> {
        self.fields.get(position)
    }

    pub(super) fn schema(&self, name: &str) -> Option<&Entity> {
        self.schemas.get(name)
    }
}

fn uid(kind: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.clone(), EntityId::new(id))
}
