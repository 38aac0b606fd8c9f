//! Erasing again: what the ledger names and the store has all the same, after a backup was restored
//! or somebody put rows back.

use std::collections::{BTreeMap, HashSet};

use veilstream_engine::key::{KeyId, KeyKind, Scope, SubjectRef};

use super::marker;
use crate::KeyError;
use crate::store::{Authentic, Planned, Shred};

/// Keys and subjects looked at in one step.
const BATCH: usize = 1000;

/// Keys to be destroyed, by subject. A subject without any has a scope that is to be closed.
type Undone = BTreeMap<SubjectRef, Vec<KeyId>>;

/// Erases again whom the ledger names and the store has, or lets in, all the same; how many keys
/// that were.
pub(crate) fn erase_again(store: &Authentic, now: u64) -> Result<u64, KeyError> {
    let (kids, closed): (Vec<KeyId>, Vec<SubjectRef>) = store.erased(|erased| {
        (erased.kids().map(|(kid, _)| *kid).collect(), erased.closed().copied().collect())
    });
    let mut undone = Undone::new();
    for batch in kids.chunks(BATCH) {
        for record in store.unverified().get(batch)?.iter().filter(|record| !record.is_destroyed())
        {
            let Scope::Subject(subject) = record.scope else { continue };
            undone.entry(subject).or_default().push(record.kid);
        }
    }
    for batch in closed.chunks(BATCH) {
        note_open(store, batch, &mut undone)?;
    }
    let undone: Vec<(SubjectRef, Vec<KeyId>)> = undone.into_iter().collect();
    let mut erased = 0;
    for batch in undone.chunks(BATCH) {
        erased += shred(store, batch, now)?;
    }
    Ok(erased)
}

/// Notes which of these subjects, whose scopes are closed, have keys or no record at all.
fn note_open(
    store: &Authentic,
    closed: &[SubjectRef],
    undone: &mut Undone,
) -> Result<(), KeyError> {
    let scopes: Vec<Scope> = closed.iter().map(|subject| Scope::Subject(*subject)).collect();
    let mut open: HashSet<SubjectRef> = closed.iter().copied().collect();
    for record in store.unverified().find(store.tenant(), KeyKind::Data, &scopes)? {
        let Scope::Subject(subject) = record.scope else { continue };
        open.remove(&subject);
        if !record.is_destroyed() {
            undone.entry(subject).or_default().push(record.kid);
        }
    }
    for subject in open {
        undone.entry(subject).or_default();
    }
    Ok(())
}

fn shred(
    store: &Authentic,
    undone: &[(SubjectRef, Vec<KeyId>)],
    now: u64,
) -> Result<u64, KeyError> {
    let shreds = undone
        .iter()
        .map(|(subject, kids)| {
            let is_closed = store.erased(|erased| erased.is_closed(subject));
            Ok(Shred {
                subject: *subject,
                all: is_closed,
                kids: kids.clone(),
                marker: marker(store.tenant(), *subject, !is_closed, now)?,
            })
        })
        .collect::<Result<Vec<_>, KeyError>>()?;
    let done = store.erase(&[], now, &mut |head, _| {
        Ok(Planned { shreds: shreds.clone(), head: head.clone() })
    })?;
    Ok(done.iter().map(|one| one.kids.len() as u64).sum())
}
