//! Key records as rows of the tables: selected, added and checked.

use rusqlite::types::Value;
use rusqlite::{Connection, Params, Transaction, params};
use veilstream_engine::key::KeyId;

use crate::erasure::{hex, unhex};
use crate::store::{KeyRecord, StoreError, Wrap, check_value};
use crate::time::text as time;

/// A key, its uses and its wraps, one row a wrap.
const ROWS: &str =
    "SELECT k.kid, k.kcv, k.kind, k.tenant, k.scope, k.version, k.state, k.created, k.retired, u.uses, k.mac, w.kek_uri, w.kek_version, w.wrapped
FROM keys k LEFT JOIN uses u ON u.kid = k.kid LEFT JOIN wraps w ON w.kid = k.kid";

/// A key's rows as they stand there, not checked yet.
pub(super) struct Raw {
    kid: String,
    columns: Vec<Value>,
    wraps: Vec<Wrap>,
}

impl Raw {
    /// Checks every column: a row edited by hand must not turn into another key.
    pub(super) fn record(self, place: &str) -> Result<KeyRecord, StoreError> {
        let damaged =
            |what| StoreError::Row { place: place.to_owned(), kid: self.kid.clone(), what };
        let text = |i: usize, what| match &self.columns[i] {
            Value::Text(text) => Ok(text.as_str()),
            _ => Err(damaged(what)),
        };
        let number = |i: usize, what| match &self.columns[i] {
            Value::Integer(n) => Ok(*n),
            _ => Err(damaged(what)),
        };
        let seconds =
            |i: usize, what| crate::time::seconds(text(i, what)?).ok_or_else(|| damaged(what));
        let kid: KeyId = self.kid.parse().map_err(|_| damaged("kid"))?;
        let kcv = check_value(text(0, "kcv")?)
            .filter(|kcv| kcv[..16] == kid.0)
            .ok_or_else(|| damaged("kcv"))?;
        Ok(KeyRecord {
            kid,
            kcv,
            kind: text(1, "kind")?.parse().map_err(|_| damaged("kind"))?,
            tenant: text(2, "tenant")?.into(),
            scope: text(3, "scope")?.parse().map_err(|_| damaged("scope"))?,
            version: u32::try_from(number(4, "version")?).map_err(|_| damaged("version"))?,
            state: text(5, "state")?.parse().map_err(|_| damaged("state"))?,
            created: seconds(6, "created")?,
            retired: if self.columns[7] == Value::Null {
                None
            } else {
                Some(seconds(7, "retired")?)
            },
            mac: if self.columns[9] == Value::Null {
                None
            } else {
                Some(unhex(text(9, "mac")?).ok_or_else(|| damaged("mac"))?)
            },
            uses: if self.columns[8] == Value::Null {
                None
            } else {
                Some(u64::try_from(number(8, "uses")?).map_err(|_| damaged("uses"))?)
            },
            wraps: self.wraps,
        })
    }
}

/// The keys that the rest of the statement selects, each with its wraps. Rows of one key come one
/// after another.
pub(super) fn select(
    c: &Connection,
    rest: &str,
    parameters: impl Params,
) -> rusqlite::Result<Vec<Raw>> {
    let mut statement = c.prepare_cached(&format!("{ROWS} {rest}"))?;
    let mut rows = statement.query(parameters)?;
    let mut keys: Vec<Raw> = Vec::new();
    while let Some(row) = rows.next()? {
        let kid: String = row.get(0)?;
        if keys.last().is_none_or(|last| last.kid != kid) {
            keys.push(Raw {
                kid,
                columns: (1..11).map(|i| row.get(i)).collect::<Result<_, _>>()?,
                wraps: Vec::new(),
            });
        }
        if let (Some(key), Some(kek_uri)) = (keys.last_mut(), row.get(11)?) {
            key.wraps.push(Wrap { kek_uri, kek_version: row.get(12)?, wrapped: row.get(13)? });
        }
    }
    Ok(keys)
}

/// A parameter for `json_each`.
pub(super) fn list<T: ToString>(names: &[T]) -> String {
    serde_json::Value::from_iter(names.iter().map(ToString::to_string)).to_string()
}

/// Adds a key and its wraps, unless another has its place.
pub(super) fn add(t: &Transaction<'_>, record: &KeyRecord) -> rusqlite::Result<()> {
    let kid = record.kid.to_string();
    let kcv: String = record.kcv.iter().map(|b| format!("{b:02x}")).collect();
    let mut statement = t.prepare_cached(
        "INSERT INTO keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
    )?;
    let added = statement.execute(params![
        kid,
        kcv,
        record.kind.as_str(),
        &*record.tenant,
        record.scope.to_string(),
        record.version,
        record.state.as_str(),
        time(record.created),
        record.retired.map(time),
        record.mac.map(|mac| hex(&mac)),
    ])?;
    if added == 1 {
        let mut statement = t.prepare_cached("INSERT INTO wraps VALUES (?1, ?2, ?3, ?4)")?;
        for wrap in &record.wraps {
            statement.execute(params![kid, wrap.kek_uri, wrap.kek_version, wrap.wrapped])?;
        }
    }
    Ok(())
}

pub(super) fn put_state(t: &Transaction<'_>, record: &KeyRecord) -> rusqlite::Result<()> {
    t.prepare_cached("UPDATE keys SET state = ?2, retired = ?3, mac = ?4 WHERE kid = ?1")?
        .execute(params![
            record.kid.to_string(),
            record.state.as_str(),
            record.retired.map(time),
            record.mac.map(|mac| hex(&mac))
        ])
        .map(drop)
}
