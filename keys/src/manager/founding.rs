//! How a manager comes to its store: founding one, opening one after its head and ledger were
//! checked, importing one, and rebuilding a lost ledger.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SecretKey, SubjectRef};

use super::minter::{Minter, Wrapper};
use super::minting::{checked, context_of};
use super::process::ProcessKeys;
use super::rewrap::recovered_secret;
use super::subjects::SubjectCache;
use super::{Held, Manager, Parts, Settings};
use crate::KeyError;
use crate::erasure::{
    Appender, Erasure, LedgerError, Position, Recorded, Verifier, first_line, marker, next_line,
};
use crate::provider::Provider;
use crate::store::{
    Authentic, Head, KeyRecord, Planned, STORE_TENANT, Shred, Shredded, Store, StoreError,
    StoreKeys,
};

/// Keys and subjects looked at in one step.
const BATCH: usize = 1000;
/// Attempts to append while others do.
const ATTEMPTS: usize = 20;

/// What [`Manager::rebuild_ledger`] made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuiltLedger {
    /// Data subjects that it names.
    pub subjects: u64,
    /// Where the old one was set aside, if it was there.
    pub kept: Option<String>,
}

impl Manager {
    /// Founds an empty store: its store key, line 0 of its ledger, its head.
    ///
    /// # Errors
    /// [`KeyError`]: it has been founded already, there is a ledger already, or a provider does not
    /// wrap.
    pub fn init(settings: Settings, parts: Parts, now: u64) -> Result<Self, KeyError> {
        if parts.store.head()?.is_some() {
            return Err(StoreError::Unusable {
                place: parts.store.place(),
                message: "is there already; nothing was changed".to_owned(),
            }
            .into());
        }
        let mut store = [0; 16];
        getrandom::fill(&mut store).map_err(|_| KeyError::Random)?;
        let tenant = STORE_TENANT.into();
        let minter = Minter::new(&tenant, &*parts.provider, parts.recovery.as_deref());
        let (record, secret) =
            minter.mint(KeyKind::Store, &Scope::Version(1), 1, now, &Wrapper::Providers)?;
        let keys = StoreKeys::of(&secret);
        let (line, position) = first_line(&keys, store, now);
        parts.ledger.append(0, &[line])?;
        parts.store.found(&record, &keys.head(&settings.tenant, store, 0, position.sha256))?;
        Self::open(settings, parts, now)
    }

    /// Checks the head and the ledger, erases what the ledger says and the store does not know,
    /// then loads the keys that processes share, which checks that the provider unwraps what the
    /// store holds. Mints nothing.
    ///
    /// # Errors
    /// Ledger or store cannot be read or are not as they should be, or the provider is not the one
    /// that wrapped the keys.
    pub fn open(settings: Settings, parts: Parts, now: u64) -> Result<Self, KeyError> {
        let manager = Self::open_checked(settings, parts, now, false)?;
        manager.reload()?;
        Ok(manager)
    }

    /// [`Manager::open`] without loading keys: where the provider does not open them,
    /// [`Manager::rewrap`] may mend it. The store key is opened by the recovery provider where the
    /// provider does not open it.
    ///
    /// # Errors
    /// Ledger or store cannot be read or are not as they should be.
    pub fn open_to_recover(settings: Settings, parts: Parts, now: u64) -> Result<Self, KeyError> {
        Self::open_checked(settings, parts, now, true)
    }

    fn open_checked(
        settings: Settings,
        parts: Parts,
        now: u64,
        recover: bool,
    ) -> Result<Self, KeyError> {
        let (keys, head) = unlocked(&settings, &parts, recover)?;
        let lines = parts.ledger.read(0)?;
        let recorded = Verifier::new(&keys, head.store).take_all(
            &parts.ledger.place(),
            &lines,
            &Position::of(&head),
        )?;
        let mut manager = Self::over(settings, parts, keys, Position::of(&head));
        manager.store.learn(&recorded);
        if recorded.last().is_some_and(|last| last.position.seq > head.seq) {
            let (_, shredded) = manager.append(&[], now)?;
            manager.revived = shredded.iter().map(|one| one.kids.len() as u64).sum();
        }
        manager.revived += manager.erase_again(now)?;
        if manager.revived > 0 {
            manager.store.scrub()?;
        }
        manager.take_up_erasures(now)?;
        Ok(manager)
    }

