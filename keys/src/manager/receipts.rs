//! What can still be checked of a receipt after the erasure.

use sha2::{Digest, Sha256};
use veilstream_engine::error::OpenError;
use veilstream_engine::key::{KeyId, KeyKind, Scope, SubjectRef};

use super::canary::open_stored;
use super::shared::SharedKeys;
use crate::erasure::{Canary, Check, Ledger, SignedReceipt, unhex};
use crate::store::KeyRecord;
use crate::{KeyError, time};

/// Checks receipts against the key store and the erasure ledger as they are now.
pub(super) struct ReceiptChecker<'a> {
    shared: &'a SharedKeys,
    ledger: &'a dyn Ledger,
}

impl<'a> ReceiptChecker<'a> {
    pub(super) fn new(shared: &'a SharedKeys, ledger: &'a dyn Ledger) -> Self {
        Self { shared, ledger }
    }

    /// [`Manager::check_receipt`](super::Manager::check_receipt).
    pub(super) fn check(&self, signed: &SignedReceipt, now: u64) -> Result<Vec<Check>, KeyError> {
        let mut checks = Vec::new();
        let mut note = |what, wrong: Option<String>| checks.push(Check { what, wrong });
        let trusted = self.shared.signing_key(now)?.verifying_key();
        note("signature", signed.verify(&trusted).err().map(|error| error.to_string()));
        note("keys destroyed", self.key_left(&signed.kids().unwrap_or_default())?);
        note("no live key", self.live_key(signed)?);
        if let Some(token) = signed.receipt["canary"]["token"].as_str() {
            let opened = open_stored(self.shared, &Canary { token: token.to_owned() })?;
            let wrong = match opened {
                Err(OpenError::Erased) => None,
                Ok(()) => Some("it opens".to_owned()),
                Err(error) => Some(error.to_string()),
            };
            note("canary erased", wrong);
        }
        note("in the erasure ledger", self.not_in_ledger(signed)?);
        Ok(checks)
    }

    /// A key of the receipt that is not destroyed, as the store has it, whatever the ledger says.
    fn key_left(&self, kids: &[KeyId]) -> Result<Option<String>, KeyError> {
        let records = self.shared.store().unverified().get(kids)?;
        Ok(records.iter().find(|record| !record.is_destroyed()).map(|record| {
            format!(
                "key {} is {} and has {} wraps",
                record.kid,
                record.state.as_str(),
                record.wraps.len()
            )
        }))
    }

    /// A key that the subject has now, and by the receipt should not have: any, or one of before it
    /// where the subject may return.
    fn live_key(&self, signed: &SignedReceipt) -> Result<Option<String>, KeyError> {
        let subject = signed.receipt["subject"].as_str().and_then(unhex).map(SubjectRef);
        let Some(subject) = subject else {
            return Ok(Some("the receipt names nobody".to_owned()));
        };
        let may_return = signed.receipt["may_return"] == true;
        let since = signed.receipt["time"].as_str().and_then(time::seconds).unwrap_or(u64::MAX);
        let records = self.shared.store().unverified().find(
            self.shared.tenant(),
            KeyKind::Data,
            &[Scope::Subject(subject)],
        )?;
        let is_allowed = |record: &KeyRecord| may_return && record.created >= since;
        let live = records.iter().find(|record| !record.wraps.is_empty() && !is_allowed(record));
        Ok(live.map(|record| {
            format!(
                "the subject has key {}, made at {}, which is {}",
                record.kid,
                time::text(record.created),
                record.state.as_str()
            )
        }))
    }

    /// Why the ledger does not hold the receipt's line.
    fn not_in_ledger(&self, signed: &SignedReceipt) -> Result<Option<String>, KeyError> {
        let named = &signed.receipt["ledger"];
        let (seq, sha256) = (named["seq"].as_u64(), named["sha256"].as_str().and_then(unhex::<32>));
        let (Some(seq), Some(sha256)) = (seq, sha256) else {
            return Ok(Some("the receipt names no line".to_owned()));
        };
        if named["store"].as_str().and_then(unhex) != Some(self.shared.store().head()?.store) {
            return Ok(Some("the ledger was rebuilt since, or is another store's".to_owned()));
        }
        let is_there = self
            .ledger
            .read(seq)?
            .first()
            .is_some_and(|line| <[u8; 32]>::from(Sha256::digest(line)) == sha256);
        Ok((!is_there).then(|| format!("line {seq} is not there or of somebody else")))
    }
}
