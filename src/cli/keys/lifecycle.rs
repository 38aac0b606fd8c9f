//! What changes keys: rotation, rewrapping, retirement, export and import.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use veilstream_engine::KeyId;
use veilstream_engine::compile::SchemaSet;
use veilstream_keys::files::create_private;
use veilstream_keys::{Progress, Rotate};
use veilstream_reading::audit::{Entry, Event, Hex, LedgerHead, cut_reason};

use crate::audit::{self, Trail};
use crate::config::{KeyProvider, Keys};
use crate::exit::Exit;
use crate::keys::{self, KeysSource, now};

/// What to rotate.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct What {
    /// The key-encrypting key
    #[arg(long)]
    kek: bool,
    /// The wrapping key of data subjects' keys
    #[arg(long)]
    wrapping: bool,
    /// The shared data keys (one-shot commands), of all schemas or of one
    #[arg(long, value_name = "SCHEMA", num_args = 0..=1, default_missing_value = "")]
    shared: Option<String>,
    /// The key of one data subject
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// The root of blind indexes
    #[arg(long)]
    index: bool,
    /// The root of deterministic fields, for schemas to pin
    #[arg(long)]
    deterministic: bool,
}

pub(super) fn rotate(source: &KeysSource, what: &What) -> anyhow::Result<Exit> {
    let (manager, trail) = audit::audited(source)?;
    let what = match what {
        What { kek: true, .. } => Rotate::Kek,
        What { wrapping: true, .. } => Rotate::Wrapping,
        What { index: true, .. } => Rotate::Index,
        What { deterministic: true, .. } => Rotate::Deterministic,
        What { subject: Some(id), .. } => Rotate::Subject(manager.subject_ref(id, None, now())?),
        What { shared, .. } => {
            Rotate::Shared(shared.as_deref().filter(|name| !name.is_empty()).map(Into::into))
        }
    };
    let rotated = manager.rotate(&what, now())?;
    let told = trail.append_done(change(&trail, "rotate", rotated.iter().filter_map(|r| r.kid)));
    let mut out = io::stdout().lock();
    for one in &rotated {
        match &one.kid {
            Some(kid) => writeln!(out, "{}: version {}, key {kid}", one.what, one.version)?,
            None => writeln!(out, "{}: version {}", one.what, one.version)?,
        }
    }
    if rotated.is_empty() {
        writeln!(out, "there is no such key; nothing was rotated")?;
    }
    let next = match what {
        Rotate::Kek => {
            "next: back the key-encrypting key up if it is yours to back up, then `veilstream keys \
            rewrap`"
        }
        Rotate::Wrapping => {
            "next: `veilstream keys rewrap` moves the keys of data subjects under it"
        }
        Rotate::Index => {
            "next: both versions are written from now on; re-index what is stored, then \
            `veilstream keys retire` the old one"
        }
        Rotate::Deterministic => {
            "next: schemas pin it (\"root\"); what is stored stays under the old one"
        }
        Rotate::Shared(_) | Rotate::Subject(_) => "",
    };
    if !next.is_empty() {
        writeln!(out, "{next}")?;
    }
    told?;
    Ok(Exit::Ok)
}

/// The audit line of a change of keys.
fn change(trail: &Trail, what: &str, kids: impl IntoIterator<Item = KeyId>) -> Entry {
    Entry {
        reason: Some(what.to_owned()),
        kids: kids.into_iter().map(Hex::from).collect(),
        ..trail.entry(Event::Keys)
    }
}

/// Tells of what was done to a store that did not open before. `items`: how many keys it was.
fn tell_done(
    source: &KeysSource,
    settings: &Keys,
    what: &str,
    items: Option<u64>,
) -> anyhow::Result<()> {
    let Some(audit) = audit::for_changes(source)? else { return Ok(()) };
    // What was imported may be wrapped by a key that only the recovery provider has.
    let manager = keys::manager(settings).or_else(|_| keys::manager_to_recover(settings));
    let manager = manager.context("it is done, but it is not in the audit log")?;
    let manager = Arc::new(manager);
    let trail = Trail::open(Some(&audit), &manager)?;
    trail.append_done(Entry {
        ledger: Some(LedgerHead::from(manager.ledger_head())),
        items,
        ..change(&trail, what, [])
    })
}

