//! Wraps moved to the newest version of what wraps them. No token changes; a wrap is replaced only
//! when the new one was seen to open. What was moved is not moved again: an interrupted run
//! resumes.

use veilstream_engine::key::{Key, KeyId, Scope};
use veilstream_engine::wrap::WrapContext;

use super::shared::SharedKeys;
use crate::KeyError;
use crate::provider::{Kek, Provider};
use crate::store::{KeyRecord, Seen, Wrap, WrapChange, store_key_record};
use crate::wraps::{
    RECOVERY, by_provider, checked, context_of, other_provider, provider_secret, recovered_secret,
    unwrap_under, without_prefix, wrap_under, wrapping_kid,
};

/// Wraps sent to a provider at once.
const BATCH: usize = 200;
/// Keys of data subjects read and written at once.
const PAGE: usize = 1000;

/// How far a [`Manager::rewrap`](super::Manager::rewrap) is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Number of keys looked at; at most `total`.
    pub done: u64,
    /// Number of keys, as counted at the start.
    pub total: u64,
}

/// What a [`Manager::rewrap`](super::Manager::rewrap) did, in numbers of wraps.
#[derive(Debug, Default)]
pub struct Rewrapped {
    /// Wraps moved to the newest version.
    pub moved: u64,
    /// Wraps that were lost to the provider and made again by way of the recovery provider.
    pub recovered: u64,
    /// Wraps of the recovery provider that were missing.
    pub added: u64,
    /// Wraps that were the newest already.
    pub current: u64,
    /// Keys that could not be moved, and why.
    pub failed: Vec<(KeyId, KeyError)>,
}

/// A wrap to be moved.
struct Job<'a> {
    record: &'a KeyRecord,
    wrap: &'a Wrap,
}

/// One run over all keys of a store.
pub(super) struct Rewrapper<'a> {
    shared: &'a SharedKeys,
    /// Whether keys that the provider does not open are opened by the recovery provider.
    recover: bool,
    done: Rewrapped,
}

impl<'a> Rewrapper<'a> {
    pub(super) fn new(shared: &'a SharedKeys, recover: bool) -> Self {
        Self { shared, recover, done: Rewrapped::default() }
    }

