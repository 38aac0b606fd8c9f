//! The erasure of a data subject: its keys are destroyed, so that what was sealed with them is
//! noise wherever it lies.
//!
//! Order: the ledger first, so that an erasure that was begun is completed by the next process
//! that opens the store; then the store; then a look whether it is so; then the signed receipt.

mod append;
mod cursor;
mod ledger;
mod line;
mod receipt;
mod replay;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use veilstream_engine::error::OpenError;
use veilstream_engine::kdf;
use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_engine::seal::{Expected, NoncePool, Opener, Owner, PayloadKind, Sealer};
use veilstream_engine::subject::subject_reference;
use veilstream_engine::token::Suite;

#[cfg(feature = "postgres")]
pub use crate::store::PostgresLedger;
use append::Appender;
pub(crate) use cursor::LedgerCursor;
pub use ledger::{Erasure, FileLedger, Ledger, LedgerError, Recorded, Wrong};
pub use line::{Position, Verifier, first_line, hex, next_line, unhex};
pub(crate) use receipt::signer;
pub use receipt::{Canary, Check, Receipt, ReceiptError, SignedReceipt};
pub(crate) use replay::erase_again;

use crate::store::KeyRecord;
use crate::{KeyError, Manager, OsEntropy};

/// The field of a receipt's canary token. No schema has a field of this name: there is no `#canary`
/// in the grammar of names (docs/formats.md).
pub const CANARY_FIELD: &str = "receipt#canary";
/// Subjects erased in one step of the store.
const BATCH: usize = 1000;

/// What is wanted of an erasure.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Why, in words that name nobody; stands in the ledger.
    pub reason: &'a str,
    /// The domain that the subjects' ids count in; `None`: the one without a name.
    pub domain: Option<&'a str>,
    /// A later record of the subject gets a new key. Else it is rejected.
    pub may_return: bool,
    /// The day until which backups of what is stored are kept, as the receipt is to say.
    pub backups_until: Option<u64>,
}

/// What became of one data subject that was to be erased.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Who.
    pub subject: SubjectRef,
    /// `None`: nobody was erased, as no key of the subject was ever here. Its scope is closed all
    /// the same.
    pub receipt: Option<SignedReceipt>,
}

/// A record that closes a subject's scope: its id is random and names no key.
pub(crate) fn marker(
    tenant: &str,
    subject: SubjectRef,
    may_return: bool,
    now: u64,
) -> Result<KeyRecord, KeyError> {
    let mut kcv = [0; 32];
    getrandom::fill(&mut kcv).map_err(|_| KeyError::Random)?;
    let kid = kdf::key_id(&kcv);
    let state = if may_return { KeyState::Retired } else { KeyState::Shredded };
    let record = KeyRecord::without_key(kid, kcv, tenant, subject, state);
    Ok(KeyRecord { created: now, retired: Some(now), ..record })
}

impl Manager {
    /// The reference of a data subject: `id` is its scalar text, `domain` what it counts in
    /// (docs/formats.md).
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn subject_ref(
        &self,
        id: &str,
        domain: Option<&str>,
        now: u64,
    ) -> Result<SubjectRef, KeyError> {
        self.prepare_roots(now)?;
        let ring = self.keyring();
        let scope = Scope::Version(1);
        let no_key = || KeyError::NotActive {
            kind: KeyKind::SubjectRef,
            scope: Scope::Version(1),
            state: KeyState::Retired,
        };
        let key = ring.sealing(KeyKind::SubjectRef, &scope).ok_or_else(no_key)?;
        subject_reference(key, self.tenant(), domain, id.as_bytes()).ok_or_else(no_key)
    }

    /// Erases data subjects: destroys every key they have, closes their scopes and signs a receipt
    /// for each. A subject that is named twice is erased once.
    ///
    /// # Errors
    /// [`KeyError`]; some may be erased already. What is in the ledger is completed by the next run
    /// or the next start.
    pub fn shred(
        &self,
        subjects: &[SubjectRef],
        terms: &Terms<'_>,
        now: u64,
    ) -> Result<Vec<Outcome>, KeyError> {
        let signer = self.shared().signing_key(now)?;
        let mut seen = HashSet::new();
        let subjects: Vec<SubjectRef> =
            subjects.iter().copied().filter(|subject| seen.insert(*subject)).collect();
        let mut outcomes = Vec::with_capacity(subjects.len());
        for batch in subjects.chunks(BATCH) {
            for (subject, receipt) in self.shred_batch(batch, terms, now)? {
                outcomes.push(Outcome {
                    subject,
                    receipt: receipt.map(|receipt| receipt.sign(&signer)).transpose()?,
                });
            }
        }
        Ok(outcomes)
    }