    pub(crate) fn over(settings: Settings, parts: Parts, keys: StoreKeys, known: Position) -> Self {
        let Parts { provider, recovery, store, ledger } = parts;
        Self {
            subjects: SubjectCache::new(settings.subject_cache),
            store: Authentic::new(store, keys, &settings.tenant),
            settings,
            process: std::process::id(),
            provider,
            recovery,
            ledger,
            known: Mutex::new(known),
            revived: 0,
            ring: ArcSwap::default(),
            turn: Mutex::default(),
            held: Mutex::new(Held {
                keys: HashMap::new(),
                process: ProcessKeys::new(),
                shredded: Arc::default(),
            }),
        }
    }

    /// Keys of erased subjects that were there again when the store was opened, and are destroyed:
    /// after a backup was restored, or somebody put rows back.
    #[must_use]
    pub fn revived(&self) -> u64 {
        self.revived
    }

    /// Writes erasures down and does them; the lines of those wanted, and what was shredded.
    /// Without any it does what the ledger says beyond the head.
    pub(crate) fn append(
        &self,
        wanted: &[Erasure],
        now: u64,
    ) -> Result<(Vec<Recorded>, Vec<Shredded>), KeyError> {
        let subjects: Vec<SubjectRef> = wanted.iter().map(|wanted| wanted.subject).collect();
        let asked: HashSet<SubjectRef> = subjects.iter().copied().collect();
        let mut attempt = 1;
        loop {
            let named = self.store.erased(|erased| {
                let mut named: BTreeMap<SubjectRef, Vec<KeyId>> = BTreeMap::new();
                erased
                    .kids()
                    .filter(|(_, subject)| asked.contains(subject))
                    .for_each(|(kid, subject)| named.entry(*subject).or_default().push(*kid));
                named
            });
            let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let mut appender = Appender::new(
                self.store.keys(),
                &*self.ledger,
                &self.settings.tenant,
                now,
                wanted,
                &named,
                known,
            );
            let done =
                self.store.erase(&subjects, now, &mut |head, records| appender.plan(head, records));
            let (learned, written, end) = appender.finish();
            // Durable lines count, whatever became of the store.
            self.store.learn(&learned);
            match done {
                Ok(shredded) => {
                    *self.known.lock().unwrap_or_else(PoisonError::into_inner) = end;
                    return Ok((learned[written].to_vec(), shredded));
                }
                Err(StoreError::Ledger(LedgerError::Moved { .. })) if attempt < ATTEMPTS => {
                    attempt += 1
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Erases again whom the ledger names and the store has, or lets in, all the same; how many
    /// keys that were.
    pub(crate) fn erase_again(&self, now: u64) -> Result<u64, KeyError> {
        let (kids, closed): (Vec<(KeyId, SubjectRef)>, Vec<SubjectRef>) =
            self.store.erased(|erased| {
                (
                    erased.kids().map(|(kid, subject)| (*kid, *subject)).collect(),
                    erased.closed().copied().collect(),
                )
            });
        let mut alive: BTreeMap<SubjectRef, Vec<KeyId>> = BTreeMap::new();
        for batch in kids.chunks(BATCH) {
            let ids: Vec<KeyId> = batch.iter().map(|(kid, _)| *kid).collect();
            for record in
                self.store.unverified().get(&ids)?.iter().filter(|record| is_alive(record))
            {
                let subject =
                    if let Scope::Subject(subject) = record.scope { subject } else { continue };
                alive.entry(subject).or_default().push(record.kid);
            }
        }
        for batch in closed.chunks(BATCH) {
            let scopes: Vec<Scope> = batch.iter().map(|subject| Scope::Subject(*subject)).collect();
            let mut open: HashSet<SubjectRef> = batch.iter().copied().collect();
            for record in
                self.store.unverified().find(&self.settings.tenant, KeyKind::Data, &scopes)?
            {
                let Scope::Subject(subject) = record.scope else { continue };
                open.remove(&subject);
                if is_alive(&record) {
                    alive.entry(subject).or_default().push(record.kid);
                }
            }
            for subject in open {
                alive.entry(subject).or_default();
            }
        }
        let mut erased = 0;
        let alive: Vec<(SubjectRef, Vec<KeyId>)> = alive.into_iter().collect();
        for batch in alive.chunks(BATCH) {
            let shreds = batch
                .iter()
                .map(|(subject, kids)| {
                    let is_closed = self.store.erased(|erased| erased.is_closed(subject));
                    Ok(Shred {
                        subject: *subject,
                        all: is_closed,
                        kids: kids.clone(),
                        marker: marker(&self.settings.tenant, *subject, !is_closed, now)?,
                    })
                })
                .collect::<Result<Vec<_>, KeyError>>()?;
            let done = self.store.erase(&[], now, &mut |head, _| {
                Ok(Planned { shreds: shreds.clone(), head: head.clone() })
            })?;
            erased += done.iter().map(|one| one.kids.len() as u64).sum::<u64>();
        }
        Ok(erased)
    }

    /// The erasure ledger's head as this process knows it, without asking the store: at most as old
    /// as the last look at the ledger.
    #[must_use]
    pub fn ledger_head(&self) -> Position {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what others wrote to the ledger.
    pub(super) fn take_up_ledger(&self) -> Result<(), KeyError> {
        let head = Position::of(&self.store.head()?);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == head {
            return Ok(());
        }
        let place = self.ledger.place();
        if known.store == head.store {
            if head.seq < known.seq {
                let message = "the key store knows less of it than a moment ago: an older store \
                    has its place; start this process again"
                    .to_owned();
                return Err(LedgerError::Unusable { place, message }.into());
            }
            let lines = self.ledger.read(known.seq + 1)?;
            let recorded =
                Verifier::behind(self.store.keys(), *known).take_all(&place, &lines, &head)?;
            self.store.learn(&recorded);
        } else {
            // Rebuilt.
            let lines = self.ledger.read(0)?;
            let recorded =
                Verifier::new(self.store.keys(), head.store).take_all(&place, &lines, &head)?;
            self.store.unlearn();
            self.store.learn(&recorded);
        }
        *known = head;
        drop(known);
        self.subjects.forget(|key| {
            matches!(key.scope, Scope::Subject(_))
                && self.store.erased(|erased| erased.covers_key(key))
        });
        Ok(())
    }

    /// Writes a new ledger under a new store id from what the store knows, for one that is lost:
    /// for each data subject with shredded keys a line of them.
    ///
    /// # Errors
    /// [`KeyError`]; [`LedgerError::Exists`]: the ledger is as it should be.
    pub fn rebuild_ledger(
        settings: Settings,
        parts: Parts,
        reason: &str,
        now: u64,
    ) -> Result<RebuiltLedger, KeyError> {
        let (keys, head) = unlocked(&settings, &parts, false)?;
        let position = Position::of(&head);
        if Verifier::new(&keys, head.store)
            .take_all(&parts.ledger.place(), &parts.ledger.read(0)?, &position)
            .is_ok()
        {
            return Err(KeyError::LedgerWhole { place: parts.ledger.place() });
        }
        let manager = Self::over(settings, parts, keys, position);
        let erased = manager.erased_by_rows()?;
        let mut store = [0; 16];
        getrandom::fill(&mut store).map_err(|_| KeyError::Random)?;
        let (first, mut last) = first_line(manager.store.keys(), store, now);
        let mut lines = vec![first];
        for (subject, (may_return, kids)) in &erased {
            let erasure = Erasure {
                time: now,
                tenant: manager.settings.tenant.to_string(),
                domain: None,
                subject: *subject,
                kids: kids.clone(),
                may_return: *may_return,
                reason: format!("rebuilt: {reason}"),
            };
            let (line, position) = next_line(manager.store.keys(), &last, &erasure);
            lines.push(line);
            last = position;
        }
        let kept = manager.ledger.replace(&lines, now)?;
        let new =
            manager.store.keys().head(&manager.settings.tenant, last.store, last.seq, last.sha256);
        manager
            .store
            .erase(&[], now, &mut |_, _| Ok(Planned { shreds: Vec::new(), head: new.clone() }))?;
        Ok(RebuiltLedger { subjects: erased.len() as u64, kept })
    }

    /// Data subjects with shredded keys: whether they may return, by their newest record, and those
    /// keys.
    fn erased_by_rows(&self) -> Result<BTreeMap<SubjectRef, (bool, Vec<KeyId>)>, KeyError> {
        let mut subjects: BTreeMap<SubjectRef, (u32, bool, Vec<KeyId>)> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = self.store.subjects(&self.settings.tenant, after.as_ref(), BATCH)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (_, record) in page {
                let record = record?;
                let Scope::Subject(subject) = record.scope else { continue };
                let entry = subjects.entry(subject).or_insert((0, true, Vec::new()));
                if record.version >= entry.0 {
                    (entry.0, entry.1) = (record.version, record.state != KeyState::Shredded);
                }
                entry.2.extend((record.state == KeyState::Shredded).then_some(record.kid));
            }
        }
        Ok(subjects
            .into_iter()
            .filter(|(_, (_, _, kids))| !kids.is_empty())
            .map(|(subject, (_, may, kids))| (subject, (may, kids)))
            .collect())
    }
}

fn is_alive(record: &KeyRecord) -> bool {
    record.state != KeyState::Shredded || !record.wraps.is_empty()
}

/// The record of the store key: one, active, of version 1.
///
/// # Errors
/// [`StoreError`]: there is none, or it was changed.
pub(crate) fn store_key_record(store: &dyn Store) -> Result<KeyRecord, StoreError> {
    let mut found = store.find(STORE_TENANT, KeyKind::Store, &[Scope::Version(1)])?;
    let record = found.pop().ok_or_else(|| StoreError::Unfounded { place: store.place() })?;
    let is_whole = found.is_empty()
        && record.state == KeyState::Active
        && record.version == 1
        && record.retired.is_none()
        && !record.wraps.is_empty();
    if is_whole {
        Ok(record)
    } else {
        Err(StoreError::Corrupt { place: store.place(), kid: record.kid })
    }
}

/// The keys of the store, and its head, which they hold.
fn unlocked(
    settings: &Settings,
    parts: &Parts,
    recover: bool,
) -> Result<(StoreKeys, Head), KeyError> {
    let store = &*parts.store;
    let head = store.head()?.ok_or_else(|| StoreError::Unfounded { place: store.place() })?;
    if head.tenant != settings.tenant {
        return Err(KeyError::OtherTenant {
            place: store.place(),
            found: head.tenant.to_string(),
            expected: settings.tenant.to_string(),
        });
    }
    let record = store_key_record(store)?;
    let keys = StoreKeys::of(&secret_of(
        &record,
        &*parts.provider,
        parts.recovery.as_deref().filter(|_| recover),
    )?);
    if keys.holds_head(&head) {
        Ok((keys, head))
    } else {
        Err(LedgerError::Head { place: store.place() }.into())
    }
}

/// A key's secret by the provider, else by the recovery provider.
pub(crate) fn secret_of(
    record: &KeyRecord,
    provider: &dyn Provider,
    recovery: Option<&dyn Provider>,
) -> Result<SecretKey, KeyError> {
    let by_provider = || {
        let wrap = record
            .wraps
            .iter()
            .find(|wrap| provider.opens(&wrap.kek_uri))
            .ok_or_else(|| other_provider(record, provider))?;
        checked(record, provider.unwrap(wrap, &context_of(record))?)
    };
    match (by_provider(), recovery) {
        (Err(_), Some(recovery)) => recovered_secret(recovery, record),
        (secret, _) => secret,
    }
}

pub(super) fn other_provider(record: &KeyRecord, provider: &dyn Provider) -> KeyError {
    KeyError::OtherProvider {
        kid: record.kid,
        kind: record.kind,
        scope: record.scope.clone(),
        wrapped_by: record
            .wraps
            .first()
            .map_or_else(|| "nobody".to_owned(), |wrap| wrap.kek_uri.clone()),
        provider: provider.name(),
    }
}
