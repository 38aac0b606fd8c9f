//! Changes of several rows, each within a transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use veilstream_engine::key::{KeyId, KeyKind, Scope};

use super::rows::{Columns, WrapColumns, bytes, time};
use super::session::Session;
use super::{KeyRecord, Shred, Wrap, WrapChange, of_scopes};

/// Adds keys and their wraps, but those whose place or id another has.
pub(super) fn add(s: &mut Session, records: &[KeyRecord]) -> Result<(), postgres::Error> {
    let mut records: Vec<&KeyRecord> = records.iter().collect();
    // Two processes that store the same keys must wait for each other's in one order.
    records.sort_by_cached_key(|record| (record.tenant.clone(), record.kind.as_str(), record.scope.to_string(), record.version));
    let columns = Columns::of(records);
    let rows = s.query(
        "INSERT INTO keys
         SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::timestamptz[], $9::timestamptz[])
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
        ],
    )?;
    let mut added: HashSet<&[u8]> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let records = columns.records.iter().filter(|record| added.remove(&record.kid.0[..]));
    let wraps = WrapColumns::of(records.flat_map(|record| record.wraps.iter().map(|wrap| (record.kid, wrap))));
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
pub(super) fn put_wraps<'a>(s: &mut Session, changes: impl Iterator<Item = &'a WrapChange>) -> Result<(), postgres::Error> {
    let last: BTreeMap<(KeyId, &str), &Wrap> = changes.map(|change| ((change.kid, &*change.new.kek_uri), &change.new)).collect();
    let new = WrapColumns::of(last.into_iter().map(|((kid, _), wrap)| (kid, wrap)));
    s.execute(
        "INSERT INTO wraps SELECT * FROM unnest($1::bytea[], $2::text[], $3::text[], $4::bytea[])
         ON CONFLICT (kid, kek_uri) DO UPDATE SET kek_version = excluded.kek_version, wrapped = excluded.wrapped",
        &[&new.kids, &new.uris, &new.versions, &new.wrapped],
    )
    .map(drop)
}

/// Nobody changes these keys until our transaction ends.
pub(super) fn lock_keys(s: &mut Session, kids: &[&[u8]]) -> Result<(), postgres::Error> {
    s.execute("SELECT FROM keys WHERE kid = ANY($1) ORDER BY kid FOR UPDATE", &[&kids]).map(drop)
}

/// Erases what can be seen now; returns those that are to be looked at again. Adds to `kids` what lost its wraps, by scope.
pub(super) fn shred<'a>(
    s: &mut Session,
    tenant: &str,
    shreds: &[&'a Shred],
    now: u64,
    kids: &mut HashMap<String, Vec<KeyId>>,
    shredded_now: &mut HashSet<String>,
) -> Result<Vec<&'a Shred>, postgres::Error> {
    let by_scope: HashMap<String, &Shred> = shreds.iter().map(|shred| (scope_of(shred), *shred)).collect();
    let scopes: Vec<&str> = by_scope.keys().map(String::as_str).collect();
    let known = s.query(concat!("SELECT k.kid FROM ", of_scopes!("NOT LIKE")), &[&tenant, &KeyKind::Data.as_str(), &scopes])?;
    let known: Vec<&[u8]> = known.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    lock_keys(s, &known)?;
    // As they are now that they are locked.
    let rows = s.query(
        "SELECT kid, scope FROM keys WHERE kid = ANY($1) AND (state <> 'shredded' OR EXISTS (SELECT 1 FROM wraps w WHERE w.kid = keys.kid))",
        &[&known],
    )?;
    let mut dead: HashMap<&[u8], &str> = HashMap::new();
    for row in &rows {
        let (kid, scope): (&[u8], &str) = (row.try_get(0)?, row.try_get(1)?);
        if by_scope.get(scope).is_some_and(|shred| shred.all || shred.kids.iter().any(|named| named.0 == kid)) {
            dead.insert(kid, scope);
            shredded_now.insert(scope.to_owned());
        }
    }
    let dying: Vec<&[u8]> = dead.keys().copied().collect();
    s.execute("UPDATE keys SET state = 'shredded', retired = $2 WHERE kid = ANY($1)", &[&dying, &time(now)])?;
    // What has no wraps was a marker.
    let mut gone: Vec<KeyId> = Vec::new();
    for row in s.query("DELETE FROM wraps WHERE kid = ANY($1) RETURNING kid", &[&dying])? {
        gone.extend(row.try_get::<_, &[u8]>(0)?.try_into().ok().map(KeyId));
    }
    gone.sort_unstable();
    gone.dedup();
    for kid in gone {
        if let Some(scope) = dead.get(&kid.0[..]) {
            kids.entry((*scope).to_owned()).or_default().push(kid);
        }
    }
    let rows = s.query(
        concat!("SELECT k.scope, max(k.version), count(*) FILTER (WHERE k.state <> 'shredded') FROM ", of_scopes!("NOT LIKE"), " GROUP BY k.scope"),
        &[&tenant, &KeyKind::Data.as_str(), &scopes],
    )?;
    let mut left: HashMap<&str, (u32, bool)> = HashMap::new();
    for row in &rows {
        left.insert(row.try_get(0)?, (u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or(u32::MAX), row.try_get::<_, i64>(2)? > 0));
    }
    let (mut again, mut markers) = (Vec::new(), Vec::new());
    for (scope, shred) in &by_scope {
        let (newest, alive) = left.get(scope.as_str()).copied().unwrap_or_default();
        if shred.all && alive {
            again.push(*shred);
        } else {
            markers.extend(shred.next_marker(newest, alive, shredded_now.contains(scope)));
        }
    }
    add(s, &markers)?;
    let wanted: Vec<KeyId> = markers.iter().map(|marker| marker.kid).collect();
    let mut placed: HashSet<Vec<u8>> = HashSet::new();
    for row in s.query("SELECT kid FROM keys WHERE kid = ANY($1)", &[&bytes(&wanted)])? {
        placed.insert(row.try_get(0)?);
    }
    again.extend(by_scope.values().filter(|shred| wanted.contains(&shred.marker.kid) && !placed.contains(&shred.marker.kid.0[..])));
    Ok(again)
}

pub(super) fn scope_of(shred: &Shred) -> String {
    Scope::Subject(shred.subject).to_string()
}
