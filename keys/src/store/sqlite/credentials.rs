//! Records of API keys.

use rusqlite::{Connection, Result, params};

use crate::credential::CredentialRow;

pub(super) fn all(connection: &Connection) -> Result<Vec<CredentialRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, sha256, name, roles, created, expires, revoked, mac FROM credentials ORDER BY \
        id",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(CredentialRow {
            id: row.get(0)?,
            sha256: row.get(1)?,
            name: row.get(2)?,
            roles: row.get(3)?,
            created: row.get(4)?,
            expires: row.get(5)?,
            revoked: row.get(6)?,
            mac: row.get(7)?,
        })
    })?;
    rows.collect()
}

/// Whether the id was free.
pub(super) fn add(connection: &Connection, row: &CredentialRow) -> Result<bool> {
    let CredentialRow { id, sha256, name, roles, created, expires, revoked, mac } = row;
    let added = connection.execute(
        "INSERT INTO credentials VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
        params![id, sha256, name, roles, created, expires, revoked, mac],
    )?;
    Ok(added == 1)
}

/// Whether it was there and not revoked.
pub(super) fn revoke(connection: &Connection, row: &CredentialRow) -> Result<bool> {
    let changed = connection.execute(
        "UPDATE credentials SET revoked = ?2, mac = ?3 WHERE id = ?1 AND revoked IS NULL",
        params![row.id, row.revoked, row.mac],
    )?;
    Ok(changed == 1)
}
