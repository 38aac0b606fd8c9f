//! The trace that commands leave: what they open and change stands in the audit log before anybody
//! sees it (docs/operations.md, "The audit log").

mod actor;
mod outlet;
pub mod sinks;

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use veilstream_keys::{Manager, files};
use veilstream_reading::audit::{AuditLog, Entry, Event, LedgerHead, Settings, Signer};

use crate::config;
use crate::exit::Exit;
use crate::keys::{self, KeysSource, now};
pub use outlet::{Opened, Outlet};

/// The way round the audit, for commands that open values.
#[derive(Debug, Clone, Copy, Args)]
pub struct AuditFlags {
    /// Open values although the configuration has no `[audit]`.
    #[arg(long, help = "Open values although the configuration has no [audit]: nobody will know")]
    pub unaudited: bool,
}

/// The `[audit]` section for a command that opens values. `None`: nothing is audited, and the
/// operator knows.
///
/// # Errors
/// The configuration has no such section and `--unaudited` was not given, or the reverse.
pub fn for_values(source: &KeysSource, flags: AuditFlags) -> anyhow::Result<Option<config::Audit>> {
    let Some(file) = &source.config else { return Ok(tell_unaudited()) };
    match (config::load_config(file)?.audit, flags.unaudited) {
        (Some(audit), false) => Ok(Some(audit)),
        (None, true) => Ok(None),
        (Some(_), true) => Err(Exit::Usage.because(format!(
            "--unaudited: {} has an [audit] section, so what is opened is audited; leave the flag \
            out",
            file.display()
        ))),
        (None, false) => Err(Exit::Usage.because(format!(
            "{} has no [audit] section, so nobody would know what was opened. Add one \
            (`veilstream audit keygen` makes the key for it), or say --unaudited",
            file.display()
        ))),
    }
}

/// The `[audit]` section for a command that changes keys. `None`: nothing is audited.
///
/// # Errors
/// The configuration has faults.
pub fn for_changes(source: &KeysSource) -> anyhow::Result<Option<config::Audit>> {
    match &source.config {
        Some(file) => Ok(config::load_config(file)?.audit),
        None => Ok(tell_unaudited()),
    }
}

fn tell_unaudited() -> Option<config::Audit> {
    // The command goes on all the same where nobody reads it.
    let _ =
        writeln!(io::stderr(), "veilstream: a key directory is for trying out: nothing is audited");
    None
}

/// The key manager, and the trail of what is changed with it.
///
/// # Errors
/// Keys or log cannot be opened.
pub fn audited(source: &KeysSource) -> anyhow::Result<(Arc<Manager>, Trail)> {
    let settings = keys::settings(source)?;
    let audit = for_changes(source)?;
    let manager = Arc::new(keys::manager(&settings)?);
    let trail = Trail::open(audit.as_ref(), &manager)?;
    Ok((manager, trail))
}

/// How long a command waits for its lines: its user rather waits than runs it again.
const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

/// Opens the log that a configuration names, and its second places. `actor` stands in its lines
/// `start` and `stop`. A line that is not durable within `deadline` is refused.
///
/// # Errors
/// The log is unavailable, or the key of its checkpoints.
pub fn open(
    config: &config::Audit,
    manager: &Arc<Manager>,
    actor: &str,
    deadline: Duration,
    report: sinks::SinkReport,
) -> anyhow::Result<AuditLog> {
    files::create_folder_of(&config.file)
        .with_context(|| format!("the folder of {} cannot be made", config.file.display()))?;
    let signer = Signer::new(manager.checkpoint_signing_key(now())?);
    let manager = manager.clone();
    Ok(AuditLog::open(Settings {
        ledger: Arc::new(move || Some(LedgerHead::from(manager.ledger_head()))),
        deadline,
        sinks: sinks::of(config)?,
        observer: Arc::new(report),
        ..Settings::new(config.file.clone(), config.recipient.clone(), signer, actor.to_owned())
    })?)
}

/// What a command writes to: the log, or nothing. Its chain ends when it is dropped.
pub struct Trail {
    log: Option<AuditLog>,
    actor: String,
}

impl Trail {
    /// Opens the log of a section, with who runs this command as its actor.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(config: Option<&config::Audit>, manager: &Arc<Manager>) -> anyhow::Result<Self> {
        let actor = actor::name();
        let opened =
            |config| open(config, manager, &actor, COMMAND_DEADLINE, sinks::SinkReport::default());
        let log = config.map(opened).transpose()?;
        Ok(Self { log, actor })
    }

    /// A trail that leads nowhere.
    #[must_use]
    pub fn none() -> Self {
        Self { log: None, actor: String::new() }
    }

    /// The log; `None`: nothing is audited.
    #[must_use]
    pub fn log(&self) -> Option<&AuditLog> {
        self.log.as_ref()
    }

    /// An entry of who runs this command.
    #[must_use]
    pub fn entry(&self, event: Event) -> Entry {
        Entry {
            actor: Some(self.actor.clone()),
            auth: Some("os".to_owned()),
            outcome: Some("ok".to_owned()),
            ..Entry::new(event)
        }
    }

    /// Makes entries durable.
    ///
    /// # Errors
    /// The log is unavailable: what the entries tell of must not happen.
    pub fn append(&self, entries: Vec<Entry>) -> anyhow::Result<()> {
        match &self.log {
            Some(log) if !entries.is_empty() => Ok(log.append(entries).map(drop)?),
            _ => Ok(()),
        }
    }

    /// Makes an entry durable about something that is done and cannot be undone.
    ///
    /// # Errors
    /// It is done, and not in the log.
    pub fn append_done(&self, entry: Entry) -> anyhow::Result<()> {
        self.append_done_all(vec![entry])
    }

    /// [`Trail::append_done`] of several entries.
    ///
    /// # Errors
    /// It is done, and not in the log.
    pub fn append_done_all(&self, entries: Vec<Entry>) -> anyhow::Result<()> {
        self.append(entries).context("it is done, but it is not in the audit log")
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.log.as_ref().map(AuditLog::stop) {
            tracing::warn!(%error, "the audit log has no end line of this command");
        }
    }
}
