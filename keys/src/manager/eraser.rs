//! Erases data subjects, and forgets the keys that other processes erased or ended.
//!
//! Order: the ledger first, so that an erasure that was begun is completed by the next process
//! that opens the store; then the store; then a look whether it is so; then the signed receipt.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use veilstream_engine::error::OpenError;
use veilstream_engine::key::{KeyId, Scope, SubjectRef};

use super::canary::{open_stored, sealed};
use super::shared::SharedKeys;
use super::subjects::SubjectKeys;
use crate::KeyError;
use crate::erasure::{Canary, Erasure, LedgerCursor, Outcome, Position, Receipt, Recorded, Terms};
use crate::store::Scrubbed;

/// Subjects erased in one step of the store.
const BATCH: usize = 1000;
/// Clocks of hosts may differ by so much before an erasure elsewhere could be missed, in seconds.
const SKEW: u64 = 3600;

/// Erases in a store, its ledger and the keys in hand.
pub(super) struct Eraser<'a> {
    shared: &'a SharedKeys,
    subjects: &'a SubjectKeys,
    ledger: &'a LedgerCursor,
}

impl<'a> Eraser<'a> {
    pub(super) fn new(
        shared: &'a SharedKeys,
        subjects: &'a SubjectKeys,
        ledger: &'a LedgerCursor,
    ) -> Self {
        Self { shared, subjects, ledger }
    }

    /// [`Manager::shred`](super::Manager::shred).
    pub(super) fn shred(
        &self,
        subjects: &[SubjectRef],
        terms: &Terms<'_>,
        now: u64,
    ) -> Result<Vec<Outcome>, KeyError> {
        let signer = self.shared.signing_key(now)?;
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
        let store = self.shared.store();
        let mut canaries = sealed(self.shared, subjects)?;
        let mut lines = self.append(subjects, terms, now)?;
        let scrubbed = store.scrub()?;
        self.forget_ended(now)?;
        let head = Position::of(&store.head()?);
        let mut receipts = Vec::with_capacity(subjects.len());
        for subject in subjects {
            let line = lines.remove(subject).ok_or_else(|| KeyError::NotErased {
                subject: *subject,
                what: "it is not in the ledger".to_owned(),
            })?;
            let canary = canaries.remove(subject);
            self.check_erased(*subject, &line.erasure.kids, canary.as_ref())?;
            let receipt = (!line.erasure.kids.is_empty())
                .then(|| receipt(line, head, canary, &scrubbed, terms));
            receipts.push((*subject, receipt));
        }
        Ok(receipts)
    }

    /// Writes the erasures down and does them in the store; their lines.
    fn append(
        &self,
        subjects: &[SubjectRef],
        terms: &Terms<'_>,
        now: u64,
    ) -> Result<HashMap<SubjectRef, Recorded>, KeyError> {
        let mut wanted: Vec<Erasure> = subjects
            .iter()
            .map(|subject| Erasure {
                time: now,
                tenant: self.shared.tenant().to_string(),
                domain: terms.domain.map(str::to_owned),
                subject: *subject,
                kids: Vec::new(),
                may_return: terms.may_return,
                reason: terms.reason.to_owned(),
            })
            .collect();
        let mut lines: HashMap<SubjectRef, Recorded> = HashMap::new();
        // Where the store cannot keep others from making keys meanwhile, some are made between the
        // look and the deed: the ledger must know them as well.
        while !wanted.is_empty() {
            let (recorded, shredded) = self.ledger.append(self.shared.store(), &wanted, now)?;
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
        Ok(lines)
    }

    /// Looks at the store itself, beside every cache.
    fn check_erased(
        &self,
        subject: SubjectRef,
        kids: &[KeyId],
        canary: Option<&Canary>,
    ) -> Result<(), KeyError> {
        let incomplete = |what: String| Err(KeyError::NotErased { subject, what });
        let records = self.shared.store().unverified().get(kids)?;
        if let Some(record) = records.iter().find(|record| !record.is_destroyed()) {
            return incomplete(format!(
                "key {} is {} with {} wraps",
                record.kid,
                record.state.as_str(),
                record.wraps.len()
            ));
        }
        let Some(canary) = canary else { return Ok(()) };
        match open_stored(self.shared, canary)? {
            Err(OpenError::Erased) => Ok(()),
            other => incomplete(format!(
                "its canary token is {} and not erased",
                other.map_or_else(|e| e.to_string(), |()| "open".to_owned())
            )),
        }
    }

    /// Forgets the keys of data subjects that were erased, and others that were retired or found
    /// compromised, here or elsewhere.
    pub(super) fn forget_ended(&self, now: u64) -> Result<(), KeyError> {
        let (store, tenant) = (self.shared.store(), self.shared.tenant());
        let since = now.saturating_sub(self.subjects.lookup_age() + SKEW);
        let ended: HashSet<KeyId> = store.ended_since(tenant, since)?.into_iter().collect();
        let followed = self.follow_ledger();
        let known = self.shared.held().ended.clone();
        if !ended.is_subset(&known) {
            self.subjects.forget(|key| ended.contains(&key.id));
            self.shared.in_hand().change(|held| held.ended = Arc::new(ended));
        }
        followed
    }

    /// Reads what others wrote to the ledger, and forgets the keys of whom it names.
    fn follow_ledger(&self) -> Result<(), KeyError> {
        let store = self.shared.store();
        if self.ledger.follow(store)? {
            self.subjects.forget(|key| {
                matches!(key.scope, Scope::Subject(_))
                    && store.erased(|erased| erased.covers_key(key))
            });
        }
        Ok(())
    }
}

fn receipt(
    line: Recorded,
    head: Position,
    canary: Option<Canary>,
    scrubbed: &Scrubbed,
    terms: &Terms<'_>,
) -> Receipt {
    let Recorded { position, erasure } = line;
    Receipt {
        tenant: erasure.tenant,
        domain: erasure.domain,
        subject: erasure.subject,
        kids: erasure.kids,
        time: erasure.time,
        may_return: erasure.may_return,
        canary,
        line: position,
        head,
        remains: scrubbed.remains.iter().chain(terms.remains).cloned().collect(),
        backups_until: terms.backups_until,
    }
}
