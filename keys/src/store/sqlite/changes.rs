//! Changes within a transaction: the head, and the keys of an erased data subject.

use rusqlite::{Connection, Transaction, params};
use veilstream_engine::key::{KeyState, Scope};

use super::rows::{add, list, put_state, select};
use crate::erasure::{LedgerError, hex, unhex};
use crate::store::{Head, KeyRecord, Shred, Shredded, StoreError, StoreKeys};

/// Why a transaction was rolled back.
pub(super) enum SqliteFailure {
    Sql(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for SqliteFailure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for SqliteFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<LedgerError> for SqliteFailure {
    fn from(error: LedgerError) -> Self {
        Self::Store(error.into())
    }
}

pub(super) fn head(c: &Connection, place: &str) -> Result<Option<Head>, SqliteFailure> {
    type Row = (String, String, i64, String, String);
    let mut statement = c.prepare_cached("SELECT store, tenant, seq, sha256, mac FROM head")?;
    let rows: Vec<Row> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let Some((store, tenant, seq, sha256, mac)) = rows.first() else { return Ok(None) };
    let whole = || {
        let head = Head {
            store: unhex(store)?,
            tenant: tenant.as_str().into(),
            seq: u64::try_from(*seq).ok()?,
            sha256: unhex(sha256)?,
            mac: unhex(mac)?,
        };
        (rows.len() == 1).then_some(head)
    };
    whole().map(Some).ok_or_else(|| LedgerError::Head { place: place.to_owned() }.into())
}

pub(super) fn put_head(t: &Transaction<'_>, head: &Head) -> rusqlite::Result<()> {
    t.execute("DELETE FROM head", [])?;
    let seq = i64::try_from(head.seq).unwrap_or(i64::MAX);
    t.execute(
        "INSERT INTO head VALUES (?1, ?2, ?3, ?4, ?5)",
        params![hex(&head.store), &*head.tenant, seq, hex(&head.sha256), hex(&head.mac)],
    )
    .map(drop)
}

/// One subject, within a write transaction: nobody makes a key in between. Keys whose record was
/// edited are destroyed as well.
pub(super) fn shred(
    t: &Transaction<'_>,
    place: &str,
    keys: &StoreKeys,
    tenant: &str,
    shred: &Shred,
    now: u64,
) -> Result<Shredded, SqliteFailure> {
    const SCOPE: &str =
        "tenant = ?1 AND kind = 'data' AND scope = ?2 AND scope NOT LIKE 'schema:%'";
    const DEAD: &str =
        "WHERE k.tenant = ?1 AND k.kind = 'data' AND k.scope = ?2 AND k.scope NOT LIKE 'schema:%' AND (k.state != 'shredded' OR w.kid IS NOT NULL)
                        AND (?3 OR k.kid IN (SELECT value FROM json_each(?4))) ORDER BY k.kid, w.kek_uri";
    let scope = Scope::Subject(shred.subject).to_string();
    let dead = select(t, DEAD, params![tenant, scope, shred.all, list(&shred.kids)])?;
    let any = !dead.is_empty();
    let mut kids = Vec::new();
    for raw in dead {
        let record = raw.record(place)?;
        put_state(
            t,
            &keys.signed(&KeyRecord {
                state: KeyState::Shredded,
                retired: Some(now),
                ..record.clone()
            }),
        )?;
        // What has no wraps was a marker.
        if t.prepare_cached("DELETE FROM wraps WHERE kid = ?1")?
            .execute([record.kid.to_string()])?
            > 0
        {
            kids.push(record.kid);
        }
    }
    let mut left = t.prepare_cached(&format!(
        "SELECT coalesce(max(version), 0), count(*) FILTER \
        (WHERE state != 'shredded') FROM keys WHERE {SCOPE}"
    ))?;
    let (newest, alive): (u32, i64) =
        left.query_row(params![tenant, scope], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if let Some(marker) = shred.next_marker(newest, alive > 0, any) {
        add(t, &keys.signed(&marker))?;
    }
    Ok(Shredded { subject: shred.subject, kids })
}
