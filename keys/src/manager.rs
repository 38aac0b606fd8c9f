//! The key manager: mints keys, stores them before their first use, unwraps stored ones, replaces
//! those of this process before they are spent, and reads what other processes made, rotated or
//! erased. Nobody waits for a provider or store with a lock that others need for keys in hand.
//!
//! [`Manager`] is the facade. The rules stand with what they are about:
//!
//! | type | owns or borrows |
//! |---|---|
//! | `SharedKeys` | owns store, providers, the turn to make keys, and the keys in hand (`HeldKeys`) |
//! | `ProcessKeys` | borrows the shared keys: mints, counts and ends those of this process |
//! | `SubjectKeys` | owns the cache of data subjects' keys |
//! | `Minter` | borrows the providers: a key, its wraps and its record |
//! | `Rotator`, `Retirement`, `Rewrapper` | borrow the keys: new versions, states, wraps |
//! | `Eraser`, `ReceiptChecker` | borrow the keys and the ledger |

mod canary;
mod eraser;
mod held;
mod minter;
mod open;
mod pins;
mod process;
mod rebuild;
mod receipts;
mod retire;
mod rewrap;
mod rotation;
mod settings;
mod shared;
mod subjects;

use std::sync::Arc;

use ed25519_dalek::{SigningKey, VerifyingKey};
use serde_json::Value;
use veilstream_engine::Keyring;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::interop::InteropKeys;
use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_engine::subject::subject_reference;
use veilstream_engine::transform::NeededKey;

use crate::KeyError;
use crate::erasure::{Check, Ledger, LedgerCursor, Outcome, Position, SignedReceipt, Terms};
use crate::escrow::{self, Escrow, EscrowError};
use crate::provider::Provider;
use crate::store::{Authentic, KeyRecord};
use eraser::Eraser;
use pins::pinned;
use process::ProcessKeys;
use receipts::ReceiptChecker;
use retire::Retirement;
use rewrap::Rewrapper;
use rotation::Rotator;
use shared::{SharedKeys, not_active};
use subjects::SubjectKeys;

pub use process::SCHEMA_KEY_LIFE;
pub use rebuild::RebuiltLedger;
pub use retire::RetireError;
pub use rewrap::{Progress, Rewrapped};
pub use rotation::{Rotate, Rotated};
pub use settings::{Parts, Settings};

/// Seconds between two looks at whether something is to be rotated.
const ROTATION_LOOK: u64 = 60;

/// The keys of one tenant. Shared by all threads of a process; times are Unix seconds and given by
/// the caller.
pub struct Manager {
    shared: SharedKeys,
    subjects: SubjectKeys,
    ledger: LedgerCursor,
    /// Seconds after which keys are rotated; `None`: by hand alone.
    rotation: Option<u64>,
    /// Keys of erased subjects that were there again at the start.
    revived: u64,
}

