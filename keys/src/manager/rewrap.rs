//! Wraps moved to the newest version of what wraps them. No token changes; a wrap is replaced only
//! when the new one was seen to open. What was moved is not moved again: an interrupted run
//! resumes.

use veilstream_engine::key::{Key, KeyId, Scope};
use veilstream_engine::wrap::WrapContext;

use super::Manager;
use crate::KeyError;
use crate::provider::{Kek, Provider};
use crate::store::{KeyRecord, Wrap, WrapChange, store_key_record};
use crate::wraps::{
    RECOVERY, by_provider, checked, context_of, other_provider, provider_secret, recovered_secret,
    unwrap_under, without_prefix, wrap_under, wrapping_kid,
};

/// Wraps sent to a provider at once.
const BATCH: usize = 200;
/// Keys of data subjects read and written at once.
const PAGE: usize = 1000;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Keys looked at.
    pub done: u64,
    /// Keys there are, as counted at the start.
    pub total: u64,
}

/// What was done.
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

impl Manager {
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
        if recover && self.shared.recovery().is_none() {
            return Err(KeyError::NoRecovery);
        }
        let mut done = Rewrapped::default();
        let mut records: Vec<KeyRecord> = self
            .shared
            .store()
            .list(self.shared.tenant())?
            .into_iter()
            .filter(|record| !record.wraps.is_empty())
            .collect();
        // It opens everything else's MAC, so it goes first.
        records.insert(0, store_key_record(self.shared.store().unverified())?);
        let subjects = self.shared.store().count_subjects(self.shared.tenant())?;
        let total = records.len() as u64 + subjects.keys + subjects.shredded;
        progress(Progress { done: 0, total });
        let kek = self.shared.provider().describe()?;
        for (i, batch) in records.chunks(BATCH).enumerate() {
            let unopened = self.rewrap_primary(batch, &kek, recover, &mut done)?;
            if recover {
                self.recover(&unopened, &mut done)?;
            }
            self.rewrap_recovery(batch, &mut done)?;
            progress(Progress { done: (i * BATCH + batch.len()) as u64, total });
        }
        // What was recovered is needed below; what was not is among the failed.
        match self.shared.reload() {
            Err(error) if done.failed.is_empty() => return Err(error),
            _ => {}
        }
        self.rewrap_subjects(records.len() as u64, total, now, &mut done, progress)?;
        Ok(done)
    }

    /// Moves wraps of the provider; returns keys that it does not open.
    fn rewrap_primary<'r>(
        &self,
        batch: &'r [KeyRecord],
        kek: &Kek,
        recover: bool,
        done: &mut Rewrapped,
    ) -> Result<Vec<&'r KeyRecord>, KeyError> {
        let mut unopened = Vec::new();
        let mut jobs = Vec::new();
        for record in batch {
            match by_provider(record, self.shared.provider()) {
                None if recover => unopened.push(record),
                None => {
                    done.failed.push((record.kid, other_provider(record, self.shared.provider())))
                }
                // A lost key-encrypting key and its successor may have the same name.
                Some(wrap) if recover && !self.still_opens(record, wrap)? => unopened.push(record),
                Some(wrap) if is_current(wrap, kek) => done.current += 1,
                Some(wrap) => jobs.push(Job { record, wrap }),
            }
        }
        done.moved += self.move_wraps(self.shared.provider(), &jobs, "", done)?;
        Ok(unopened)
    }

    fn still_opens(&self, record: &KeyRecord, wrap: &Wrap) -> Result<bool, KeyError> {
        match self.shared.provider().unwrap(wrap, &context_of(record)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_retryable() => Err(error.into()),
            Err(_) => Ok(false),
        }
    }

    /// Wraps again, by way of the recovery provider, what the provider does not open.
    fn recover(&self, unopened: &[&KeyRecord], done: &mut Rewrapped) -> Result<(), KeyError> {
        let Some(recovery) = self.shared.recovery() else { return Err(KeyError::NoRecovery) };
        let mut changes = Vec::new();
        for record in unopened {
            match self.recovered(recovery, record) {
                Ok(change) => changes.push(change),
                Err(KeyError::Provider(error)) if error.is_retryable() => return Err(error.into()),
                Err(error) => done.failed.push((record.kid, error)),
            }
        }
        done.recovered += self.shared.store().replace_wraps(&changes)?;
        Ok(())
    }

    fn recovered(
        &self,
        recovery: &dyn Provider,
        record: &KeyRecord,
    ) -> Result<WrapChange, KeyError> {
        let context = context_of(record);
        let secret = recovered_secret(record, recovery)?;
        let new = self.shared.provider().wrap(&secret, &context)?;
        checked(record, self.shared.provider().unwrap(&new, &context)?)?;
        // The wrap that nobody opens any more goes; one that was made for recovery stays.
        let lost = record.wraps.iter().find(|wrap| !wrap.kek_uri.starts_with(RECOVERY));
        Ok(WrapChange { kid: record.kid, old: lost.cloned(), new })
    }

    /// Moves wraps of the recovery provider, and adds missing ones.
    fn rewrap_recovery(&self, batch: &[KeyRecord], done: &mut Rewrapped) -> Result<(), KeyError> {
        let Some(recovery) = self.shared.recovery() else { return Ok(()) };
        let kek = recovery.describe()?;
        let (mut jobs, mut added) = (Vec::new(), Vec::new());
        for record in batch {
            let wrap = record.wraps.iter().find(|wrap| {
                wrap.kek_uri.strip_prefix(RECOVERY).is_some_and(|uri| recovery.opens(uri))
            });
            match wrap {
                Some(wrap) if is_current(&without_prefix(wrap), &kek) => done.current += 1,
                Some(wrap) => jobs.push(Job { record, wrap }),
                None => {
                    // As the store has it now: its wraps may just have been moved.
                    let Some(record) = self.shared.store().get(&[record.kid])?.pop() else {
                        continue;
                    };
                    let opened = provider_secret(&record, self.shared.provider());
                    match opened.and_then(|secret| {
                        self.shared.minter().wrap_for_recovery(&secret, &context_of(&record))
                    }) {
                        Ok(Some(new)) => added.push(WrapChange { kid: record.kid, old: None, new }),
                        Ok(None) => {}
                        Err(KeyError::Provider(error)) if error.is_retryable() => {
                            return Err(error.into());
                        }
                        Err(error) => done.failed.push((record.kid, error)),
                    }
                }
            }
        }
        done.moved += self.move_wraps(recovery, &jobs, RECOVERY, done)?;
        done.added += self.shared.store().replace_wraps(&added)?;
        Ok(())
    }

    fn move_wraps(
        &self,
        provider: &dyn Provider,
        jobs: &[Job<'_>],
        prefix: &str,
        done: &mut Rewrapped,
    ) -> Result<u64, KeyError> {
        if jobs.is_empty() {
            return Ok(0);
        }
        let plain: Vec<Wrap> = jobs.iter().map(|job| without_prefix(job.wrap)).collect();
        let asked: Vec<(&Wrap, WrapContext<'_>)> =
            plain.iter().zip(jobs).map(|(wrap, job)| (wrap, context_of(job.record))).collect();
        let mut changes = Vec::new();
        for (answer, job) in provider.rewrap(&asked)?.into_iter().zip(jobs) {
            // The old wrap goes: the new one must be seen to hold the key.
            let proved = answer.and_then(|new| {
                provider.unwrap(&new, &context_of(job.record)).map(|secret| (new, secret))
            });
            match proved
                .map_err(KeyError::from)
                .and_then(|(new, secret)| checked(job.record, secret).map(|_| new))
            {
                Ok(new) => {
                    let new = Wrap { kek_uri: format!("{prefix}{}", new.kek_uri), ..new };
                    changes.push(WrapChange {
                        kid: job.record.kid,
                        old: Some(job.wrap.clone()),
                        new,
                    });
                }
                Err(KeyError::Provider(error)) if error.is_retryable() => return Err(error.into()),
                Err(error) => done.failed.push((job.record.kid, error)),
            }
        }
        Ok(self.shared.store().replace_wraps(&changes)?)
    }

    /// Moves keys of data subjects under the newest wrapping key. They are unwrapped and wrapped
    /// here: no request to a key service.
    fn rewrap_subjects(
        &self,
        before: u64,
        total: u64,
        now: u64,
        done: &mut Rewrapped,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), KeyError> {
        if before == total {
            return Ok(());
        }
        let wrapping = match self.shared.wrapping_key(now) {
            Ok(key) => key,
            // It is among them.
            Err(_) if !done.failed.is_empty() => return Ok(()),
            Err(error) => return Err(error),
        };
        let (mut after, mut seen) = (None, before);
        loop {
            let page = self.shared.store().subjects(self.shared.tenant(), after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            let mut changes = Vec::new();
            let seen_of_page = page.len() as u64;
            let mut records = Vec::with_capacity(page.len());
            for (kid, record) in page {
                match record {
                    Ok(record) => records.push(record),
                    Err(error) => done.failed.push((kid, error.into())),
                }
            }
            for record in records.iter().filter(|record| matches!(record.scope, Scope::Subject(_)))
            {
                for wrap in &record.wraps {
                    match wrapping_kid(wrap) {
                        Some(kid) if kid == wrapping.id => done.current += 1,
                        Some(_) => match self.moved_under(&wrapping, record, wrap) {
                            Ok(change) => changes.push(change),
                            Err(error) => done.failed.push((record.kid, error)),
                        },
                        None => {}
                    }
                }
            }
            done.moved += self.shared.store().replace_wraps(&changes)?;
            seen += seen_of_page;
            progress(Progress { done: seen.min(total), total });
        }
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
}

fn is_current(wrap: &Wrap, kek: &Kek) -> bool {
    wrap.kek_uri == kek.uri && wrap.kek_version == kek.version
}