    fn shred_batch(
        &self,
        subjects: &[SubjectRef],
        terms: &Terms<'_>,
        now: u64,
    ) -> Result<Vec<(SubjectRef, Option<Receipt>)>, KeyError> {
        let canaries = self.canaries(subjects)?;
        let mut wanted: Vec<Erasure> = subjects
            .iter()
            .map(|subject| Erasure {
                time: now,
                tenant: self.tenant().to_string(),
                domain: terms.domain.map(str::to_owned),
                subject: *subject,
                kids: Vec::new(),
                may_return: terms.may_return,
                reason: terms.reason.to_owned(),
            })
            .collect();
        let mut lines: BTreeMap<SubjectRef, Recorded> = BTreeMap::new();
        // Where the store cannot keep others from making keys meanwhile, some are made between the
        // look and the deed: the ledger must know them as well.
        while !wanted.is_empty() {
            let (recorded, shredded) = self.ledger_cursor().append(self.store(), &wanted, now)?;
            wanted.clear();
            lines.extend(recorded.into_iter().map(|line| (line.erasure.subject, line)));
            for one in shredded {
                let Some(line) = lines.get(&one.subject) else { continue };
                if one.kids.iter().any(|kid| !line.erasure.kids.contains(kid)) {
                    let kids = line.erasure.kids.iter().copied().chain(one.kids).collect();
                    wanted.push(Erasure { kids, ..line.erasure.clone() });
                }
            }
        }
        let scrubbed = self.store().scrub()?;
        self.forget_erased(now)?;
        let head = Position::of(&self.store().head()?);
        let mut receipts = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let line = lines.remove(subject).ok_or_else(|| KeyError::NotErased {
                subject: *subject,
                what: "it is not in the ledger".to_owned(),
            })?;
            let (kids, canary) = (line.erasure.kids, canaries.get(subject).cloned());
            self.check_erased(*subject, &kids, canary.as_ref())?;
            if kids.is_empty() {
                receipts.push((*subject, None));
                continue;
            }
            let receipt = Receipt {
                tenant: self.tenant().to_string(),
                domain: terms.domain.map(str::to_owned),
                subject: *subject,
                kids,
                time: now,
                may_return: terms.may_return,
                canary,
                line: line.position,
                head,
                remains: scrubbed.remains.clone(),
                backups_until: terms.backups_until,
            };
            receipts.push((*subject, Some(receipt)));
        }
        Ok(receipts)
    }

    /// A token under the newest key of each subject that opens.
    fn canaries(&self, subjects: &[SubjectRef]) -> Result<HashMap<SubjectRef, Canary>, KeyError> {
        let scopes: Vec<Scope> = subjects.iter().map(|subject| Scope::Subject(*subject)).collect();
        let mut newest: HashMap<SubjectRef, KeyRecord> = HashMap::new();
        for record in self.store().unverified().find(self.tenant(), KeyKind::Data, &scopes)? {
            let opens = !record.wraps.is_empty()
                && !matches!(record.state, KeyState::Shredded | KeyState::Retired);
            // What was edited is destroyed without a proof that it opened.
            if !opens
                || !self.store().keys().holds(&record)
                || self.store().erased(|erased| erased.covers(&record))
            {
                continue;
            }
            let subject = subject_of(&record);
            if newest.get(&subject).is_none_or(|known| known.version < record.version) {
                newest.insert(subject, record);
            }
        }
        newest.into_iter().map(|(subject, record)| Ok((subject, self.canary(&record)?))).collect()
    }

    /// A token under the subject's key, and proof that it opens now.
    fn canary(&self, record: &KeyRecord) -> Result<Canary, KeyError> {
        let unsound =
            |what: &str| KeyError::NotErased { subject: subject_of(record), what: what.to_owned() };
        let key = self.shared().unwrap(record)?;
        let field = kdf::field_id(CANARY_FIELD);
        let mut sealer = Sealer::new(key.clone(), Suite::XaesGcm, field)
            .map_err(|_| unsound("no canary can be sealed"))?;
        let mut token = Vec::new();
        let mut nonces = NoncePool::new(Box::new(OsEntropy));
        sealer
            .seal(PayloadKind::Bytes, b"canary", 16, None, &mut nonces, &mut token)
            .map_err(|_| unsound("no canary can be sealed"))?;
        let canary = Canary {
            token: String::from_utf8(token).map_err(|_| unsound("the canary is no text"))?,
        };
        match open_canary(&canary, self.tenant(), &key) {
            Ok(()) => Ok(canary),
            Err(_) => Err(unsound("the canary does not open before the erasure")),
        }
    }

    /// Looks at the store itself, beside every cache.
    fn check_erased(
        &self,
        subject: SubjectRef,
        kids: &[KeyId],
        canary: Option<&Canary>,
    ) -> Result<(), KeyError> {
        let incomplete = |what: String| Err(KeyError::NotErased { subject, what });
        let records = self.store().unverified().get(kids)?;
        if let Some(record) = records.iter().find(|record| !record.is_destroyed()) {
            return incomplete(format!(
                "key {} is {} with {} wraps",
                record.kid,
                record.state.as_str(),
                record.wraps.len()
            ));
        }
        let Some(canary) = canary else { return Ok(()) };
        match self.open_stored(canary)? {
            Err(OpenError::Erased) => Ok(()),
            other => incomplete(format!(
                "its canary token is {} and not erased",
                other.map_or_else(|e| e.to_string(), |()| "open".to_owned())
            )),
        }
    }

    /// What opening a canary says by what the store holds now.
    pub(crate) fn open_stored(&self, canary: &Canary) -> Result<Result<(), OpenError>, KeyError> {
        let mut header = Vec::new();
        let kid = match veilstream_engine::token::decode(canary.token.as_bytes(), &mut header) {
            Ok(header) => header.kid,
            Err(error) => return Ok(Err(error)),
        };
        let Some(record) = self.store().unverified().get(&[kid])?.pop() else {
            return Ok(Err(OpenError::KeyUnavailable));
        };
        Ok(open_canary(canary, self.tenant(), &self.shared().unwrap(&record)?))
    }
}

fn open_canary(canary: &Canary, tenant: &str, key: &Arc<Key>) -> Result<(), OpenError> {
    let expected =
        Expected { fid: kdf::field_id(CANARY_FIELD), tenant, binding: None, owner: Owner::Any };
    Opener::default()
        .open(canary.token.as_bytes(), &expected, |_| Some(key.clone()), &mut Vec::new())
        .map(drop)
}

fn subject_of(record: &KeyRecord) -> SubjectRef {
    if let Scope::Subject(subject) = record.scope { subject } else { SubjectRef([0; 16]) }
}
