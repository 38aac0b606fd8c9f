//! The erasure of data subjects within a transaction.

use std::collections::{HashMap, HashSet};

use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};

use super::changes::{PostgresFailure, add, lock_keys, put};
use super::rows::{bytes, records};
use super::session::PreparedClient;
use super::{KeyRecord, Shred, StoreKeys, key_rows, of_scopes};

/// One transaction that erases, and what it has destroyed so far.
pub(super) struct Shredder<'a> {
    place: &'a str,
    keys: &'a StoreKeys,
    tenant: &'a str,
    /// Unix seconds.
    now: u64,
    /// Keys that lost their wraps, by scope.
    kids: HashMap<String, Vec<KeyId>>,
    /// Scopes of which a key was shredded.
    scopes: HashSet<String>,
}

impl<'a> Shredder<'a> {
    pub(super) fn new(place: &'a str, keys: &'a StoreKeys, tenant: &'a str, now: u64) -> Self {
        Self { place, keys, tenant, now, kids: HashMap::new(), scopes: HashSet::new() }
    }

    /// The keys of a subject that lost their wraps.
    pub(super) fn destroyed(&mut self, subject: SubjectRef) -> Vec<KeyId> {
        self.kids.remove(&scope_of(subject)).unwrap_or_default()
    }

    /// Erases what can be seen now; returns those that are to be looked at again.
    pub(super) fn shred<'s>(
        &mut self,
        s: &mut PreparedClient,
        shreds: &[&'s Shred],
    ) -> Result<Vec<&'s Shred>, PostgresFailure> {
        let by_scope: HashMap<String, &Shred> =
            shreds.iter().map(|shred| (scope_of(shred.subject), *shred)).collect();
        let scopes: Vec<&str> = by_scope.keys().map(String::as_str).collect();
        self.destroy(s, &by_scope, &scopes)?;
        let left = self.left(s, &scopes)?;
        let (mut again, mut markers) = (Vec::new(), Vec::new());
        for (scope, shred) in &by_scope {
            let (newest, alive) = left.get(scope).copied().unwrap_or_default();
            if shred.all && alive {
                again.push(*shred);
            } else {
                markers.extend(
                    shred
                        .next_marker(newest, alive, self.scopes.contains(scope))
                        .map(|marker| self.keys.signed(&marker)),
                );
            }
        }
        add(s, &markers)?;
        let wanted: Vec<KeyId> = markers.iter().map(|marker| marker.kid).collect();
        let mut placed: HashSet<Vec<u8>> = HashSet::new();
        for row in s.query("SELECT kid FROM keys WHERE kid = ANY($1)", &[&bytes(&wanted)])? {
            placed.insert(row.try_get(0)?);
        }
        again.extend(by_scope.values().filter(|shred| {
            wanted.contains(&shred.marker.kid) && !placed.contains(&shred.marker.kid.0[..])
        }));
        Ok(again)
    }

    /// Shreds the keys of these scopes that are there, and deletes their wraps.
    fn destroy(
        &mut self,
        s: &mut PreparedClient,
        by_scope: &HashMap<String, &Shred>,
        scopes: &[&str],
    ) -> Result<(), PostgresFailure> {
        let mut dead: HashMap<KeyId, String> = HashMap::new();
        let mut destroyed = Vec::new();
        for record in self.locked(s, scopes)? {
            let scope = record.scope.to_string();
            if by_scope
                .get(&scope)
                .is_some_and(|shred| shred.all || shred.kids.contains(&record.kid))
            {
                self.scopes.insert(scope.clone());
                dead.insert(record.kid, scope);
                // Keys whose record was edited are destroyed as well.
                destroyed.push(self.keys.signed(&KeyRecord {
                    state: KeyState::Shredded,
                    retired: Some(self.now),
                    ..record
                }));
            }
        }
        put(s, &destroyed)?;
        let dying: Vec<&[u8]> = destroyed.iter().map(|record| &record.kid.0[..]).collect();
        // What has no wraps was a marker.
        let mut gone: Vec<KeyId> = Vec::new();
        for row in s.query("DELETE FROM wraps WHERE kid = ANY($1) RETURNING kid", &[&dying])? {
            gone.extend(row.try_get::<_, &[u8]>(0)?.try_into().ok().map(KeyId));
        }
        gone.sort_unstable();
        gone.dedup();
        for kid in gone {
            if let Some(scope) = dead.get(&kid) {
                self.kids.entry(scope.clone()).or_default().push(kid);
            }
        }
        Ok(())
    }

    /// The keys of these scopes that are not destroyed, as they are now that they are locked.
    fn locked(
        &self,
        s: &mut PreparedClient,
        scopes: &[&str],
    ) -> Result<Vec<KeyRecord>, PostgresFailure> {
        let known = s.query(
            concat!("SELECT k.kid FROM ", of_scopes!("NOT LIKE")),
            &[&self.tenant, &KeyKind::Data.as_str(), &scopes],
        )?;
        let known: Vec<&[u8]> = known.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        lock_keys(s, &known)?;
        let rows = s.query(
            key_rows!(
                "WHERE k.kid = ANY($1) AND (k.state <> 'shredded' OR EXISTS (SELECT 1 FROM wraps \
                x WHERE x.kid = k.kid)) ORDER BY k.kid, w.kek_uri"
            ),
            &[&known],
        )?;
        Ok(records(&rows, self.place)?)
    }

    /// The newest version of each scope, and whether a key or marker of it is not shredded.
    fn left(
        &self,
        s: &mut PreparedClient,
        scopes: &[&str],
    ) -> Result<HashMap<String, (u32, bool)>, PostgresFailure> {
        let rows = s.query(
            concat!(
                "SELECT k.scope, max(k.version), count(*) FILTER (WHERE k.state <> 'shredded') FROM ",
                of_scopes!("NOT LIKE"),
                " GROUP BY k.scope"
            ),
            &[&self.tenant, &KeyKind::Data.as_str(), &scopes],
        )?;
        let mut left = HashMap::new();
        for row in &rows {
            let version = u32::try_from(row.try_get::<_, i64>(1)?).unwrap_or(u32::MAX);
            left.insert(row.try_get(0)?, (version, row.try_get::<_, i64>(2)? > 0));
        }
        Ok(left)
    }
}

fn scope_of(subject: SubjectRef) -> String {
    Scope::Subject(subject).to_string()
}
