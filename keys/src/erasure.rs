//! The erasure of a data subject: its keys are destroyed, so that what was sealed with them is noise wherever it lies.
//!
//! Order: the ledger first, so that an erasure that was begun is completed by whoever opens the store next; then the store; then a look whether it is so; then
//! the signed receipt.

mod ledger;
mod receipt;

use std::collections::HashMap;
use std::sync::Arc;

use veilstream_engine::error::OpenError;
use veilstream_engine::kdf;
use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_engine::seal::{Expected, NoncePool, Opener, Owner, PayloadKind, Sealer};
use veilstream_engine::subject::subject_ref;
use veilstream_engine::token::Suite;

pub use ledger::{Chain, Erasure, FileLedger, Ledger, LedgerError, Recorded};
pub(crate) use receipt::signer;
pub use receipt::{Canary, Check, Receipt, ReceiptError, SignedReceipt};

use crate::store::{KeyRecord, Shred, Store};
use crate::{KeyError, Manager, OsEntropy};

/// The field of a receipt's canary token. No schema has a field of this name: there is no `#canary` in the grammar of names (docs/formats.md).
pub const CANARY_FIELD: &str = "receipt#canary";
/// Subjects erased in one step of the store.
const BATCH: usize = 1000;

/// What is wanted of an erasure.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Why, in words that name nobody; stands in the ledger.
    pub reason: &'a str,
    /// A later record of the subject gets a new key. Else it is rejected.
    pub may_return: bool,
    /// The day until which backups of what is stored are kept, as the receipt is to say.
    pub backups_until: Option<u64>,
}

/// Does to a store what the ledger says was done: after a backup was restored the erased are there again. Doing it again changes nothing.
///
/// # Errors
/// Ledger or store fails: the store must not be opened.
pub fn replay(ledger: &dyn Ledger, store: &dyn Store, tenant: &str, now: u64) -> Result<u64, KeyError> {
    // Of several erasures of one subject the last says whether it may come back; the keys of all of them are gone.
    let mut subjects: HashMap<SubjectRef, (bool, Vec<KeyId>)> = HashMap::new();
    for Recorded { erasure, .. } in ledger.read()?.into_iter().filter(|recorded| recorded.erasure.tenant == tenant) {
        let (may_return, kids) = subjects.entry(erasure.subject).or_default();
        *may_return = erasure.may_return;
        kids.extend(erasure.kids);
    }
    let shreds: Vec<Shred> = subjects
        .into_iter()
        // A subject that may come back may have done so: then only the keys of the ledger are to go.
        .map(|(subject, (may_return, kids))| Ok(Shred { subject, all: !may_return, kids, marker: marker(tenant, subject, may_return, now)? }))
        .collect::<Result<_, KeyError>>()?;
    let mut erased = 0;
    for batch in shreds.chunks(BATCH) {
        erased += store.shred(tenant, batch, now)?.iter().map(|shredded| shredded.kids.len() as u64).sum::<u64>();
    }
    if erased > 0 {
        store.scrub()?;
    }
    Ok(erased)
}

/// A record that closes a subject's scope: its id is random and names no key.
fn marker(tenant: &str, subject: SubjectRef, may_return: bool, now: u64) -> Result<KeyRecord, KeyError> {
    let mut kcv = [0; 32];
    getrandom::fill(&mut kcv).map_err(|_| KeyError::Random)?;
    Ok(KeyRecord {
        kid: kdf::key_id(&kcv),
        kcv,
        kind: KeyKind::Data,
        tenant: tenant.into(),
        scope: Scope::Subject(subject),
        version: 0,
        state: if may_return { KeyState::Retired } else { KeyState::Shredded },
        created: now,
        retired: Some(now),
        wraps: Vec::new(),
        uses: None,
    })
}

