//! Every key of a folder of keys, opened, to be looked for in what programs write.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use veilstream_engine::key::{KeyKind, SecretKey};
use veilstream_engine::wrap::{WrapContext, unwrap_local};
use veilstream_keys::provider::{FileProvider, Provider as _};
use veilstream_keys::store::{KeyRecord, SqliteStore, Store as _};

/// Every key of the directory, and the key-encrypting key.
pub(crate) fn secrets(keys: &Path) -> HashMap<String, SecretKey> {
    let line = std::fs::read_to_string(keys.join("kek")).unwrap();
    let kek: [u8; 32] = STANDARD_NO_PAD
        .decode(line.split_whitespace().nth(1).unwrap().trim_end_matches('='))
        .unwrap()
        .try_into()
        .unwrap();
    let mut found = HashMap::from([("the kek".to_owned(), SecretKey::new(kek))]);
    let (provider, store) = (
        FileProvider::new(keys.join("kek")).unwrap(),
        SqliteStore::open(&keys.join("keys.db")).unwrap(),
    );
    let mut wrapping = HashMap::new();
    let context =
        |record: &KeyRecord| -> String { format!("{} {}", record.kind.as_str(), record.scope) };
    for record in store.list("default").unwrap() {
        let secret = provider.unwrap(&record.wraps[0], &of(&record)).unwrap();
        if record.kind == KeyKind::Wrapping {
            wrapping.insert(format!("kid:{}", record.kid), secret.clone());
        }
        found.insert(context(&record), secret);
    }
    for record in store
        .subjects("default", None, 100)
        .unwrap()
        .iter()
        .filter(|record| !record.wraps.is_empty())
    {
        let secret = unwrap_local(
            &wrapping[&record.wraps[0].kek_uri],
            &record.wraps[0].wrapped,
            &of(record),
        )
        .unwrap();
        found.insert(context(record), secret);
    }
    found
}

/// Fails where a key stands in something that was written.
pub(crate) fn assert_absent(keys: &HashMap<String, SecretKey>, written: &[(String, Vec<u8>)]) {
    for (place, bytes) in written {
        assert!(
            !bytes.is_empty() || Path::new(place).is_file(),
            "{place} holds nothing: it proves nothing"
        );
        for (name, key) in keys {
            for (form, needle) in spellings(key) {
                let is_there = bytes.windows(needle.len()).any(|window| window == needle);
                assert!(!is_there, "{name} stands in {place} ({form})");
            }
        }
    }
}

fn of(record: &KeyRecord) -> WrapContext<'_> {
    WrapContext { kid: record.kid, kind: record.kind, tenant: &record.tenant, scope: &record.scope }
}

/// A key as programs print bytes. Part of it is enough to give it away.
fn spellings(key: &SecretKey) -> Vec<(&'static str, Vec<u8>)> {
    let part = &key.expose()[..12];
    let hex: String = part.iter().map(|b| format!("{b:02x}")).collect();
    let decimals: Vec<String> = part.iter().map(u8::to_string).collect();
    vec![
        ("raw", part.to_vec()),
        ("hex", hex.to_uppercase().into_bytes()),
        ("hex", hex.into_bytes()),
        ("base64", STANDARD_NO_PAD.encode(part).into_bytes()),
        ("base64url", URL_SAFE_NO_PAD.encode(part).into_bytes()),
        ("decimals", decimals.join(", ").into_bytes()),
    ]
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