pub(super) fn init(source: &KeysSource, empty: bool) -> anyhow::Result<Exit> {
    let (made, place) = keys::init(source, empty)?;
    let told = match (empty, &source.config) {
        // Without keys nothing can be signed: the import tells of itself. A key directory is for
        // trying out.
        (true, _) | (_, None) => Ok(()),
        (false, Some(_)) => tell_done(source, &made, "init", None),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "made {place}")?;
    match &made.provider {
        KeyProvider::File { path } => {
            writeln!(
                out,
                "keys are wrapped by {}: back both up, apart from each other; without either \
                nothing opens again",
                path.display()
            )?;
        }
        _ => writeln!(
            out,
            "keys are wrapped by provider {}: without its secret nothing opens again",
            made.provider.name()
        )?,
    }
    told?;
    Ok(Exit::Ok)
}

pub(super) fn rewrap(source: &KeysSource, recover: bool, as_json: bool) -> anyhow::Result<Exit> {
    let settings = keys::settings(source)?;
    let (manager, trail) = if recover {
        // The log's own key does not open before.
        (Arc::new(keys::manager_to_recover(&settings)?), None)
    } else {
        let (manager, trail) = audit::audited(source)?;
        (manager, Some(trail))
    };
    let bar = progress_bar(!as_json);
    let done = manager.rewrap(recover, now(), &mut |Progress { done, total }| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let items = Some(done.moved + done.recovered + done.added);
    let told = match trail {
        Some(trail) => trail.append_done(Entry { items, ..change(&trail, "rewrap", []) }),
        None => tell_done(source, &settings, "rewrap --recover", items),
    };
    let mut out = io::stdout().lock();
    if as_json {
        let failed: Vec<Value> = done
            .failed
            .iter()
            .map(|(kid, why)| json!({ "kid": kid.to_string(), "why": why.to_string() }))
            .collect();
        let report = json!({ "moved": done.moved, "recovered": done.recovered, "added": done.added, "current": done.current, "failed": failed });
        writeln!(out, "{}", crate::cli::sorted(report))?;
    } else {
        writeln!(
            out,
            "{} moved, {} recovered, {} added for recovery, {} were the newest already",
            done.moved, done.recovered, done.added, done.current
        )?;
        for (_, why) in &done.failed {
            writeln!(io::stderr(), "not moved: {why}")?;
        }
    }
    told?;
    Ok(if done.failed.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn progress_bar(wanted: bool) -> ProgressBar {
    if !wanted || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} keys, {per_sec}, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

pub(super) fn retire(
    source: &KeysSource,
    schemas: &SchemaSet,
    kid: &KeyId,
    unreferenced: bool,
    undo: bool,
) -> anyhow::Result<Exit> {
    let (manager, trail) = audit::audited(source)?;
    if undo {
        manager.unretire(kid)?;
        trail.append_done(change(&trail, "retire --undo", [*kid]))?;
        writeln!(io::stdout(), "key {kid} opens again")?;
    } else {
        manager.retire(kid, schemas, unreferenced, now())?;
        trail.append_done(change(&trail, "retire", [*kid]))?;
        writeln!(
            io::stdout(),
            "key {kid} is retired; `veilstream keys retire --undo` takes it back"
        )?;
    }
    Ok(Exit::Ok)
}

pub(super) fn export(source: &KeysSource, out: &Path, kids: &[KeyId]) -> anyhow::Result<Exit> {
    let (manager, trail) = audit::audited(source)?;
    let export = manager.export(kids, now())?;
    let exported = export["export"]["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = exported.iter().filter_map(|key| key["kid"].as_str()?.parse().ok());
    // Before the file is there: what leaves is in the log.
    trail.append(vec![change(&trail, "export", named)])?;
    let mut file =
        create_private(out).with_context(|| format!("{} cannot be made", out.display()))?;
    serde_json::to_writer_pretty(&mut file, &export)?;
    writeln!(file)?;
    file.sync_all()?;
    let count = export["export"]["keys"].as_array().map_or(0, Vec::len);
    writeln!(
        io::stdout(),
        "{count} keys in {}; keys of data subjects are never exported",
        out.display()
    )?;
    Ok(Exit::Ok)
}

pub(super) fn import(source: &KeysSource, file: &Path) -> anyhow::Result<Exit> {
    let text = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let settings = keys::settings(source)?;
    let count = keys::import(&settings, &text)?;
    let told = tell_done(source, &settings, "import", Some(count as u64));
    writeln!(
        io::stdout(),
        "{count} keys imported; `veilstream keys status` tells whether the provider opens them, \
        `veilstream keys rewrap --recover` mends it"
    )?;
    told?;
    Ok(Exit::Ok)
}

pub(super) fn replay_ledger(source: &KeysSource) -> anyhow::Result<Exit> {
    let settings = keys::settings(source)?;
    let audit = audit::for_changes(source)?;
    // Opening does it.
    let manager = Arc::new(keys::manager_to_recover(&settings)?);
    let trail = Trail::open(audit.as_ref(), &manager)?;
    let erased = manager.revived();
    let told = trail.append_done(Entry {
        ledger: Some(LedgerHead::from(manager.ledger_head())),
        items: Some(erased),
        ..change(&trail, "replay-ledger", [])
    });
    match erased {
        0 => writeln!(io::stdout(), "everybody in the ledger is erased in the store")?,
        n => writeln!(io::stdout(), "{n} keys were there again and are destroyed")?,
    }
    told?;
    Ok(Exit::Ok)
}

pub(super) fn rebuild_ledger(source: &KeysSource, reason: &str) -> anyhow::Result<Exit> {
    if reason.trim().is_empty() {
        return Err(Exit::Usage.because("--reason is empty; say why, without naming anybody"));
    }
    let settings = keys::settings(source)?;
    let rebuilt = keys::rebuild_ledger(&settings, reason)?;
    // Without a ledger the store did not open: the log is opened behind the deed.
    let text = cut_reason(&format!("ledger rebuild: {reason}"));
    let told = tell_done(source, &settings, &text, None);
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "a new ledger names {} data subjects, by what the key store knows",
        rebuilt.subjects
    )?;
    if let Some(kept) = rebuilt.kept {
        writeln!(out, "the old one is kept: {kept}")?;
    }
    writeln!(
        out,
        "next: start every sidecar again; receipts of before name lines of the old ledger, so keep \
        it"
    )?;
    tracing::warn!(subjects = rebuilt.subjects, "the erasure ledger was rebuilt");
    told?;
    Ok(Exit::Ok)
}

pub(super) fn compromise(source: &KeysSource, kid: &KeyId) -> anyhow::Result<Exit> {
    let (manager, trail) = audit::audited(source)?;
    manager.compromise(kid, now())?;
    trail.append_done(change(&trail, "compromise", [*kid]))?;
    writeln!(
        io::stdout(),
        "key {kid} opens only with --allow-compromised from now on, and seals nothing; seal what \
        it sealed again under another key"
    )?;
    Ok(Exit::Ok)
}

pub(super) fn public_key(source: &KeysSource) -> anyhow::Result<Exit> {
    let key = keys::manager(&keys::settings(source)?)?.receipt_key(now())?;
    writeln!(io::stdout(), "{}", URL_SAFE_NO_PAD.encode(key.as_bytes()))?;
    Ok(Exit::Ok)
}
