//! The thread that looks after every access: files that changed, tokens that end, refusals that are
//! over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::files::{self, FileSnapshot};
use super::probe::ProbeAnswer;
use super::{Access, all, lock, report};
use crate::kafka::ffi;

/// How often it looks.
const TICK: Duration = Duration::from_secs(5);
/// How long its end is waited for.
const END: Duration = Duration::from_secs(5);

/// The running thread; ends with this.
pub struct CredentialWatch {
    stop: Option<Sender<()>>,
    is_stopping: Arc<AtomicBool>,
    ended: Receiver<()>,
}

/// Starts to look after every access of this process, those to come included. One at a time.
///
/// # Errors
/// There is no thread.
pub fn watch() -> std::io::Result<CredentialWatch> {
    let (stop, stopped) = mpsc::channel::<()>();
    let (end, ended) = mpsc::channel();
    let is_stopping = Arc::new(AtomicBool::new(false));
    let flag = is_stopping.clone();
    let run = move || {
        while matches!(stopped.recv_timeout(TICK), Err(RecvTimeoutError::Timeout)) {
            for access in all() {
                access.look(&|| !flag.load(Ordering::Acquire));
            }
        }
        // Nobody waits any more.
        let _ = end.send(());
    };
    thread::Builder::new().name("kafka-access".to_owned()).spawn(run)?;
    Ok(CredentialWatch { stop: Some(stop), is_stopping, ended })
}

impl Drop for CredentialWatch {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Release);
        self.stop = None;
        // It may be asking a broker.
        let _ = self.ended.recv_timeout(END);
    }
}

impl Access {
    /// One look.
    pub(super) fn look(&self, go_on: &dyn Fn() -> bool) {
        ffi::for_each_client(self.id, |handle| handle.serve());
        self.look_at_files(go_on);
        self.prepare();
        for broker in report::refused_brokers(self) {
            let values = lock(&self.state)
                .taken
                .as_ref()
                .map(|taken| taken.values.clone())
                .unwrap_or_default();
            match self.ask(&values, broker.as_deref(), go_on) {
                ProbeAnswer::Accepted => report::accepted(self, broker.as_deref()),
                ProbeAnswer::Refused(fault) => {
                    report::still_refused(self, broker.as_deref(), Some(fault.reason))
                }
                ProbeAnswer::Unusable(_) | ProbeAnswer::Unknown => {
                    report::still_refused(self, broker.as_deref(), None)
                }
            }
        }
    }

    /// Takes over what a broker accepts; until then the credentials stay as they are. So it does
    /// not matter which is changed first, the file or the broker.
    fn look_at_files(&self, go_on: &dyn Fn() -> bool) {
        let found = match files::read(&self.key) {
            Ok(found) => found,
            Err(fault) => {
                return self
                    .tell(&fault.to_string(), "credentials cannot be read; those in use stay");
            }
        };
        let taken = lock(&self.state).taken.clone();
        if taken.as_ref() == Some(&found) {
            lock(&self.state).told = None;
            return;
        }
        let changed = taken.as_ref().map_or_else(String::new, |taken| taken.changed(&found));
        match self.ask(&found.values, None, go_on) {
            ProbeAnswer::Accepted => self.take_over(taken.as_ref(), found, &changed),
            ProbeAnswer::Refused(fault) => self.tell(
                &format!("{changed}: {fault}"),
                "changed credentials are refused; those in use stay, these are tried again",
            ),
            ProbeAnswer::Unusable(why) => self.tell(
                &format!("{changed}: {why}"),
                "changed credentials cannot be used; those in use stay, these are tried again",
            ),
            ProbeAnswer::Unknown => self.tell(
                &changed,
                "changed credentials cannot be tried, because no broker answers; tried again",
            ),
        }
    }

    fn take_over(&self, before: Option<&FileSnapshot>, now: FileSnapshot, changed: &str) {
        let needs_new_clients = before.is_none_or(|before| before.needs_new_clients(&now));
        {
            let mut state = lock(&self.state);
            state.taken = Some(now);
            state.taken_at = Some(Instant::now());
            state.told = None;
        }
        if needs_new_clients {
            // After the files are in the state: anyone who sees the new number makes a client of
            // them.
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        ffi::for_each_client(self.id, |handle| self.give(handle));
        tracing::info!(changed, needs_new_clients, "changed credentials taken over");
    }

    /// Says once what stays as it is.
    fn tell(&self, why: &str, what: &str) {
        let mut state = lock(&self.state);
        if state.told.as_deref() != Some(why) {
            tracing::warn!(why, "{what}");
            state.told = Some(why.to_owned());
        }
    }
}
