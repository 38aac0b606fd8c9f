//! Changes of several rows, each within a transaction.

use std::collections::{BTreeMap, HashSet};

use veilstream_engine::key::{KeyId, KeyState};

use super::rows::{Columns, WrapColumns};
use super::session::PreparedClient;
use super::{Head, KeyRecord, StoreError, StoreKeys, Wrap, WrapChange, check, key_rows, records};
use crate::erasure::LedgerError;

/// Why a transaction is rolled back.
pub(super) enum PostgresFailure {
    Sql(postgres::Error),
    Store(StoreError),
}

impl From<postgres::Error> for PostgresFailure {
    fn from(error: postgres::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<StoreError> for PostgresFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<LedgerError> for PostgresFailure {
    fn from(error: LedgerError) -> Self {
        Self::Store(error.into())
    }
}

/// The head; `locked` until the end of the transaction.
pub(super) fn read_head(
    s: &mut PreparedClient,
    place: &str,
    locked: bool,
) -> Result<Option<Head>, PostgresFailure> {
    let sql = if locked {
        "SELECT store, tenant, seq, sha256, mac FROM head FOR UPDATE"
    } else {
        "SELECT store, tenant, seq, sha256, mac FROM head"
    };
    let rows = s.query(sql, &[])?;
    let Some(row) = rows.first() else { return Ok(None) };
    let whole = || {
        let seq = u64::try_from(row.try_get::<_, i64>(2).ok()?).ok()?;
        let bytes = |i: usize| row.try_get::<_, &[u8]>(i).ok();
        let (store, sha256, mac) =
            (bytes(0)?.try_into().ok()?, bytes(3)?.try_into().ok()?, bytes(4)?.try_into().ok()?);
        Some(Head { store, tenant: row.try_get::<_, &str>(1).ok()?.into(), seq, sha256, mac })
    };
    whole().map(Some).ok_or_else(|| LedgerError::Head { place: place.to_owned() }.into())
}

pub(super) fn put_head(s: &mut PreparedClient, head: &Head) -> Result<(), postgres::Error> {
    let seq = i64::try_from(head.seq).unwrap_or(i64::MAX);
    let columns: [&(dyn postgres::types::ToSql + Sync); 5] =
        [&&head.store[..], &&*head.tenant, &seq, &&head.sha256[..], &&head.mac[..]];
    // Who waits for the row's lock must find it again afterwards: it is never deleted.
    if s.execute(
        "UPDATE head SET store = $1, tenant = $2, seq = $3, sha256 = $4, mac = $5",
        &columns,
    )? == 0
    {
        s.execute("INSERT INTO head VALUES ($1, $2, $3, $4, $5)", &columns)?;
    }
    Ok(())
}

/// Moves keys, which the transaction holds locked, to another state, each with a MAC for it.
pub(super) fn put_states(
    s: &mut PreparedClient,
    place: &str,
    keys: &StoreKeys,
    kids: &[&[u8]],
    state: KeyState,
    retired: Option<u64>,
) -> Result<(), PostgresFailure> {
    if kids.is_empty() {
        return Ok(());
    }
    let known = records(
        &s.query(key_rows!("WHERE k.kid = ANY($1) ORDER BY k.kid, w.kek_uri"), &[&kids])?,
        place,
    )?;
    known.iter().try_for_each(|record| check(keys, place, record))?;
    let changed: Vec<KeyRecord> = known
        .into_iter()
        .map(|record| keys.signed(&KeyRecord { state, retired, ..record }))
        .collect();
    Ok(put(s, &changed)?)
}

pub(super) fn put(s: &mut PreparedClient, records: &[KeyRecord]) -> Result<(), postgres::Error> {
    let columns = Columns::of(records.iter().collect());
    s.execute(
        "UPDATE keys k SET state = n.state, retired = n.retired, mac = n.mac
         FROM unnest($1::bytea[], $2::text[], $3::timestamptz[], $4::bytea[]) n (kid, state, retired, mac) WHERE k.kid = n.kid",
        &[&columns.kids, &columns.states, &columns.retired, &columns.macs],
    )
    .map(drop)
}

/// Adds keys and their wraps, but those whose place or id another has.
pub(super) fn add(s: &mut PreparedClient, records: &[KeyRecord]) -> Result<(), postgres::Error> {
    let mut records: Vec<&KeyRecord> = records.iter().collect();
    // Two processes that store the same keys must wait for each other's in one order.
    records.sort_by_cached_key(|record| {
        (record.tenant.clone(), record.kind.as_str(), record.scope.to_string(), record.version)
    });
    let columns = Columns::of(records);
    let rows = s.query(
        "INSERT INTO keys
         SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::timestamptz[], $9::timestamptz[], $10::bytea[])
         ON CONFLICT DO NOTHING RETURNING kid",
        &[
            &columns.kids,
            &columns.kcvs,
            &columns.kinds,
            &columns.tenants,
            &columns.scopes,
            &columns.versions,
            &columns.states,
            &columns.created,
            &columns.retired,
            &columns.macs,
        ],
    )?;
    let mut added: HashSet<&[u8]> =
        rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let records = columns.records.iter().filter(|record| added.remove(&record.kid.0[..]));
    let wraps = WrapColumns::of(
        records.flat_map(|record| record.wraps.iter().map(|wrap| (record.kid, wrap))),
    );
    if wraps.kids.is_empty() {
        return Ok(());
    }
    s.execute(
        "INSERT INTO wraps SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::bytea[])",
        &[&wraps.kids, &wraps.uris, &wraps.versions, &wraps.wrapped],
    )
    .map(drop)
}

/// The new wraps of changes, the last of those with one `kek_uri`.
pub(super) fn put_wraps<'a>(
    s: &mut PreparedClient,
    changes: impl Iterator<Item = &'a WrapChange>,
) -> Result<(), postgres::Error> {
    let last: BTreeMap<(KeyId, &str), &Wrap> =
        changes.map(|change| ((change.kid, &*change.new.kek_uri), &change.new)).collect();
    let new = WrapColumns::of(last.into_iter().map(|((kid, _), wrap)| (kid, wrap)));
    s.execute(
        "INSERT INTO wraps SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::bytea[])
         ON CONFLICT (kid, kek_uri) DO UPDATE SET kek_version = excluded.kek_version, wrapped = excluded.wrapped",
        &[&new.kids, &new.uris, &new.versions, &new.wrapped],
    )
    .map(drop)
}

/// Nobody changes these keys until our transaction ends.
pub(super) fn lock_keys(s: &mut PreparedClient, kids: &[&[u8]]) -> Result<(), postgres::Error> {
    s.execute("SELECT FROM keys WHERE kid = ANY($1) ORDER BY kid FOR UPDATE", &[&kids]).map(drop)
}