    /// [`Manager::rewrap`](super::Manager::rewrap).
    pub(super) fn rewrap(
        mut self,
        now: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Rewrapped, KeyError> {
        if self.recover && self.shared.recovery().is_none() {
            return Err(KeyError::NoRecovery);
        }
        let (store, tenant) = (self.shared.store(), self.shared.tenant());
        let mut records: Vec<KeyRecord> =
            store.list(tenant)?.into_iter().filter(|record| !record.wraps.is_empty()).collect();
        // It opens everything else's MAC, so it goes first.
        records.insert(0, store_key_record(store.unverified())?);
        let subjects = store.count_subjects(tenant)?;
        let total = records.len() as u64 + subjects.keys + subjects.shredded;
        progress(Progress { done: 0, total });
        let kek = self.shared.provider().describe()?;
        for (i, batch) in records.chunks(BATCH).enumerate() {
            let unopened = self.rewrap_primary(batch, &kek)?;
            if self.recover {
                self.recover(&unopened)?;
            }
            self.rewrap_recovery(batch)?;
            progress(Progress { done: (i * BATCH + batch.len()) as u64, total });
        }
        // What was recovered is needed below; what was not is among the failed.
        match self.shared.reload() {
            Err(error) if self.done.failed.is_empty() => return Err(error),
            _ => {}
        }
        self.rewrap_subjects(records.len() as u64, total, now, progress)?;
        Ok(self.done)
    }

    /// Moves wraps of the provider; returns keys that it does not open.
    fn rewrap_primary<'r>(
        &mut self,
        batch: &'r [KeyRecord],
        kek: &Kek,
    ) -> Result<Vec<&'r KeyRecord>, KeyError> {
        let provider = self.shared.provider();
        let mut unopened = Vec::new();
        let mut jobs = Vec::new();
        for record in batch {
            match by_provider(record, provider) {
                None if self.recover => unopened.push(record),
                None => self.done.failed.push((record.kid, other_provider(record, provider))),
                // A lost key-encrypting key and its successor may have the same name.
                Some(wrap) if self.recover && !still_opens(provider, record, wrap)? => {
                    unopened.push(record)
                }
                Some(wrap) if is_current(wrap, kek) => self.done.current += 1,
                Some(wrap) => jobs.push(Job { record, wrap }),
            }
        }
        self.move_wraps(provider, &jobs, "")?;
        Ok(unopened)
    }

    /// Wraps again, by way of the recovery provider, what the provider does not open.
    fn recover(&mut self, unopened: &[&KeyRecord]) -> Result<(), KeyError> {
        let Some(recovery) = self.shared.recovery() else { return Err(KeyError::NoRecovery) };
        let mut changes = Vec::new();
        for record in unopened {
            let change = recovered(record, recovery, self.shared.provider());
            changes.extend(self.noted(record.kid, change)?);
        }
        self.done.recovered += self.shared.store().replace_wraps(&changes)?;
        Ok(())
    }

    /// Moves wraps of the recovery provider, and adds missing ones.
    fn rewrap_recovery(&mut self, batch: &[KeyRecord]) -> Result<(), KeyError> {
        let Some(recovery) = self.shared.recovery() else { return Ok(()) };
        let kek = recovery.describe()?;
        let (mut jobs, mut added) = (Vec::new(), Vec::new());
        for record in batch {
            let wrap = record.wraps.iter().find(|wrap| {
                wrap.kek_uri.strip_prefix(RECOVERY).is_some_and(|uri| recovery.opens(uri))
            });
            match wrap {
                Some(wrap) if is_current(&without_prefix(wrap), &kek) => self.done.current += 1,
                Some(wrap) => jobs.push(Job { record, wrap }),
                None => {
                    // As the store has it now: its wraps may just have been moved.
                    let Some(record) = self.shared.store().get(&[record.kid])?.pop() else {
                        continue;
                    };
                    let new = self.wrapped_for_recovery(&record);
                    added.extend(self.noted(record.kid, new)?.flatten());
                }
            }
        }
        self.move_wraps(recovery, &jobs, RECOVERY)?;
        self.done.added += self.shared.store().replace_wraps(&added)?;
        Ok(())
    }

    fn wrapped_for_recovery(&self, record: &KeyRecord) -> Result<Option<WrapChange>, KeyError> {
        let secret = provider_secret(record, self.shared.provider())?;
        let new = self.shared.minter().wrap_for_recovery(&secret, &context_of(record))?;
        Ok(new.map(|new| WrapChange { kid: record.kid, old: None, new }))
    }

    /// Moves wraps to the newest version of the provider's key. `prefix`: how their `kek_uri`
    /// starts in the store.
    fn move_wraps(
        &mut self,
        provider: &dyn Provider,
        jobs: &[Job<'_>],
        prefix: &str,
    ) -> Result<(), KeyError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let plain: Vec<Wrap> = jobs.iter().map(|job| without_prefix(job.wrap)).collect();
        let asked: Vec<(&Wrap, WrapContext<'_>)> =
            plain.iter().zip(jobs).map(|(wrap, job)| (wrap, context_of(job.record))).collect();
        let mut changes = Vec::new();
        for (answer, job) in provider.rewrap(&asked)?.into_iter().zip(jobs) {
            // The old wrap goes: the new one must be seen to hold the key.
            let proved = answer.map_err(KeyError::from).and_then(|new| {
                checked(job.record, provider.unwrap(&new, &context_of(job.record))?)?;
                let new = Wrap { kek_uri: format!("{prefix}{}", new.kek_uri), ..new };
                Ok(WrapChange { kid: job.record.kid, old: Some(job.wrap.clone()), new })
            });
            changes.extend(self.noted(job.record.kid, proved)?);
        }
        self.done.moved += self.shared.store().replace_wraps(&changes)?;
        Ok(())
    }

    /// Moves keys of data subjects under the newest wrapping key. They are unwrapped and wrapped
    /// here: no request to a key service.
    fn rewrap_subjects(
        &mut self,
        before: u64,
        total: u64,
        now: u64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), KeyError> {
        if before == total {
            return Ok(());
        }
        let wrapping = match self.shared.wrapping_key(now) {
            Ok(key) => key,
            // It is among them.
            Err(_) if !self.done.failed.is_empty() => return Ok(()),
            Err(error) => return Err(error),
        };
        let (store, tenant) = (self.shared.store(), self.shared.tenant());
        let (mut after, mut seen) = (None, before);
        loop {
            let page = store.subjects(tenant, after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            seen += page.len() as u64;
            self.rewrap_page(&wrapping, page)?;
            progress(Progress { done: seen.min(total), total });
        }
    }

    fn rewrap_page(&mut self, wrapping: &Key, page: Vec<Seen>) -> Result<(), KeyError> {
        let mut records = Vec::with_capacity(page.len());
        for (kid, record) in page {
            match record {
                Ok(record) => records.push(record),
                Err(error) => self.done.failed.push((kid, error.into())),
            }
        }
        let mut changes = Vec::new();
        for record in records.iter().filter(|record| matches!(record.scope, Scope::Subject(_))) {
            for wrap in &record.wraps {
                match wrapping_kid(wrap) {
                    Some(kid) if kid == wrapping.id => self.done.current += 1,
                    Some(_) => match self.moved_under(wrapping, record, wrap) {
                        Ok(change) => changes.push(change),
                        Err(error) => self.done.failed.push((record.kid, error)),
                    },
                    None => {}
                }
            }
        }
        self.done.moved += self.shared.store().replace_wraps(&changes)?;
        Ok(())
    }

    fn moved_under(
        &self,
        wrapping: &Key,
        record: &KeyRecord,
        wrap: &Wrap,
    ) -> Result<WrapChange, KeyError> {
        let context = context_of(record);
        let old = wrapping_kid(wrap)
            .map(|kid| self.shared.wrapping_key_of(&kid))
            .transpose()?
            .flatten()
            .ok_or_else(|| other_provider(record, self.shared.provider()))?;
        let secret = checked(record, unwrap_under(&old, wrap, &context)?)?;
        Ok(WrapChange {
            kid: record.kid,
            old: Some(wrap.clone()),
            new: wrap_under(wrapping, &secret, &context)?,
        })
    }

    /// Notes a key that could not be moved. A provider that is away ends the run instead.
    fn noted<T>(&mut self, kid: KeyId, done: Result<T, KeyError>) -> Result<Option<T>, KeyError> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(KeyError::Provider(error)) if error.is_retryable() => Err(error.into()),
            Err(error) => {
                self.done.failed.push((kid, error));
                Ok(None)
            }
        }
    }
}

fn still_opens(provider: &dyn Provider, record: &KeyRecord, wrap: &Wrap) -> Result<bool, KeyError> {
    match provider.unwrap(wrap, &context_of(record)) {
        Ok(_) => Ok(true),
        Err(error) if error.is_retryable() => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// The wrap of the provider that takes the place of a lost one.
fn recovered(
    record: &KeyRecord,
    recovery: &dyn Provider,
    provider: &dyn Provider,
) -> Result<WrapChange, KeyError> {
    let context = context_of(record);
    let secret = recovered_secret(record, recovery)?;
    let new = provider.wrap(&secret, &context)?;
    checked(record, provider.unwrap(&new, &context)?)?;
    // The wrap that nobody opens any more goes; one that was made for recovery stays.
    let lost = record.wraps.iter().find(|wrap| !wrap.kek_uri.starts_with(RECOVERY));
    Ok(WrapChange { kid: record.kid, old: lost.cloned(), new })
}

fn is_current(wrap: &Wrap, kek: &Kek) -> bool {
    wrap.kek_uri == kek.uri && wrap.kek_version == kek.version
}
