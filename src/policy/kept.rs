//! What requests have in common, kept from one to the next: principals and addresses in Cedar's
//! form, and verdicts. To make and evaluate them again took a quarter of a small request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use cedar_policy::{Entities, Entity, RestrictedExpression};

use super::context::ContextFacts;
use super::decide::{Resource, Verdict};
use super::request::Principal;
use super::vocabulary::Action;

/// Addresses kept at most; from then on they are forgotten all at once.
const MOST_ADDRESSES: usize = 4096;
/// Stores kept at most of all principals together, about a kilobyte each.
const MOST_STORES: usize = 8192;
/// Verdicts kept at most, about half a kilobyte each.
const MOST_VERDICTS: usize = 8192;
/// Principals kept in any case.
const FEWEST_PRINCIPALS: usize = 16;

/// Principals and addresses that asked before, and what they were told.
#[derive(Debug)]
pub(super) struct Kept {
    verdicts: Mutex<HashMap<Question, Verdict>>,
    addresses: Mutex<HashMap<IpAddr, RestrictedExpression>>,
    principals: Mutex<HashMap<Principal, Arc<KnownPrincipal>>>,
    most_principals: usize,
}

/// All that a verdict depends on beside action, resource and snapshot.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Situation {
    pub(super) principal: Principal,
    pub(super) context: ContextFacts,
}

/// What a verdict is of.
pub(super) type Question = (Arc<Situation>, Action, Resource);

/// A principal, and the stores in which questions about it are evaluated.
#[derive(Debug)]
pub(super) struct KnownPrincipal {
    pub(super) entity: Entity,
    /// `None`: Cedar refuses them.
    stores: Mutex<HashMap<Resource, Option<Arc<Entities>>>>,
}

impl Kept {
    /// Nothing yet, of a snapshot with so many fields and schemas.
    pub(super) fn new(resources: usize) -> Self {
        Self {
            verdicts: Mutex::default(),
            addresses: Mutex::default(),
            principals: Mutex::default(),
            most_principals: (MOST_STORES / resources.max(1)).max(FEWEST_PRINCIPALS),
        }
    }

    /// What was told before.
    pub(super) fn verdict(&self, question: &Question) -> Option<Verdict> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner).get(question).cloned()
    }

    pub(super) fn keep_verdict(&self, question: Question, verdict: Verdict) {
        kept(&self.verdicts, MOST_VERDICTS, &question, || verdict);
    }

    pub(super) fn address(&self, ip: IpAddr) -> RestrictedExpression {
        kept(&self.addresses, MOST_ADDRESSES, &ip, || RestrictedExpression::new_ip(ip.to_string()))
    }

    pub(super) fn principal(
        &self,
        principal: &Principal,
        entity: impl FnOnce() -> Entity,
    ) -> Arc<KnownPrincipal> {
        kept(&self.principals, self.most_principals, principal, || {
            Arc::new(KnownPrincipal { entity: entity(), stores: Mutex::default() })
        })
    }
}

impl KnownPrincipal {
    /// Principal and resource. Parents that are named and not there count all the same: a small
    /// store is made quickly.
    pub(super) fn store(&self, resource: &Resource, entity: &Entity) -> Option<Arc<Entities>> {
        kept(&self.stores, usize::MAX, resource, || {
            let both = [self.entity.clone(), entity.clone()];
            Entities::from_entities(both, None).ok().map(Arc::new)
        })
    }
}

/// What is kept for `key`, made where it is not there.
fn kept<K, V>(map: &Mutex<HashMap<K, V>>, most: usize, key: &K, make: impl FnOnce() -> V) -> V
where
    K: Clone + Eq + std::hash::Hash,
    V: Clone,
{
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(value) = map.get(key) {
        return value.clone();
    }
    if map.len() >= most {
        map.clear();
    }
    map.entry(key.clone()).or_insert_with(make).clone()
}

#[cfg(test)]
mod tests {
    use cedar_policy::{EntityId, EntityTypeName, EntityUid};

    use super::super::request::PrincipalKind;
    use super::*;

    fn principal(id: usize, role: &str) -> Principal {
        Principal {
            kind: PrincipalKind::User,
            id: format!("key:{id}"),
            roles: vec![role.to_owned()],
        }
    }

    fn entity(principal: &Principal) -> Entity {
        let kind: EntityTypeName = "User".parse().unwrap();
        let uid = EntityUid::from_type_name_and_id(kind, EntityId::new(&principal.id));
        Entity::new_no_attrs(uid, Default::default())
    }

    #[test]
    fn a_principal_is_kept_as_long_as_its_roles_stay() {
        let kept = Kept::new(1);
        let of = |principal: &Principal| kept.principal(principal, || entity(principal));
        let first = of(&principal(1, "support"));
        assert!(Arc::ptr_eq(&first, &of(&principal(1, "support"))));
        assert!(!Arc::ptr_eq(&first, &of(&principal(1, "fraud"))));
        assert!(!Arc::ptr_eq(&first, &of(&principal(2, "support"))));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let kept = Kept::new(MOST_STORES);
        for id in 0..10 * FEWEST_PRINCIPALS {
            let principal = principal(id, "support");
            let known = kept.principal(&principal, || entity(&principal));
            assert_eq!(known.entity.uid().id().unescaped(), principal.id);
        }
        assert!(kept.principals.lock().unwrap().len() <= FEWEST_PRINCIPALS);
        for n in 0..2 * u32::try_from(MOST_ADDRESSES).unwrap() {
            kept.address(IpAddr::V4(n.into()));
        }
        assert!(kept.addresses.lock().unwrap().len() <= MOST_ADDRESSES);
    }
}
