//! A key record as JSON, in exports and in the Kafka store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use veilstream_engine::key::KeyId;

use super::{Head, KeyRecord, Wrap, check_value};
use crate::erasure::{hex, unhex};
use crate::time;

/// A key record as JSON: the columns of docs/formats.md, `wraps` as an array, `wrapped` in base64.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordJson {
    kid: String,
    kcv: String,
    kind: String,
    tenant: String,
    scope: String,
    version: i64,
    state: String,
    created: String,
    retired: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uses: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    wraps: Vec<WrapJson>,
}

/// [`Head`] as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadJson {
    store: String,
    tenant: String,
    seq: u64,
    sha256: String,
    mac: String,
}

impl From<&Head> for HeadJson {
    fn from(head: &Head) -> Self {
        Self {
            store: hex(&head.store),
            tenant: head.tenant.to_string(),
            seq: head.seq,
            sha256: hex(&head.sha256),
            mac: hex(&head.mac),
        }
    }
}

impl HeadJson {
    /// The head, if every member is what it must be.
    #[must_use]
    pub fn head(&self) -> Option<Head> {
        let tenant = self.tenant.as_str().into();
        Some(Head {
            store: unhex(&self.store)?,
            tenant,
            seq: self.seq,
            sha256: unhex(&self.sha256)?,
            mac: unhex(&self.mac)?,
        })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrapJson {
    kek_uri: String,
    kek_version: String,
    wrapped: String,
}

impl From<&KeyRecord> for RecordJson {
    fn from(record: &KeyRecord) -> Self {
        Self {
            kid: record.kid.to_string(),
            kcv: hex(&record.kcv),
            kind: record.kind.as_str().to_owned(),
            tenant: record.tenant.to_string(),
            scope: record.scope.to_string(),
            version: i64::from(record.version),
            state: record.state.as_str().to_owned(),
            created: time::text(record.created),
            retired: record.retired.map(time::text),
            uses: record.uses,
            mac: record.mac.as_ref().map(|mac| hex(mac)),
            wraps: record
                .wraps
                .iter()
                .map(|w| WrapJson {
                    kek_uri: w.kek_uri.clone(),
                    kek_version: w.kek_version.clone(),
                    wrapped: STANDARD.encode(&w.wrapped),
                })
                .collect(),
        }
    }
}

impl RecordJson {
    /// The record, if every member is what it must be; else the member's name.
    ///
    /// # Errors
    /// The name of the first member that is not what it must be.
    pub fn record(&self) -> Result<KeyRecord, &'static str> {
        let kid: KeyId = self.kid.parse().map_err(|_| "kid")?;
        let kcv = check_value(&self.kcv).filter(|kcv| kcv[..16] == kid.0).ok_or("kcv")?;
        // Stores hold millions: no room for more than there are.
        let mut wraps = Vec::with_capacity(self.wraps.len());
        for WrapJson { kek_uri, kek_version, wrapped } in &self.wraps {
            let wrapped = STANDARD.decode(wrapped).map_err(|_| "wraps")?;
            wraps.push(Wrap {
                kek_uri: kek_uri.clone(),
                kek_version: kek_version.clone(),
                wrapped,
            });
        }
        Ok(KeyRecord {
            kid,
            kcv,
            kind: self.kind.parse().map_err(|_| "kind")?,
            tenant: self.tenant.as_str().into(),
            scope: self.scope.parse().map_err(|_| "scope")?,
            version: u32::try_from(self.version).map_err(|_| "version")?,
            state: self.state.parse().map_err(|_| "state")?,
            created: time::seconds(&self.created).ok_or("created")?,
            retired: self
                .retired
                .as_deref()
                .map(|text| time::seconds(text).ok_or("retired"))
                .transpose()?,
            wraps,
            uses: self.uses,
            mac: self.mac.as_deref().map(|mac| unhex(mac).ok_or("mac")).transpose()?,
        })
    }
}
