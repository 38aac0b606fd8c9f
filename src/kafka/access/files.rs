//! What the files of an access hold: secrets that `*_file` settings name, and certificates and keys
//! that librdkafka reads itself.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Key, Values};

/// Properties that name files of certificates and keys, or a folder of them.
const LOCATIONS: [&str; 6] = [
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.key.location",
    "ssl.keystore.location",
    "ssl.crl.location",
    "https.ca.location",
];
/// What a client in use takes over.
const CREDENTIALS: [&str; 2] = ["sasl.username", "sasl.password"];

/// The files of one moment.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct FileSnapshot {
    pub(super) values: Values,
    /// SHA-256 of each file of certificates and keys.
    locations: BTreeMap<String, [u8; 32]>,
}

impl FileSnapshot {
    /// Whether a client made with `self` needs a successor, to have what is in `later`.
    pub(super) fn needs_new_clients(&self, later: &Self) -> bool {
        let rest = |values: &Values| -> Values {
            values
                .iter()
                .filter(|(name, _)| !CREDENTIALS.contains(&name.as_str()))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        };
        self.locations != later.locations || rest(&self.values) != rest(&later.values)
    }

    /// Names of what differs, for the log.
    pub(super) fn changed(&self, later: &Self) -> String {
        let values = later
            .values
            .iter()
            .filter(|(name, value)| self.values.get(*name) != Some(value))
            .map(|(name, _)| name.as_str());
        let locations = later
            .locations
            .iter()
            .filter(|(name, digest)| self.locations.get(*name) != Some(digest))
            .map(|(name, _)| name.as_str());
        values.chain(locations).collect::<Vec<_>>().join(", ")
    }
}

/// A file that is named and cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileFault {
    #[error("{property} names {}, which cannot be read ({error})", path.display())]
    Unreadable { property: String, path: PathBuf, error: io::Error },
    #[error("{property} names {}, which is empty", path.display())]
    Empty { property: String, path: PathBuf },
}

/// Reads every file of an access. Whole, or not at all.
pub(super) fn read(key: &Key) -> Result<FileSnapshot, FileFault> {
    let unreadable = |property: &str, path: &Path, error| FileFault::Unreadable {
        property: property.to_owned(),
        path: path.to_owned(),
        error,
    };
    let mut values = Values::new();
    for (name, path) in &key.files {
        let text = Zeroizing::new(
            fs::read_to_string(path).map_err(|error| unreadable(name, path, error))?,
        );
        // As the configuration reads it.
        let text = text
            .strip_suffix('\n')
            .map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
        if text.is_empty() {
            return Err(FileFault::Empty { property: name.clone(), path: path.clone() });
        }
        values.insert(name.clone(), Zeroizing::new(text.to_owned()));
    }
    let mut locations = BTreeMap::new();
    for name in LOCATIONS.into_iter().filter(|name| key.has_tls() || name.starts_with("https.")) {
        // `probe` is librdkafka's word for the system's certificates.
        let Some(path) = key.properties.get(name).filter(|path| *path != "probe").map(Path::new)
        else {
            continue;
        };
        locations
            .insert(name.to_owned(), digest(path).map_err(|error| unreadable(name, path, error))?);
    }
    Ok(FileSnapshot { values, locations })
}

fn digest(path: &Path) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        files = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
        files.retain(|file| file.is_file());
        files.sort();
    }
    for file in files {
        hash.update(file.as_os_str().as_encoded_bytes());
        let bytes = Zeroizing::new(fs::read(&file)?);
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(&*bytes);
    }
    Ok(hash.finalize().into())
}
