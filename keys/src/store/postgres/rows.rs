//! Key records as rows and columns of the tables.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postgres::Row;
use veilstream_engine::key::{KeyId, Scope};

use super::{KeyRecord, StoreError, Wrap};
use crate::erasure;

/// Times beyond are written as this (9999-12-31T23:59:59Z), and read as damage.
const LAST: u64 = 253_402_300_799;

/// Records as arrays, one a column.
pub(super) struct Columns<'a> {
    pub(super) records: Vec<&'a KeyRecord>,
    pub(super) kids: Vec<&'a [u8]>,
    pub(super) kcvs: Vec<&'a [u8]>,
    pub(super) kinds: Vec<&'static str>,
    pub(super) tenants: Vec<&'a str>,
    pub(super) scopes: Vec<String>,
    pub(super) versions: Vec<i64>,
    pub(super) states: Vec<&'static str>,
    pub(super) created: Vec<SystemTime>,
    pub(super) retired: Vec<Option<SystemTime>>,
    pub(super) macs: Vec<Option<&'a [u8]>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(records: Vec<&'a KeyRecord>) -> Self {
        Self {
            kids: records.iter().map(|record| &record.kid.0[..]).collect(),
            kcvs: records.iter().map(|record| &record.kcv[..]).collect(),
            kinds: records.iter().map(|record| record.kind.as_str()).collect(),
            tenants: records.iter().map(|record| &*record.tenant).collect(),
            scopes: records.iter().map(|record| record.scope.to_string()).collect(),
            versions: records.iter().map(|record| i64::from(record.version)).collect(),
            states: records.iter().map(|record| record.state.as_str()).collect(),
            created: records.iter().map(|record| time(record.created)).collect(),
            retired: records.iter().map(|record| record.retired.map(time)).collect(),
            macs: records.iter().map(|record| record.mac.as_ref().map(|mac| &mac[..])).collect(),
            records,
        }
    }
}

/// Wraps as arrays, one a column.
pub(super) struct WrapColumns<'a> {
    pub(super) kids: Vec<Vec<u8>>,
    pub(super) uris: Vec<&'a str>,
    pub(super) versions: Vec<&'a str>,
    pub(super) wrapped: Vec<&'a [u8]>,
}

impl<'a> WrapColumns<'a> {
    pub(super) fn of(wraps: impl Iterator<Item = (KeyId, &'a Wrap)>) -> Self {
        let mut columns =
            Self { kids: Vec::new(), uris: Vec::new(), versions: Vec::new(), wrapped: Vec::new() };
        for (kid, wrap) in wraps {
            columns.kids.push(kid.0.to_vec());
            columns.uris.push(&wrap.kek_uri);
            columns.versions.push(&wrap.kek_version);
            columns.wrapped.push(&wrap.wrapped);
        }
        columns
    }
}

pub(super) fn bytes(kids: &[KeyId]) -> Vec<&[u8]> {
    kids.iter().map(|kid| &kid.0[..]).collect()
}

pub(super) fn texts(scopes: Vec<&Scope>) -> Vec<String> {
    scopes.into_iter().map(Scope::to_string).collect()
}

pub(super) fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.min(LAST))
}

pub(super) fn seconds(time: SystemTime) -> Option<u64> {
    // Whole seconds: two times that read the same would have one MAC.
    time.duration_since(UNIX_EPOCH)
        .ok()
        .filter(|since| since.subsec_nanos() == 0)
        .map(|since| since.as_secs())
        .filter(|seconds| *seconds <= LAST)
}

/// Checks every column: a row edited by hand must not turn into another key. The error names the
/// column.
pub(super) fn record(row: &Row) -> Result<KeyRecord, &'static str> {
    let text = |i: usize, what| row.try_get::<_, &str>(i).map_err(|_| what);
    let kid =
        KeyId(row.try_get::<_, &[u8]>(0).ok().and_then(|kid| kid.try_into().ok()).ok_or("kid")?);
    let kcv: [u8; 32] = row
        .try_get::<_, &[u8]>(1)
        .ok()
        .and_then(|kcv| kcv.try_into().ok())
        .filter(|kcv: &[u8; 32]| kcv[..16] == kid.0)
        .ok_or("kcv")?;
    let retired: Option<SystemTime> = row.try_get(8).map_err(|_| "retired")?;
    let uses: Option<i64> = row.try_get(9).map_err(|_| "uses")?;
    let mac: Option<&[u8]> = row.try_get(10).map_err(|_| "mac")?;
    Ok(KeyRecord {
        kid,
        kcv,
        kind: text(2, "kind")?.parse().map_err(|_| "kind")?,
        tenant: text(3, "tenant")?.into(),
        scope: text(4, "scope")?.parse().map_err(|_| "scope")?,
        version: row
            .try_get::<_, i64>(5)
            .ok()
            .and_then(|version| u32::try_from(version).ok())
            .ok_or("version")?,
        state: text(6, "state")?.parse().map_err(|_| "state")?,
        created: row.try_get(7).ok().and_then(seconds).ok_or("created")?,
        retired: retired.map(|retired| seconds(retired).ok_or("retired")).transpose()?,
        uses: uses.map(|uses| u64::try_from(uses).map_err(|_| "uses")).transpose()?,
        wraps: Vec::new(),
        mac: mac.map(|mac| mac.try_into().map_err(|_| "mac")).transpose()?,
    })
}

/// The keys of rows; those of one key come one after another.
pub(super) fn records(rows: &[Row], place: &str) -> Result<Vec<KeyRecord>, StoreError> {
    let failed = |e: postgres::Error| StoreError::Unusable {
        place: place.to_owned(),
        message: super::causes(&e),
    };
    let mut records: Vec<KeyRecord> = Vec::new();
    for row in rows {
        let kid: &[u8] = row.try_get(0).map_err(failed)?;
        if records.last().is_none_or(|last| last.kid.0 != kid) {
            records.push(record(row).map_err(|what| StoreError::Row {
                place: place.to_owned(),
                kid: hex(kid),
                what,
            })?);
        }
        let Some(kek_uri) = row.try_get::<_, Option<String>>(11).map_err(failed)? else { continue };
        let wrap = Wrap {
            kek_uri,
            kek_version: row.try_get(12).map_err(failed)?,
            wrapped: row.try_get(13).map_err(failed)?,
        };
        if let Some(key) = records.last_mut() {
            key.wraps.push(wrap);
        }
    }
    Ok(records)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    erasure::hex(bytes)
}
