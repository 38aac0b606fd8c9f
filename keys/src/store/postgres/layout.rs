//! The tables of the store: made once, and looked at when it is opened.

use super::LAYOUT_LOCK;
use super::connection::ReconnectingClient;
use crate::store::StoreError;

/// Layout of the tables; raised when it changes. Earlier ones are of builds that were never
/// released: refused.
const LAYOUT: i32 = 4;

/// Texts compare by their bytes, as prefixes and orders here expect. `uses` is beside the two
/// tables of the public format: a reader of those need not know it. Each scope is in one of the
/// first two indexes, and every query says which: two over all of them would cost a subject a third
/// of its bytes more.
const TABLES: &str = r#"
CREATE TABLE keys (kid bytea PRIMARY KEY, kcv bytea NOT NULL, kind text COLLATE "C" NOT NULL, tenant text COLLATE "C" NOT NULL, scope text COLLATE "C" NOT NULL,
                   version bigint NOT NULL, state text COLLATE "C" NOT NULL, created timestamptz NOT NULL, retired timestamptz, mac bytea);
CREATE TABLE wraps (kid bytea NOT NULL, kek_uri text COLLATE "C" NOT NULL, kek_version text COLLATE "C" NOT NULL, wrapped bytea NOT NULL, PRIMARY KEY (kid, kek_uri));
CREATE TABLE uses (kid bytea PRIMARY KEY, uses bigint NOT NULL);
CREATE TABLE head (store bytea NOT NULL, tenant text COLLATE "C" NOT NULL, seq bigint NOT NULL, sha256 bytea NOT NULL, mac bytea NOT NULL);
CREATE TABLE credentials (id text COLLATE "C" PRIMARY KEY, sha256 text NOT NULL, name text NOT NULL, roles text NOT NULL,
                          created text NOT NULL, expires text NOT NULL, revoked text, mac text NOT NULL);
CREATE UNIQUE INDEX head_one ON head ((true));
CREATE UNIQUE INDEX keys_one_per_version ON keys (tenant, kind, scope, version) WHERE scope NOT LIKE 'schema:%';
CREATE INDEX keys_of_processes ON keys (tenant, kind, scope, created) WHERE scope LIKE 'schema:%';
CREATE INDEX keys_shredded ON keys (tenant, retired) WHERE state = 'shredded';
CREATE INDEX keys_ended ON keys (tenant, retired) WHERE state IN ('retired', 'compromised');
"#;

const HAS_LAYOUT: &str = "SELECT to_regclass($1 || '.layout') IS NOT NULL";

/// Makes the schema and its tables; never touches one that exists.
pub(super) fn create(connection: ReconnectingClient) -> Result<ReconnectingClient, StoreError> {
    let made = connection.write(|s| {
        s.query(LAYOUT_LOCK, &[])?;
        if s.flag(HAS_LAYOUT, &[&connection.schema()])? {
            return Ok(false);
        }
        // Somebody who may not make schemas may have been given an empty one.
        if s.flag("SELECT to_regnamespace($1) IS NULL", &[&connection.schema()])? {
            s.client.batch_execute(&format!("CREATE SCHEMA {}", connection.schema()))?;
        }
        s.client.batch_execute(&format!(
            "CREATE TABLE layout (layout integer NOT NULL); INSERT \
            INTO layout VALUES ({LAYOUT}); {TABLES}"
        ))?;
        Ok(true)
    })?;
    if made {
        connection.identified()
    } else {
        Err(connection.unusable("is there already; nothing was changed".to_owned()))
    }
}

/// Whether the tables are there, and of this layout.
pub(super) fn check(connection: ReconnectingClient) -> Result<ReconnectingClient, StoreError> {
    if !connection.read(|s| s.flag(HAS_LAYOUT, &[&connection.schema()]))? {
        return Err(connection.unusable(
            "has no key store; make it with `veilstream keys init`, \
            or correct the URL or keys.store_schema"
                .to_owned(),
        ));
    }
    let layout = connection.read(|s| {
        s.query("SELECT layout FROM layout", &[])?
            .first()
            .map_or(Ok(-1), |row| row.try_get::<_, i32>(0))
    })?;
    match layout {
        LAYOUT => connection.identified(),
        0..LAYOUT => Err(connection.unusable(
            "is of an earlier build, which was never released, and is not read; \
                    make a new one with `veilstream keys init`"
                .to_owned(),
        )),
        ..0 => {
            Err(connection
                .unusable("is damaged (table layout); restore it from a backup".to_owned()))
        }
        _ => Err(connection.unusable(format!(
            "has layout {layout}, this version reads \
            {LAYOUT}; use a newer veilstream"
        ))),
    }
}
