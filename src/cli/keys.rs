//! `veilstream keys`

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::{Value, json};
use veilstream_engine::key::{KeyState, Scope};
use veilstream_keys::SCHEMA_KEY_LIFE;
use veilstream_keys::store::{KeyRecord, SqliteStore, Store as _};

use super::KeysSource;
use crate::exit::Exit;
use crate::{config, keys};

/// Arguments of `keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key-encrypting key, a key store and the first keys
    #[command(after_help = "Examples:\n  veilstream keys init --keys keys\n  veilstream keys init --config veilstream.toml")]
    Init {
        #[command(flatten)]
        source: KeysSource,
    },
    /// List keys: names and states, never the keys
    #[command(after_help = "Examples:\n  veilstream keys list --keys keys\n  veilstream keys list --config veilstream.toml --json")]
    List {
        #[command(flatten)]
        source: KeysSource,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Open the keys and tell which seal, how old they are and how often they were used
    #[command(after_help = "Examples:\n  veilstream keys status --keys keys\n  veilstream keys status --config veilstream.toml --json")]
    Status {
        #[command(flatten)]
        source: KeysSource,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// The keys cannot be made or opened.
pub fn run(args: &KeysArgs) -> anyhow::Result<Exit> {
    match &args.command {
        Command::Init { source } => init(source),
        Command::List { source, json } => list(source, *json),
        Command::Status { source, json } => status(source, *json),
    }
}

fn init(source: &KeysSource) -> anyhow::Result<Exit> {
    let made = keys::init(source)?;
    let mut out = io::stdout().lock();
    writeln!(out, "made {}", made.store.display())?;
    match &made.provider {
        config::KeyProvider::File { path } => {
            writeln!(out, "keys are wrapped by {}: back both up, apart from each other; without either nothing opens again", path.display())?;
        }
        _ => writeln!(out, "keys are wrapped by provider {}: without its secret nothing opens again", made.provider.name())?,
    }
    Ok(Exit::Ok)
}

fn list(source: &KeysSource, as_json: bool) -> anyhow::Result<Exit> {
    let settings = keys::settings(source)?;
    let records = SqliteStore::open(&settings.store)?.list(&settings.tenant)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    if !as_json {
        writeln!(out, "{:<32} {:<14} {:<24} {:<12} {:<20} WRAPPED BY", "KEY", "KIND", "SCOPE", "STATE", "CREATED")?;
    }
    for record in &records {
        if as_json {
            writeln!(out, "{}", shown(record))?;
            continue;
        }
        let (kind, scope, state) = (record.kind.as_str(), record.scope.to_string(), record.state.as_str());
        writeln!(out, "{} {kind:<14} {scope:<24} {state:<12} {:<20} {}", record.kid, time(record.created), wrapped_by(record))?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

fn status(source: &KeysSource, as_json: bool) -> anyhow::Result<Exit> {
    let settings = keys::settings(source)?;
    // Opening unwraps the roots: a wrong key-encrypting key shows here and not at the next start.
    keys::open(&settings, None)?;
    let store = SqliteStore::open(&settings.store)?;
    let report = Report {
        records: store.list(&settings.tenant)?,
        subjects: store.count_subjects(&settings.tenant)?.keys,
        now: Timestamp::now().as_second().unsigned_abs(),
    };
    let warnings = report.warnings(&settings);
    let mut out = io::BufWriter::new(io::stdout().lock());
    if as_json {
        let sealing: Vec<Value> = report.sealing().map(|r| report.with_age(r)).collect();
        let states: BTreeMap<&str, usize> = report.states();
        let shown = json!({
            "tenant": settings.tenant, "provider": settings.provider.name(), "store": settings.store, "sealing": sealing, "keys": states,
            "subject_keys": report.subjects, "warnings": warnings,
        });
        writeln!(out, "{shown:#}")?;
    } else {
        writeln!(out, "tenant {}, provider {}, store {}", settings.tenant, settings.provider.name(), settings.store.display())?;
        writeln!(out, "{:<14} {:<24} {:<32} {:>8} {:>14}  WRAPPED BY", "SEALING", "SCOPE", "KEY", "AGE", "USES")?;
        for record in report.sealing() {
            let uses = record.uses.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let (kind, scope) = (record.kind.as_str(), record.scope.to_string());
            writeln!(out, "{kind:<14} {scope:<24} {} {:>8} {uses:>14}  {}", record.kid, age(report.age(record)), wrapped_by(record))?;
        }
        let states: Vec<String> = report.states().iter().map(|(state, n)| format!("{n} {state}")).collect();
        writeln!(out, "keys: {}; of data subjects: {}", states.join(", "), report.subjects)?;
        for warning in &warnings {
            writeln!(out, "warning: {warning}")?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// What `status` tells.
struct Report {
    records: Vec<KeyRecord>,
    subjects: u64,
    now: u64,
}

impl Report {
    /// Keys that may seal now. A process that was killed leaves its key active; its age ends it.
    fn sealing(&self) -> impl Iterator<Item = &KeyRecord> {
        self.records.iter().filter(|r| r.state == KeyState::Active && !(matches!(r.scope, Scope::Schema(_)) && self.age(r) >= SCHEMA_KEY_LIFE))
    }

    fn age(&self, record: &KeyRecord) -> u64 {
        self.now.saturating_sub(record.created)
    }

    fn with_age(&self, record: &KeyRecord) -> Value {
        let mut value = shown(record);
        value["age_seconds"] = self.age(record).into();
        value["uses"] = record.uses.into();
        value
    }

    fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        for record in &self.records {
            *states.entry(record.state.as_str()).or_default() += 1;
        }
        states
    }

    /// A key-encrypting key that has wrapped keys for longer than the configured interval.
    fn warnings(&self, settings: &config::Keys) -> Vec<String> {
        let mut first: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for wrap in self.records.iter().flat_map(|r| r.wraps.iter().map(move |w| (w, r))) {
            let since = first.entry((&wrap.0.kek_uri, &wrap.0.kek_version)).or_insert(u64::MAX);
            *since = (*since).min(wrap.1.created);
        }
        let newest = first.iter().max_by_key(|(_, since)| **since);
        let old =
            newest.filter(|(_, since)| settings.rotation_enabled && self.now.saturating_sub(**since) / 86400 >= u64::from(settings.rotation_interval_days));
        old.map(|((uri, version), since)| {
            let days = self.now.saturating_sub(*since) / 86400;
            format!(
                "the newest key-encrypting key ({uri} {version}) is in use for {days} days; keys.rotation_interval_days is {}",
                settings.rotation_interval_days
            )
        })
        .into_iter()
        .collect()
    }
}

fn shown(record: &KeyRecord) -> Value {
    let wraps: Vec<Value> = record.wraps.iter().map(|w| json!({ "kek_uri": w.kek_uri, "kek_version": w.kek_version })).collect();
    json!({
        "kid": record.kid.to_string(), "kind": record.kind.as_str(), "tenant": &*record.tenant, "scope": record.scope.to_string(), "version": record.version,
        "state": record.state.as_str(), "created": time(record.created), "retired": record.retired.map(time), "wraps": wraps,
    })
}

fn wrapped_by(record: &KeyRecord) -> String {
    record.wraps.iter().map(|w| format!("{} {}", w.kek_uri, w.kek_version)).collect::<Vec<_>>().join(", ")
}

fn time(seconds: u64) -> String {
    i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok()).map_or_else(|| "-".to_owned(), |t| t.to_string())
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
