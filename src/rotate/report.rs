//! What stands in a table, from the headers of its tokens: the server groups them, and nothing is
//! opened.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope};
use veilstream_engine::schema::Schema;
use veilstream_engine::token::{FLAG_BOUND, Suite};
use veilstream_keys::store::KeyRecord;
use veilstream_keys::{KeyError, Manager};

use super::columns::{Columns, FieldColumns};
use super::counts::{Counts, FieldCounts, KeyGroup};
use super::keys::{is_newest, newest_versions};
use super::table::{RotationError, SUBJECTS};
use crate::rows::{Connection, Table, quoted};

/// Keys whose records are asked for at once.
const RECORDS: usize = 1000;

/// Counts what stands in the columns, by key id, form and root. Nothing is opened: a token that is
/// damaged behind its header is counted by its header.
///
/// # Errors
/// The table or the key store cannot be read.
pub fn report(
    connection: &mut Connection,
    table: &Table,
    schema: &Schema,
    columns: &Columns,
    manager: &Manager,
) -> Result<Counts, RotationError> {
    // The whole table, not by the index of its key, and in the time that it takes.
    let settings = "SET enable_seqscan = on; SET enable_hashjoin = on; SET statement_timeout = 0";
    connection.batch(settings)?;
    let (mut counts, mut rows) = (Counts::default(), None);
    for field in &columns.fields {
        let id = schema.fields[field.field].id.to_string();
        let counted = of_field(connection, table, schema, field, manager)?;
        if !field.is_list {
            rows = Some(counted.cells());
        }
        counts.fields.insert(id, counted);
    }
    counts.rows = match rows {
        Some(rows) => rows,
        // Lists tell of their elements alone.
        None => {
            let count = format!("SELECT count(*) FROM {}", table.sql);
            u64::try_from(connection.one(&count, &[])?.get::<_, i64>(0)).unwrap_or(0)
        }
    };
    Ok(counts)
}

fn of_field(
    connection: &mut Connection,
    table: &Table,
    schema: &Schema,
    columns: &FieldColumns,
    manager: &Manager,
) -> Result<FieldCounts, RotationError> {
    let column = quoted(&columns.token);
    let index = columns.index.as_deref().map(quoted);
    let sql = source(table, columns, &column, index.as_deref());
    // Suite, flags and key id, and whether the field is this one (docs/formats.md, "Tokens").
    let groups = format!(
        "SELECT CASE WHEN {column} LIKE 'vs1.%' THEN substr({column}, 5, 24) END,
            substr({column}, 29, 8) = $1, {column} IS NULL, count(*)
        FROM {sql} GROUP BY 1, 2, 3"
    );
    let field = &schema.fields[columns.field];
    let fid = URL_SAFE_NO_PAD.encode(field.fid);
    let mut counts = FieldCounts::default();
    let mut tokens: BTreeMap<KeyId, Tokens> = BTreeMap::new();
    for row in connection.query(&groups, &[&fid])? {
        let number: i64 = row.get(3);
        let number = u64::try_from(number).unwrap_or(0);
        let (front, is_field): (Option<String>, Option<bool>) = (row.get(0), row.get(1));
        let mut fail = |class| *counts.failed.entry(class).or_default() += number;
        match front {
            None if row.get(2) => counts.nulls += number,
            None => fail("clear"),
            Some(front) => match Front::read(&front) {
                None => fail("malformed"),
                Some(_) if is_field != Some(true) => fail("field_mismatch"),
                Some(front) => {
                    let of_key = tokens.entry(front.kid).or_default();
                    of_key.all += number;
                    of_key.unbound += if front.is_bound { 0 } else { number };
                }
            },
        }
    }
    by_key(manager, schema, &tokens, !field.bind.is_empty(), &mut counts)?;
    if let Some(index) = index {
        let groups = format!(
            "SELECT split_part({index}, '~', 1), count(*) FROM {sql} WHERE {column} IS NOT NULL
            GROUP BY 1"
        );
        for row in connection.query(&groups, &[])? {
            let (version, number): (Option<String>, i64) = (row.get(0), row.get(1));
            let number = u64::try_from(number).unwrap_or(0);
            match version.and_then(|version| version.parse().ok()) {
                Some(version) => *counts.indexes.entry(version).or_default() += number,
                None => counts.without_index += number,
            }
        }
    }
    Ok(counts)
}

