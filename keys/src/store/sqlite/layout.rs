//! Tables and indexes of the file.

use rusqlite::{Connection, Result};

/// Layout of the file; raised when it changes. Earlier ones are of builds that were never released:
/// refused.
pub(super) const LAYOUT: i64 = 5;

/// `uses` is beside the two tables of the public format: a reader of those need not know it.
const TABLES: &str = "
CREATE TABLE keys (kid TEXT PRIMARY KEY, kcv TEXT NOT NULL, kind TEXT NOT NULL, tenant TEXT NOT NULL, scope TEXT NOT NULL, version INTEGER NOT NULL,
                   state TEXT NOT NULL, created TEXT NOT NULL, retired TEXT, mac TEXT);
CREATE TABLE wraps (kid TEXT NOT NULL, kek_uri TEXT NOT NULL, kek_version TEXT NOT NULL, wrapped BLOB NOT NULL, PRIMARY KEY (kid, kek_uri));
CREATE TABLE uses (kid TEXT PRIMARY KEY, uses INTEGER NOT NULL);
CREATE TABLE head (store TEXT NOT NULL, tenant TEXT NOT NULL, seq INTEGER NOT NULL, sha256 TEXT NOT NULL, mac TEXT NOT NULL);
CREATE TABLE credentials (id TEXT PRIMARY KEY, sha256 TEXT NOT NULL, name TEXT NOT NULL, roles TEXT NOT NULL,
                          created TEXT NOT NULL, expires TEXT NOT NULL, revoked TEXT, mac TEXT NOT NULL);
";
/// Each scope is in one of the first two, and every query says which: two indexes over all of them
/// would cost a subject 80 bytes more.
const INDEXES: &str = "
CREATE UNIQUE INDEX IF NOT EXISTS keys_one_per_version ON keys (tenant, kind, scope, version) WHERE scope NOT LIKE 'schema:%';
CREATE INDEX IF NOT EXISTS keys_of_processes ON keys (tenant, kind, scope, created) WHERE scope LIKE 'schema:%';
CREATE INDEX IF NOT EXISTS keys_shredded ON keys (tenant, retired) WHERE state = 'shredded';
CREATE INDEX IF NOT EXISTS keys_ended ON keys (tenant, retired) WHERE state IN ('retired', 'compromised');
";

/// Makes the tables, all of them or none.
pub(super) fn create(connection: &mut Connection) -> Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.execute_batch(INDEXES)?;
    transaction.pragma_update(None, "user_version", LAYOUT)?;
    transaction.commit()
}
