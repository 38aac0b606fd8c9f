//! What an erasure does not reach, as configuration and audit log tell it: fields under keys of
//! other systems, and tables whose migration is unfinished.

use std::collections::BTreeMap;

use veilstream_reading::audit::{Event, LogParts};

use crate::config::Config;
use crate::keys::KeysSource;
use crate::{config, registry};

/// For the receipt, a sentence each.
///
/// # Errors
/// The configuration has faults, or the audit log cannot be read.
pub(super) fn of(source: &KeysSource) -> anyhow::Result<Vec<String>> {
    let Some(file) = &source.config else { return Ok(Vec::new()) };
    let config = config::load_config(file)?;
    let mut remains = interop_fields(&config);
    for place in unfinished(&config)? {
        remains.push(format!("{place}: its migration is unfinished, rows may hold the old form"));
    }
    Ok(remains)
}

fn interop_fields(config: &Config) -> Vec<String> {
    if !config.schemas.dir.is_dir() {
        return Vec::new();
    }
    let Ok((registry, _)) = registry::open_configured(&config.schemas) else {
        return vec![
            "fields in the form of other systems, if there are any: the schema documents have \
            faults and were not read"
                .to_owned(),
        ];
    };
    let set = registry.current();
    let fields = set.schemas().iter().flat_map(|schema| {
        schema.interop_fields().map(move |(field, interop)| {
            format!(
                "values of the field {}.{}, which are {} under keys of another system",
                schema.name,
                field.id,
                interop.form.as_str()
            )
        })
    });
    fields.collect()
}

/// Columns whose last migration did not end with nothing left.
fn unfinished(config: &Config) -> anyhow::Result<Vec<String>> {
    let Some(audit) = &config.audit else { return Ok(Vec::new()) };
    if !audit.file.exists() {
        return Ok(Vec::new());
    }
    let mut last: BTreeMap<String, (u64, bool)> = BTreeMap::new();
    LogParts::of(&audit.file)?.each(|_, _, line| {
        let (time, entry) = (line.seconds(), line.entry);
        if entry.event != Event::Migrate {
            return Ok(());
        }
        let Some(place) = entry.query_id else { return Ok(()) };
        // Lines of the end of a run have counts.
        let is_done = entry.outcome.as_deref() == Some("ok") && entry.items.is_some();
        let known = last.entry(place).or_default();
        if time >= known.0 {
            *known = (time, is_done);
        }
        Ok(())
    })?;
    Ok(last.into_iter().filter(|(_, (_, is_done))| !is_done).map(|(place, _)| place).collect())
}
