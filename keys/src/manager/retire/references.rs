//! What stands against the retirement of a key.

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{KeyKind, KeyState, Scope};

use super::super::pins::pinned_by;
use super::super::shared::SharedKeys;
use super::{is_newest, may_seal};
use crate::KeyError;
use crate::store::KeyRecord;
use crate::wraps::BY_KEY;

/// Why the record's key is not retired; `None`: nothing stands against it. `unreferenced`: the
/// caller has looked through what is stored.
pub(super) fn references(
    shared: &SharedKeys,
    record: &KeyRecord,
    schemas: &SchemaSet,
    unreferenced: bool,
    now: u64,
) -> Result<Option<String>, KeyError> {
    let because = |why: &str| Ok(Some(why.to_owned()));
    match record.state {
        KeyState::Shredded => return because("it is shredded, which is for ever"),
        KeyState::Retired => return because("it is retired already"),
        KeyState::Active | KeyState::DecryptOnly | KeyState::Compromised => {}
    }
    let pinning = pinned_by(record, schemas);
    if !pinning.is_empty() {
        return Ok(Some(format!("schema {} pins root {}", pinning.join(", "), record.version)));
    }
    let newest = is_newest(shared, record)?;
    match (record.kind, &record.scope) {
        (KeyKind::DeadLetter | KeyKind::SubjectRef | KeyKind::Audit | KeyKind::Store, _) => {
            because("there is one key of this kind and it is needed for ever")
        }
        (_, Scope::Subject(_)) => because("a data subject's key is ended by `veilstream shred`"),
        (KeyKind::Wrapping, _) if newest => {
            because("it wraps new keys; rotate first (`veilstream keys rotate --wrapping`)")
        }
        (KeyKind::Wrapping, _) => wrapped_keys(shared, record),
        (KeyKind::Index, _) if newest => {
            because("it is the newest index root; rotate first (`veilstream keys rotate --index`)")
        }
        (KeyKind::Data, Scope::Schema(_)) if may_seal(record, now) => {
            because("a running process may seal with it")
        }
        (KeyKind::Data, Scope::Shared(_)) if newest && record.state == KeyState::Active => {
            because("it seals; rotate first (`veilstream keys rotate --shared`)")
        }
        (kind, _) => Ok((!unreferenced).then(|| {
            format!(
                "{}; look through all that is stored, then say so with --unreferenced",
                stored(kind)
            )
        })),
    }
}

fn wrapped_keys(shared: &SharedKeys, record: &KeyRecord) -> Result<Option<String>, KeyError> {
    let wrapped = shared.store().count_wrapped_by(&format!("{BY_KEY}{}", record.kid))?;
    Ok((wrapped > 0).then(|| {
        format!(
            "{wrapped} keys of data subjects are wrapped under it; move them first (`veilstream \
            keys rewrap`)"
        )
    }))
}

/// What may be stored under a key of this kind.
fn stored(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::Index => {
            "stored records may be found by its indexes alone (they begin with its version and ~)"
        }
        KeyKind::Deterministic => "stored records may hold values under it",
        _ => {
            "stored records may hold tokens under it (its id is characters 8 to 28 of the token; \
            docs/formats.md)"
        }
    }
}
