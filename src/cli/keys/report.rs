//! What `keys` shows: what was made, what there is, what seals and what refers to it.

use std::collections::BTreeMap;
use std::io::{self, Write};

use jiff::Timestamp;
use serde_json::{Value, json};
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{KeyKind, KeyState, Scope};
use veilstream_keys::provider::{Kek, Rotation};
use veilstream_keys::store::{KeyRecord, STORE_TENANT, Subjects};
use veilstream_keys::{Manager, SCHEMA_KEY_LIFE};

use crate::config;
use crate::exit::Exit;
use crate::keys::{self, KeysSource};

pub(super) fn list(source: &KeysSource, as_json: bool) -> anyhow::Result<Exit> {
    let settings = keys::settings(source)?;
    let (records, unverified) = listed(&settings)?;
    if let Some(why) = &unverified {
        writeln!(io::stderr(), "not verified, the records may have been changed: {why}")?;
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    if !as_json {
        writeln!(
            out,
            "{:<32} {:<14} {:<24} {:<12} {:<20} WRAPPED BY",
            "KEY", "KIND", "SCOPE", "STATE", "CREATED"
        )?;
    }
    for record in &records {
        if as_json {
            let mut shown = shown(record);
            shown["verified"] = unverified.is_none().into();
            writeln!(out, "{}", crate::cli::sorted(shown))?;
            continue;
        }
        let (kind, scope, state) =
            (record.kind.as_str(), record.scope.to_string(), record.state.as_str());
        writeln!(
            out,
            "{} {kind:<14} {scope:<24} {state:<12} {:<20} {}",
            record.kid,
            time(record.created),
            wrapped_by(record)
        )?;
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// The records, checked by the store key; where that key is not available, as they stand, and why.
fn listed(settings: &config::Keys) -> anyhow::Result<(Vec<KeyRecord>, Option<String>)> {
    let verified = keys::manager(settings).and_then(|manager| {
        let store = manager.store();
        let mut records = store.find(STORE_TENANT, KeyKind::Store, &[Scope::Version(1)])?;
        records.extend(store.list(&settings.tenant)?);
        Ok(records)
    });
    match verified {
        Ok(records) => Ok((records, None)),
        Err(why) => {
            let store = keys::store(settings)?;
            let mut records = store.find(STORE_TENANT, KeyKind::Store, &[Scope::Version(1)])?;
            records.extend(store.list(&settings.tenant)?);
            Ok((records, Some(format!("{why:#}"))))
        }
    }
}

pub(super) fn status(
    source: &KeysSource,
    schemas: &SchemaSet,
    as_json: bool,
) -> anyhow::Result<Exit> {
    let settings = keys::settings(source)?;
    // Opening unwraps the roots: a wrong key-encrypting key shows here and not at the next start.
    let manager = keys::manager(&settings)?;
    let (kek, away) = match manager.provider().describe() {
        Ok(kek) => (Some(kek), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let report = KeyReport {
        records: manager.store().list(&settings.tenant)?,
        subjects: manager.store().count_subjects(&settings.tenant)?,
        kek,
        schemas,
        now: keys::now(),
    };
    let warnings: Vec<String> = away.into_iter().chain(report.warnings(&settings)).collect();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let place = manager.store().place();
    if as_json {
        let sealing: Vec<Value> = report.sealing().map(|r| report.sealing_json(r)).collect();
        let kek = report.kek.as_ref().map(|kek| json!({ "uri": kek.uri, "version": kek.version, "age_seconds": report.kek_age(kek) }));
        let shown = json!({
            "tenant": settings.tenant, "provider": settings.provider.name(), "store": place, "kek": kek, "sealing": sealing, "keys": report.states(),
            "subject_keys": report.subjects.keys, "subjects_erased": report.subjects.shredded, "warnings": warnings,
        });
        writeln!(out, "{:#}", crate::cli::sorted(shown))?;
    } else {
        writeln!(
            out,
            "tenant {}, provider {}, store {place}",
            settings.tenant,
            settings.provider.name()
        )?;
        if let Some(kek) = &report.kek {
            let since = report
                .kek_age(kek)
                .map_or_else(String::new, |seconds| format!(", wraps for {}", age(seconds)));
            writeln!(out, "key-encrypting key {}, version {}{since}", kek.uri, kek.version)?;
        }
        writeln!(
            out,
            "{:<14} {:<24} {:<32} {:>8} {:>14}  {:<24} SCHEMAS",
            "SEALING", "SCOPE", "KEY", "AGE", "USES", "WRAPPED BY"
        )?;
        for record in report.sealing() {
            let uses = record.uses.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let (kind, scope, schemas) = (
                record.kind.as_str(),
                record.scope.to_string(),
                report.referring(record).join(","),
            );
            let line = format!(
                "{kind:<14} {scope:<24} {} {:>8} {uses:>14}  {:<24} {schemas}",
                record.kid,
                age(report.age(record)),
                wrapped_by(record)
            );
            writeln!(out, "{}", line.trim_end())?;
        }
        let states: Vec<String> =
            report.states().iter().map(|(state, n)| format!("{n} {state}")).collect();
        writeln!(
            out,
            "keys: {}; of data subjects: {}, erased: {}",
            states.join(", "),
            report.subjects.keys,
            report.subjects.shredded
        )?;
        for warning in &warnings {
            writeln!(out, "warning: {warning}")?;
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

/// What `status` tells.
struct KeyReport<'a> {
    records: Vec<KeyRecord>,
    subjects: Subjects,
    kek: Option<Kek>,
    schemas: &'a SchemaSet,
    now: u64,
}

impl KeyReport<'_> {
    /// Keys that may seal now. A process that was killed leaves its key active; its age ends it.
    fn sealing(&self) -> impl Iterator<Item = &KeyRecord> {
        self.records.iter().filter(|r| {
            r.state == KeyState::Active
                && !(matches!(r.scope, Scope::Schema(_)) && self.age(r) >= SCHEMA_KEY_LIFE)
        })
    }

    fn age(&self, record: &KeyRecord) -> u64 {
        self.now.saturating_sub(record.created)
    }

    fn kek_age(&self, kek: &Kek) -> Option<u64> {
        kek.since.map(|since| self.now.saturating_sub(since))
    }

    fn sealing_json(&self, record: &KeyRecord) -> Value {
        let mut value = shown(record);
        value["age_seconds"] = self.age(record).into();
        value["uses"] = record.uses.into();
        value["schemas"] = self.referring(record).into();
        value
    }

    /// The schemas that seal or index with the key.
    fn referring(&self, record: &KeyRecord) -> Vec<String> {
        match &record.scope {
            Scope::Schema(name) | Scope::Shared(name) => vec![name.to_string()],
            _ => Manager::used_by(record, self.schemas),
        }
    }

    fn states(&self) -> BTreeMap<&'static str, usize> {
        let mut states = BTreeMap::new();
        for record in &self.records {
            *states.entry(record.state.as_str()).or_default() += 1;
        }
        states
    }

    /// What wants somebody's attention.
    fn warnings(&self, settings: &config::Keys) -> Vec<String> {
        let mut warnings = Vec::new();
        let days = u64::from(settings.rotation_interval_days);
        if let Some(kek) = self.kek.as_ref().filter(|_| settings.rotation_enabled)
            && let Some(age) = self.kek_age(kek).filter(|age| *age / 86400 >= days)
        {
            let who = match kek.rotation {
                Rotation::Here => "a running sidecar rotates it, if the key service lets it",
                Rotation::Operator => {
                    "rotate it with `veilstream keys rotate --kek` and back it up"
                }
                Rotation::Elsewhere => "rotate it where it is kept",
            };
            warnings.push(format!(
                "key-encrypting key {} {} wraps for {} days; keys.rotation_interval_days is \
                {days}: {who}",
                kek.uri,
                kek.version,
                age / 86400
            ));
        }
        let stale = self
            .kek
            .as_ref()
            .map_or(0, |kek| self.records.iter().filter(|r| wrapped_by_older(r, kek)).count());
        if stale > 0 {
            warnings.push(format!(
                "{stale} keys are wrapped by an older version of the \
                key-encrypting key; move them with `veilstream keys rewrap`"
            ));
        }
        let roots: Vec<String> = self
            .records
            .iter()
            .filter(|r| r.kind == KeyKind::Index && r.state == KeyState::Active)
            .map(|r| r.version.to_string())
            .collect();
        if roots.len() > 1 {
            warnings.push(format!(
                "index roots {} are written side by side; re-index what is \
                stored, then retire the old one",
                roots.join(" and ")
            ));
        }
        if self.subjects.half_shredded > 0 {
            let n = self.subjects.half_shredded;
            warnings.push(format!(
                "{n} shredded keys have wraps again: somebody changed the store; \
                `veilstream keys replay-ledger` erases them"
            ));
        }
        warnings
    }
}

/// Whether the provider's wrap of a key is not of the version that wraps now.
fn wrapped_by_older(record: &KeyRecord, kek: &Kek) -> bool {
    record.wraps.iter().any(|wrap| wrap.kek_uri == kek.uri && wrap.kek_version != kek.version)
}

fn shown(record: &KeyRecord) -> Value {
    let wraps: Vec<Value> = record
        .wraps
        .iter()
        .map(|w| json!({ "kek_uri": w.kek_uri, "kek_version": w.kek_version }))
        .collect();
    json!({
        "kid": record.kid.to_string(), "kind": record.kind.as_str(), "tenant": &*record.tenant, "scope": record.scope.to_string(), "version": record.version,
        "state": record.state.as_str(), "created": time(record.created), "retired": record.retired.map(time), "wraps": wraps,
    })
}

fn wrapped_by(record: &KeyRecord) -> String {
    record
        .wraps
        .iter()
        .map(|w| format!("{} {}", w.kek_uri, w.kek_version))
        .collect::<Vec<_>>()
        .join(", ")
}

fn time(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|s| Timestamp::from_second(s).ok())
        .map_or_else(|| "-".to_owned(), |t| t.to_string())
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}