impl Manager {
    /// The reference of a data subject: `id` is its scalar text (docs/formats.md).
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn subject_ref(&self, id: &str, now: u64) -> Result<SubjectRef, KeyError> {
        self.prepare_roots(now)?;
        let ring = self.keyring();
        let scope = Scope::Version(1);
        let key = ring.sealing(KeyKind::SubjectRef, &scope).ok_or(KeyError::NotActive { kind: KeyKind::SubjectRef, scope, state: KeyState::Retired })?;
        subject_ref(key, self.tenant(), id.as_bytes()).ok_or(KeyError::NotActive {
            kind: KeyKind::SubjectRef,
            scope: Scope::Version(1),
            state: KeyState::Retired,
        })
    }

    /// Erases data subjects: destroys every key they have, closes their scopes and signs a receipt for each.
    ///
    /// # Errors
    /// [`KeyError`]; some may be erased already. What is in the ledger is completed by the next run or the next start.
    pub fn shred(&self, subjects: &[SubjectRef], terms: &Terms<'_>, now: u64) -> Result<Vec<SignedReceipt>, KeyError> {
        let signer = self.signing_key(now)?;
        let mut receipts = Vec::with_capacity(subjects.len());
        for batch in subjects.chunks(BATCH) {
            receipts.extend(self.shred_batch(batch, terms, now)?.into_iter().map(|receipt| receipt.sign(&signer)).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(receipts)
    }

    fn shred_batch(&self, subjects: &[SubjectRef], terms: &Terms<'_>, now: u64) -> Result<Vec<Receipt>, KeyError> {
        let tenant = self.tenant().clone();
        let scopes: Vec<Scope> = subjects.iter().map(|subject| Scope::Subject(*subject)).collect();
        let mut known: HashMap<SubjectRef, Vec<KeyRecord>> = HashMap::new();
        for record in self.store().find(&tenant, KeyKind::Data, &scopes)? {
            if let Scope::Subject(subject) = record.scope {
                known.entry(subject).or_default().push(record);
            }
        }
        let mut kids: HashMap<SubjectRef, Vec<KeyId>> = HashMap::new();
        // Those of earlier erasures too: the receipt of a run after one that was broken off names all.
        for Recorded { erasure, .. } in self.ledger().read()?.into_iter().filter(|r| *r.erasure.tenant == *tenant && subjects.contains(&r.erasure.subject)) {
            kids.entry(erasure.subject).or_default().extend(erasure.kids);
        }
        let mut canaries = HashMap::new();
        for (subject, records) in &known {
            let with_wraps = records.iter().filter(|record| !record.wraps.is_empty());
            let named = kids.entry(*subject).or_default();
            named.extend(with_wraps.clone().map(|record| record.kid));
            named.sort_unstable();
            named.dedup();
            let opens = |record: &&KeyRecord| !matches!(record.state, KeyState::Shredded | KeyState::Retired);
            if let Some(record) = with_wraps.filter(opens).max_by_key(|record| record.version) {
                canaries.insert(*subject, self.canary(record)?);
            }
        }
        let erasure = |subject: &SubjectRef, kids: Vec<KeyId>| Erasure {
            time: now,
            tenant: tenant.to_string(),
            subject: *subject,
            kids,
            may_return: terms.may_return,
            reason: terms.reason.to_owned(),
        };
        let entries: Vec<Erasure> = subjects.iter().map(|subject| erasure(subject, kids.get(subject).cloned().unwrap_or_default())).collect();
        let mut positions = self.ledger().append(&entries)?;
        let shreds: Vec<Shred> = subjects
            .iter()
            .map(|subject| {
                let kids = kids.get(subject).cloned().unwrap_or_default();
                Ok(Shred { subject: *subject, all: true, kids, marker: marker(&tenant, *subject, terms.may_return, now)? })
            })
            .collect::<Result<_, KeyError>>()?;
        let shredded = self.store().shred(&tenant, &shreds, now)?;
        for (i, one) in shredded.iter().enumerate() {
            // Made between the look and the deed. The ledger must know them as well.
            let named = kids.entry(one.subject).or_default();
            let late: Vec<KeyId> = one.kids.iter().filter(|kid| !named.contains(kid)).copied().collect();
            if !late.is_empty() {
                named.extend(&late);
                positions[i] = self.ledger().append(&[erasure(&one.subject, late)])?[0];
            }
        }
        let scrubbed = self.store().scrub()?;
        self.take_up_erasures(now)?;
        let mut receipts = Vec::with_capacity(subjects.len());
        for (subject, position) in subjects.iter().zip(positions) {
            let canary = canaries.remove(subject);
            let kids = kids.remove(subject).unwrap_or_default();
            self.check_erased(*subject, &kids, canary.as_ref())?;
            receipts.push(Receipt {
                tenant: tenant.to_string(),
                subject: *subject,
                kids,
                time: now,
                may_return: terms.may_return,
                canary,
                ledger_position: position,
                remains: scrubbed.remains.clone(),
                backups_until: terms.backups_until,
            });
        }
        Ok(receipts)
    }

    /// A token under the subject's key, and proof that it opens now.
    fn canary(&self, record: &KeyRecord) -> Result<Canary, KeyError> {
        let unsound = |what: &str| KeyError::NotErased { subject: subject_of(record), what: what.to_owned() };
        let key = self.unwrap(record)?;
        let field = kdf::field_id(CANARY_FIELD);
        let mut sealer = Sealer::new(key.clone(), Suite::XaesGcm, field).map_err(|_| unsound("no canary can be sealed"))?;
        let mut token = Vec::new();
        let mut nonces = NoncePool::new(Box::new(OsEntropy));
        sealer.seal(PayloadKind::Bytes, b"canary", 16, None, &mut nonces, &mut token).map_err(|_| unsound("no canary can be sealed"))?;
        let canary = Canary { token: String::from_utf8(token).map_err(|_| unsound("the canary is no text"))? };
        match open_canary(&canary, self.tenant(), &key) {
            Ok(()) => Ok(canary),
            Err(_) => Err(unsound("the canary does not open before the erasure")),
        }
    }

    /// Looks at the store itself, beside every cache.
    fn check_erased(&self, subject: SubjectRef, kids: &[KeyId], canary: Option<&Canary>) -> Result<(), KeyError> {
        let incomplete = |what: String| Err(KeyError::NotErased { subject, what });
        let records = self.store().get(kids)?;
        if let Some(record) = records.iter().find(|record| record.state != KeyState::Shredded || !record.wraps.is_empty()) {
            return incomplete(format!("key {} is {} with {} wraps", record.kid, record.state.as_str(), record.wraps.len()));
        }
        let Some(canary) = canary else { return Ok(()) };
        match self.open_stored(canary)? {
            Err(OpenError::Erased) => Ok(()),
            other => incomplete(format!("its canary token is {} and not erased", other.map_or_else(|e| e.to_string(), |()| "open".to_owned()))),
        }
    }

    /// What opening a canary says by what the store holds now.
    pub(crate) fn open_stored(&self, canary: &Canary) -> Result<Result<(), OpenError>, KeyError> {
        let mut header = Vec::new();
        let kid = match veilstream_engine::token::decode(canary.token.as_bytes(), &mut header) {
            Ok(header) => header.kid,
            Err(error) => return Ok(Err(error)),
        };
        let Some(record) = self.store().get(&[kid])?.pop() else { return Ok(Err(OpenError::KeyUnavailable)) };
        Ok(open_canary(canary, self.tenant(), &self.unwrap(&record)?))
    }
}

fn open_canary(canary: &Canary, tenant: &str, key: &Arc<Key>) -> Result<(), OpenError> {
    let expected = Expected { fid: kdf::field_id(CANARY_FIELD), tenant, binding: None, owner: Owner::Any };
    Opener::default().open(canary.token.as_bytes(), &expected, |_| Some(key.clone()), &mut Vec::new()).map(drop)
}

fn subject_of(record: &KeyRecord) -> SubjectRef {
    if let Scope::Subject(subject) = record.scope { subject } else { SubjectRef([0; 16]) }
}
