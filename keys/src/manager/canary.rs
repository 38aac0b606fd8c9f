//! Canaries of receipts: tokens under the keys of data subjects that open before the erasure and
//! never after it.

use std::collections::HashMap;
use std::sync::Arc;

use veilstream_engine::error::OpenError;
use veilstream_engine::kdf;
use veilstream_engine::key::{Key, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_engine::seal::{Expected, NoncePool, Opener, Owner, PayloadKind, Sealer};
use veilstream_engine::token::{self, Suite};

use super::shared::SharedKeys;
use crate::erasure::{CANARY_FIELD, Canary};
use crate::store::KeyRecord;
use crate::{KeyError, OsEntropy};

/// A token under the newest key of each subject that opens.
pub(super) fn sealed(
    shared: &SharedKeys,
    subjects: &[SubjectRef],
) -> Result<HashMap<SubjectRef, Canary>, KeyError> {
    let store = shared.store();
    let scopes: Vec<Scope> = subjects.iter().map(|subject| Scope::Subject(*subject)).collect();
    let mut newest: HashMap<SubjectRef, KeyRecord> = HashMap::new();
    for record in store.unverified().find(shared.tenant(), KeyKind::Data, &scopes)? {
        let Scope::Subject(subject) = record.scope else { continue };
        let opens = !record.wraps.is_empty()
            && !matches!(record.state, KeyState::Shredded | KeyState::Retired);
        // What was edited is destroyed without a proof that it opened.
        if !opens || !store.keys().holds(&record) || store.erased(|erased| erased.covers(&record)) {
            continue;
        }
        if newest.get(&subject).is_none_or(|known| known.version < record.version) {
            newest.insert(subject, record);
        }
    }
    newest
        .into_iter()
        .map(|(subject, record)| Ok((subject, seal(shared, subject, &record)?)))
        .collect()
}

/// A token under the subject's key, and proof that it opens now.
fn seal(shared: &SharedKeys, subject: SubjectRef, record: &KeyRecord) -> Result<Canary, KeyError> {
    let unsound = |what: &str| KeyError::NotErased { subject, what: what.to_owned() };
    let key = shared.unwrap(record)?;
    let field = kdf::field_id(CANARY_FIELD);
    let mut sealer = Sealer::new(key.clone(), Suite::XaesGcm, field)
        .map_err(|_| unsound("no canary can be sealed"))?;
    let mut token = Vec::new();
    let mut nonces = NoncePool::new(Box::new(OsEntropy));
    sealer
        .seal(PayloadKind::Bytes, b"canary", 16, None, &mut nonces, &mut token)
        .map_err(|_| unsound("no canary can be sealed"))?;
    let canary =
        Canary { token: String::from_utf8(token).map_err(|_| unsound("the canary is no text"))? };
    match open(&canary, shared.tenant(), &key) {
        Ok(()) => Ok(canary),
        Err(_) => Err(unsound("the canary does not open before the erasure")),
    }
}

/// What opening a canary says by what the store holds now.
pub(super) fn open_stored(
    shared: &SharedKeys,
    canary: &Canary,
) -> Result<Result<(), OpenError>, KeyError> {
    let mut header = Vec::new();
    let kid = match token::decode(canary.token.as_bytes(), &mut header) {
        Ok(header) => header.kid,
        Err(error) => return Ok(Err(error)),
    };
    let Some(record) = shared.store().unverified().get(&[kid])?.pop() else {
        return Ok(Err(OpenError::KeyUnavailable));
    };
    Ok(open(canary, shared.tenant(), &shared.unwrap(&record)?))
}

fn open(canary: &Canary, tenant: &str, key: &Arc<Key>) -> Result<(), OpenError> {
    let expected =
        Expected { fid: kdf::field_id(CANARY_FIELD), tenant, binding: None, owner: Owner::Any };
    Opener::default()
        .open(canary.token.as_bytes(), &expected, |_| Some(key.clone()), &mut Vec::new())
        .map(drop)
}