impl Manager {
    /// Mints the first version of every root that is not there.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn prepare_roots(&self, now: u64) -> Result<(), KeyError> {
        self.shared.prepare_roots(now)
    }

    /// Mints what these schemas need and is not there yet.
    ///
    /// # Errors
    /// [`KeyError`]; the schemas must not come into force.
    pub fn prepare(&self, schemas: &SchemaSet, now: u64) -> Result<(), KeyError> {
        self.prepare_roots(now)?;
        let turn = self.shared.turn();
        for schema in schemas.schemas() {
            for (kind, version) in pinned(schema) {
                self.shared.root(&turn, kind, version, now)?;
            }
            if schema.uses_schema_key() {
                self.process().sealing(&turn, &schema.name, now)?;
            }
        }
        Ok(())
    }

    /// Takes keys of other systems, which later snapshots hold.
    pub fn take_interop(&self, keys: Arc<InteropKeys>) {
        self.shared.in_hand().change(|held| held.interop = keys);
    }

    /// The snapshot for a new batch: roots, shared keys and the keys of this process.
    #[must_use]
    pub fn keyring(&self) -> Arc<Keyring> {
        self.shared.in_hand().drop_copied();
        self.shared.in_hand().keyring()
    }

    /// Keys the engine asked for, loaded or minted, in the order asked for. For an erased data
    /// subject it is a shredded key without a secret.
    ///
    /// # Errors
    /// [`KeyError`]; nothing may be sealed for that scope.
    pub fn fetch(&self, needed: &[NeededKey], now: u64) -> Result<Vec<Arc<Key>>, KeyError> {
        self.shared.in_hand().drop_copied();
        let subject = |needed: &NeededKey| {
            if let Scope::Subject(subject) = needed.scope { Some(subject) } else { None }
        };
        let wanted = needed.iter().filter_map(subject).collect();
        let subjects = self.subjects.sealing(&self.shared, wanted, now)?;
        let mut keys = Vec::with_capacity(needed.len());
        for NeededKey { kind, scope } in needed {
            keys.push(match scope {
                Scope::Subject(subject) => subjects
                    .get(subject)
                    .cloned()
                    .ok_or_else(|| not_active(*kind, scope, KeyState::Retired))?,
                Scope::Schema(name) => self.process().sealing(&self.shared.turn(), name, now)?,
                Scope::Version(version) => match self.shared.root_in_hand(*kind, scope) {
                    Some(root) => root,
                    None => self.shared.root(&self.shared.turn(), *kind, *version, now)?,
                },
                Scope::Shared(_) | Scope::Epoch(_) => {
                    self.shared.load_or_mint(&self.shared.turn(), *kind, scope, now)?
                }
            });
        }
        Ok(keys)
    }

    /// The key of that id, whatever its state; without its secret when it is retired or shredded.
    /// `None`: not in this store.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn lookup(&self, kid: &KeyId, now: u64) -> Result<Option<Arc<Key>>, KeyError> {
        self.lookup_of(kid, now, |_, _| true)
    }

    /// [`Manager::lookup`] for anyone who opens values for others: keys of dead letters and
    /// compromised keys are not there, and are not unwrapped.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn lookup_for_reading(&self, kid: &KeyId, now: u64) -> Result<Option<Arc<Key>>, KeyError> {
        self.lookup_of(kid, now, opens_for_others)
    }

    /// What [`Manager::lookup_for_reading`] finds in memory. Does not block.
    #[must_use]
    pub fn held_for_reading(&self, kid: &KeyId, now: u64) -> Option<Arc<Key>> {
        self.held(kid, now).filter(|key| opens_for_others(key.kind, key.state))
    }

    fn held(&self, kid: &KeyId, now: u64) -> Option<Arc<Key>> {
        self.subjects.looked_up(kid, now).or_else(|| {
            let held = self.shared.held();
            held.keys.get(kid).cloned().or_else(|| held.process.get(kid))
        })
    }

    fn lookup_of(
        &self,
        kid: &KeyId,
        now: u64,
        is_wanted: impl Fn(KeyKind, KeyState) -> bool,
    ) -> Result<Option<Arc<Key>>, KeyError> {
        if let Some(key) = self.held(kid, now) {
            return Ok(Some(key).filter(|key| is_wanted(key.kind, key.state)));
        }
        loop {
            let generation = self.subjects.generation();
            let record = self.shared.store().get(std::slice::from_ref(kid))?.pop();
            let wanted = |kind, state| is_wanted(kind, state) && self.shared.unwraps(kind);
            let Some(record) = record.filter(|record| wanted(record.kind, record.state)) else {
                return Ok(None);
            };
            let key = self.shared.unwrap(&record)?;
            // Where keys were forgotten since, this one may be among them: it is looked at again.
            if self.subjects.keep_lookup(key.clone(), now, generation) {
                return Ok(Some(key));
            }
        }
    }

    /// Called about once a second, by one thread: forgets keys that other processes erased, retired
    /// or found compromised. It asks no provider, so a key service that hangs holds up no erasure.
    ///
    /// # Errors
    /// [`KeyError`]; the next call tries again.
    pub fn follow(&self, now: u64) -> Result<(), KeyError> {
        self.eraser().forget_ended(now)
    }

    /// Called about once a second, by one thread: takes keys in hand that other processes made,
    /// replaces those of this process before they are spent or old, rotates what is due and stores
    /// uses once a minute.
    ///
    /// # Errors
    /// The first [`KeyError`]; what is in hand stays good until it is spent, and the next call
    /// tries again.
    pub fn renew(&self, now: u64) -> Result<(), KeyError> {
        let mut first = Ok(());
        let mut then = |step: Result<(), KeyError>| {
            if first.is_ok() {
                first = step;
            }
        };
        // Not within the turn: those who need it would wait for a server that hangs.
        if self.shared.is_reload_due(now) {
            then(self.shared.reload());
            self.subjects.sweep(now);
        }
        let mut turn = self.shared.turn();
        let due = self.shared.held().process.due(now);
        for schema in due {
            then(self.process().mint(&turn, &schema, now).map(drop));
        }
        if now.abs_diff(turn.rotation) >= ROTATION_LOOK {
            turn.rotation = now;
            if let Some(interval) = self.rotation {
                then(self.rotator().rotate_due(&mut turn, interval, now));
            }
        }
        then(self.process().save_uses(now));
        first
    }

    /// Makes new versions, which seal from now on, here and, a few seconds later, in every process.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn rotate(&self, what: &Rotate, now: u64) -> Result<Vec<Rotated>, KeyError> {
        self.rotator().rotate(what, now)
    }

    /// Moves every wrap to the newest version of its key-encrypting or wrapping key, and adds what
    /// the recovery provider has not wrapped yet. With `recover`, a key that the provider does not
    /// open is opened by the recovery provider and wrapped again.
    ///
    /// # Errors
    /// [`KeyError`]; what was moved stays so. A key that alone could not be moved is in
    /// [`Rewrapped::failed`].
    pub fn rewrap(
        &self,
        recover: bool,
        now: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Rewrapped, KeyError> {
        Rewrapper::new(&self.shared, recover).rewrap(now, progress)
    }

    /// Retires a key: tokens under it answer `key_unavailable`, its indexes are written no more.
    /// `schemas`: those in use, for what they pin. `unreferenced`: the caller has looked through
    /// what is stored, which nobody can do here, and found no token or index of it.
    ///
    /// # Errors
    /// [`RetireError`]; the key is as it was.
    pub fn retire(
        &self,
        kid: &KeyId,
        schemas: &SchemaSet,
        unreferenced: bool,
        now: u64,
    ) -> Result<(), RetireError> {
        self.retirement().retire(kid, schemas, unreferenced, now)
    }

    /// Takes a retirement back: the key opens again, and an index root is written again.
    ///
    /// # Errors
    /// [`RetireError`]: it is not retired.
    pub fn unretire(&self, kid: &KeyId) -> Result<(), RetireError> {
        self.retirement().unretire(kid)
    }

    /// Marks a key that others may know: it seals nothing any more, and opens only for who says so.
    /// Where it was in use another one is made.
    ///
    /// # Errors
    /// [`RetireError`]: it is shredded, one that cannot be replaced, or not there.
    pub fn compromise(&self, kid: &KeyId, now: u64) -> Result<(), RetireError> {
        self.retirement().compromise(kid, now)
    }

    /// The schemas that seal or index with an active root: those that pin it, and of an index root
    /// those that pin none.
    #[must_use]
    pub fn used_by(root: &KeyRecord, schemas: &SchemaSet) -> Vec<String> {
        pins::used_by(root, schemas)
    }

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
        let no_key = || not_active(KeyKind::SubjectRef, &scope, KeyState::Retired);
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
        self.eraser().shred(subjects, terms, now)
    }

    /// The public key that receipts are verified with, for anyone who has no key store.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn receipt_key(&self, now: u64) -> Result<VerifyingKey, KeyError> {
        Ok(self.shared.signing_key(now)?.verifying_key())
    }

    /// The key that signs the audit log's checkpoints. Anyone who holds it can sign no receipts.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn checkpoint_signing_key(&self, now: u64) -> Result<SigningKey, KeyError> {
        self.shared.checkpoint_signing_key(now)
    }

    /// Checks a receipt against the key store and the erasure ledger as they are now.
    ///
    /// # Errors
    /// [`KeyError`]: something cannot be looked at.
    pub fn check_receipt(&self, signed: &SignedReceipt, now: u64) -> Result<Vec<Check>, KeyError> {
        ReceiptChecker::new(&self.shared, self.ledger()).check(signed, now)
    }

    /// Every key but those of data subjects, or the ones listed, as they are wrapped, signed with
    /// the audit key (which is among them).
    ///
    /// # Errors
    /// [`EscrowError`].
    pub fn export(&self, kids: &[KeyId], now: u64) -> Result<Value, EscrowError> {
        Escrow::new(self.store(), &self.shared.signing_key(now)?).export(kids, now)
    }

    /// Imports the keys of an export that was signed with the audit key in it, which the provider
    /// or the recovery provider must open. A store without store key and head gets the export's:
    /// the ledger is checked as a whole, up to the exported head at least, and who is in it is
    /// erased here too. Keys of processes only open from then on. Returns how many there were.
    ///
    /// # Errors
    /// [`EscrowError`]; nothing was taken, but for what [`EscrowError::Taken`] does not name.
    pub fn import(
        settings: Settings,
        parts: Parts,
        text: &[u8],
        now: u64,
    ) -> Result<usize, EscrowError> {
        escrow::import(&settings.tenant, parts, text, now)
    }

    /// Writes a new ledger under a new store id from what the store knows, for one that is lost:
    /// for each data subject with shredded keys a line of them.
    ///
    /// # Errors
    /// [`KeyError`]; [`KeyError::LedgerWhole`]: the ledger is as it should be.
    pub fn rebuild_ledger(
        settings: Settings,
        parts: Parts,
        reason: &str,
        now: u64,
    ) -> Result<RebuiltLedger, KeyError> {
        rebuild::rebuild_ledger(&settings, parts, reason, now)
    }

    /// Schemas with the uses and the time of making of their present key of this process.
    #[must_use]
    pub fn usage(&self) -> Vec<(Arc<str>, u64, u64)> {
        self.shared.held().process.usage()
    }

    /// Keys of erased subjects that were there again when the store was opened, and are destroyed:
    /// after a backup was restored, or somebody put rows back.
    #[must_use]
    pub fn revived(&self) -> u64 {
        self.revived
    }

    /// [`Settings::tenant`].
    #[must_use]
    pub fn tenant(&self) -> &Arc<str> {
        self.shared.tenant()
    }

    /// The store of the wrapped keys, for reports.
    #[must_use]
    pub fn store(&self) -> &Authentic {
        self.shared.store()
    }

    /// The erasure ledger, for reports.
    #[must_use]
    pub fn ledger(&self) -> &dyn Ledger {
        self.ledger.ledger()
    }

    /// The erasure ledger's head as this process knows it, without asking the store: at most as old
    /// as the last look at the ledger.
    #[must_use]
    pub fn ledger_head(&self) -> Position {
        self.ledger.known()
    }

    /// The provider of the key-encrypting key.
    #[must_use]
    pub fn provider(&self) -> &dyn Provider {
        self.shared.provider()
    }

    fn eraser(&self) -> Eraser<'_> {
        Eraser::new(&self.shared, &self.subjects, &self.ledger)
    }

    fn process(&self) -> ProcessKeys<'_> {
        ProcessKeys::new(&self.shared)
    }

    fn rotator(&self) -> Rotator<'_> {
        Rotator::new(&self.shared, &self.subjects)
    }

    fn retirement(&self) -> Retirement<'_> {
        Retirement::new(&self.shared, &self.subjects)
    }
}

impl Drop for Manager {
    /// Nobody seals with the keys of this process any more; where that cannot be written down now,
    /// their age tells.
    fn drop(&mut self) {
        if !self.shared.in_hand().is_copy() {
            let _ = self.process().close();
        }
    }
}

/// Whether keys may open values for others: not those of dead letters, and no compromised ones.
#[must_use]
pub fn opens_for_others(kind: KeyKind, state: KeyState) -> bool {
    kind != KeyKind::DeadLetter && state != KeyState::Compromised
}