/// What the columns are selected from: the table, or the elements of its lists; of one that is
/// null, or has no elements, one that is null.
fn source(table: &Table, columns: &FieldColumns, token: &str, index: Option<&str>) -> String {
    let sql = &table.sql;
    if !columns.is_list {
        return sql.clone();
    }
    let names: Vec<&str> = [Some(token), index].into_iter().flatten().collect();
    let lists: Vec<String> = names.iter().map(|name| format!("t.{name}")).collect();
    let (names, lists) = (names.join(", "), lists.join(", "));
    format!("(SELECT e.* FROM {sql} AS t LEFT JOIN unnest({lists}) AS e({names}) ON true) AS e")
}

/// Tokens under one key.
#[derive(Default)]
struct Tokens {
    all: u64,
    unbound: u64,
}

/// The front of a token: what 24 characters behind the prefix say.
struct Front {
    kid: KeyId,
    is_bound: bool,
}

impl Front {
    fn read(text: &str) -> Option<Self> {
        let bytes: [u8; 18] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
        Suite::from_id(bytes[0])?;
        let mut kid = [0; 16];
        kid.copy_from_slice(&bytes[2..]);
        Some(Self { kid: KeyId(kid), is_bound: bytes[1] & FLAG_BOUND != 0 })
    }
}

/// Adds tokens up by what the key store knows of their keys.
fn by_key(
    manager: &Manager,
    schema: &Schema,
    tokens: &BTreeMap<KeyId, Tokens>,
    is_field_bound: bool,
    counts: &mut FieldCounts,
) -> Result<(), KeyError> {
    let kids: Vec<KeyId> = tokens.keys().copied().collect();
    let mut unknown: BTreeSet<KeyId> = kids.iter().copied().collect();
    for kids in kids.chunks(RECORDS) {
        let records = manager.store().get(kids)?;
        let newest = newest_of(manager, &records)?;
        for record in records {
            unknown.remove(&record.kid);
            let Tokens { all, unbound } = tokens[&record.kid];
            let is_subjects = matches!(record.scope, Scope::Subject(_));
            match record.state {
                KeyState::Shredded => {
                    counts.erased += all;
                    continue;
                }
                KeyState::Retired => {
                    *counts.failed.entry("key_unavailable").or_default() += all;
                    continue;
                }
                KeyState::Active | KeyState::DecryptOnly | KeyState::Compromised => {}
            }
            let group = if is_subjects {
                let is_newest = newest.contains(&record.kid);
                KeyGroup { is_newest, scope: SUBJECTS.to_owned(), kid: None }
            } else {
                let is_newest = is_newest(manager, &record)?;
                KeyGroup { is_newest, scope: record.scope.to_string(), kid: Some(record.kid) }
            };
            *counts.keys.entry(group).or_default() += all;
            counts.without_binding += if is_field_bound { unbound } else { 0 };
            let is_bare = !schema.subjects.is_empty() && !is_subjects;
            counts.without_subject += if is_bare { all } else { 0 };
        }
    }
    for kid in unknown {
        *counts.failed.entry("key_unavailable").or_default() += tokens[&kid].all;
    }
    Ok(())
}

/// Which of data subjects' keys are their newest.
fn newest_of(manager: &Manager, records: &[KeyRecord]) -> Result<BTreeSet<KeyId>, KeyError> {
    let subjects = records.iter().filter(|record| matches!(record.scope, Scope::Subject(_)));
    let scopes: BTreeSet<Scope> = subjects.map(|record| record.scope.clone()).collect();
    let scopes: Vec<Scope> = scopes.into_iter().collect();
    newest_versions(manager, KeyKind::Data, &scopes)
}
