//! Changes of records in the topic: another state, and an erasure.

use veilstream_engine::key::{KeyKind, KeyState, Scope, SubjectRef};
use veilstream_keys::store::{
    Head, KeyRecord, Plan, Planned, Shred, Shredded, StoreError, StoreKeys, check,
};

use super::{KafkaStore, View};

impl KafkaStore {
    /// Records in another state, each with a MAC for it.
    pub(super) fn changed<'v>(
        &self,
        records: impl Iterator<Item = &'v KeyRecord>,
        state: KeyState,
        retired: impl Fn(&KeyRecord) -> Option<u64>,
        keys: &StoreKeys,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        let change = |record: &KeyRecord| {
            check(keys, &self.place, record)?;
            Ok(keys.signed(&KeyRecord { state, retired: retired(record), ..record.clone() }))
        };
        records.map(change).collect()
    }

    /// What an erasure changes, by its plan.
    pub(super) fn planned(
        &self,
        view: &View,
        tenant: &str,
        subjects: &[SubjectRef],
        keys: &StoreKeys,
        now: u64,
        plan: &mut Plan<'_>,
    ) -> Result<(Vec<KeyRecord>, Head, Vec<Shredded>), StoreError> {
        let head =
            view.head().ok_or_else(|| StoreError::Unfounded { place: self.place.clone() })?;
        let known = subjects
            .iter()
            .flat_map(|subject| view.of_scope(tenant, KeyKind::Data, &Scope::Subject(*subject)));
        let known: Vec<KeyRecord> = known.cloned().collect();
        let Planned { shreds, head } = plan(head, &known)?;
        let mut changed = Vec::new();
        let done = shreds
            .iter()
            .map(|shred| shredded(view, tenant, shred, now, keys, &mut changed))
            .collect();
        Ok((changed, head, done))
    }
}

/// One subject. Records that change are added to `changed`; those that were edited are destroyed as
/// well.
fn shredded(
    view: &View,
    tenant: &str,
    shred: &Shred,
    now: u64,
    keys: &StoreKeys,
    changed: &mut Vec<KeyRecord>,
) -> Shredded {
    let versions = view.of_scope(tenant, KeyKind::Data, &Scope::Subject(shred.subject));
    let is_dying = |record: &&KeyRecord| {
        (record.state != KeyState::Shredded || !record.wraps.is_empty())
            && (shred.all || shred.kids.contains(&record.kid))
    };
    let dying: Vec<&KeyRecord> = versions.iter().copied().filter(is_dying).collect();
    let is_alive =
        versions.iter().any(|record| record.state != KeyState::Shredded && !is_dying(record));
    let newest = versions.iter().map(|record| record.version).max().unwrap_or(0);
    // What has no wraps was a marker.
    let kids =
        dying.iter().filter(|record| !record.wraps.is_empty()).map(|record| record.kid).collect();
    let dead = dying.iter().map(|record| KeyRecord {
        state: KeyState::Shredded,
        retired: Some(now),
        wraps: Vec::new(),
        ..(*record).clone()
    });
    changed.extend(
        dead.chain(shred.next_marker(newest, is_alive, !dying.is_empty()))
            .map(|record| keys.signed(&record)),
    );
    Shredded { subject: shred.subject, kids }
}
