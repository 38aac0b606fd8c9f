//! Records of API keys.

use postgres::{Error, Row};

use super::session::PreparedClient;
use crate::credential::CredentialRow;

pub(super) fn all(session: &mut PreparedClient) -> Result<Vec<CredentialRow>, Error> {
    let all = "SELECT id, sha256, name, roles, created, expires, revoked, mac FROM credentials \
        ORDER BY id";
    let row = |row: &Row| {
        Ok(CredentialRow {
            id: row.try_get(0)?,
            sha256: row.try_get(1)?,
            name: row.try_get(2)?,
            roles: row.try_get(3)?,
            created: row.try_get(4)?,
            expires: row.try_get(5)?,
            revoked: row.try_get(6)?,
            mac: row.try_get(7)?,
        })
    };
    session.query(all, &[])?.iter().map(row).collect()
}

/// Whether the id was free.
pub(super) fn add(session: &mut PreparedClient, row: &CredentialRow) -> Result<bool, Error> {
    let CredentialRow { id, sha256, name, roles, created, expires, revoked, mac } = row;
    let added = session.execute(
        "INSERT INTO credentials VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        &[id, sha256, name, roles, created, expires, revoked, mac],
    )?;
    Ok(added == 1)
}

/// Whether it was there and not revoked.
pub(super) fn revoke(session: &mut PreparedClient, row: &CredentialRow) -> Result<bool, Error> {
    let changed = session.execute(
        "UPDATE credentials SET revoked = $2, mac = $3 WHERE id = $1 AND revoked IS NULL",
        &[&row.id, &row.revoked, &row.mac],
    )?;
    Ok(changed == 1)
}
