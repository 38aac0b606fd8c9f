//! Keys of other systems: files of Fernet keys and of passphrases, which are theirs and not ours.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::interop::fernet::FernetKey;
use veilstream_engine::interop::{
    FernetKeys, Interop, InteropForm, InteropKeySet, InteropKeys, Passphrases,
};
use zeroize::Zeroizing;

/// Where such keys stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InteropFiles {
    /// Folder in which fields' own files start.
    pub base: PathBuf,
    /// Fernet keys of fields that name no file.
    pub fernet: Option<PathBuf>,
    /// Passphrases of fields that name no file.
    pub pgcrypto: Option<PathBuf>,
}

/// The keys that fields need are not as they must be. The operator mends it; the message says where
/// and how, and holds nothing of a line.
#[derive(Debug, thiserror::Error)]
pub enum InteropFileError {
    /// No file is named.
    #[error(
        "field {field} is {form}, and no file has its keys; set interop.{form}.{member}, or the \
        field's own \"{member}\""
    )]
    Unnamed {
        /// `<schema>.<id>`.
        field: String,
        /// The form.
        form: &'static str,
        /// What the file is called.
        member: &'static str,
    },
    /// The file cannot be read.
    #[error("{} cannot be read ({source}); put the other system's keys there, one a line, mode 0600", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others than its owner may read it.
    #[error("{} may be read by others (mode {mode:o}); run `chmod 600` on it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A line is no key.
    #[error("{}, line {line}: is no Fernet key; write base64url of 32 bytes, as `Fernet.generate_key()` does", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// It has no line.
    #[error("{} holds no key; write the other system's keys, one a line: the first seals", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Two files have a key in common, so that nothing tells their fields apart.
    #[error(
        "{} and {} have a key in common, so a text of one opens as a field of the other; give \
        each its own keys, or name one file for both",
        one.display(), other.display()
    )]
    Shared {
        /// A file.
        one: PathBuf,
        /// Another, or the same by another name.
        other: PathBuf,
    },
}

impl InteropFiles {
    /// Reads the keys of every field of these schemas.
    ///
    /// # Errors
    /// [`InteropFileError`].
    pub fn load(&self, schemas: &SchemaSet) -> Result<InteropKeys, InteropFileError> {
        let fields = schemas.schemas().iter().flat_map(|schema| {
            schema
                .interop_fields()
                .map(move |(field, interop)| (format!("{}.{}", schema.name, field.id), interop))
        });
        let mut sets: HashMap<Interop, (PathBuf, Arc<InteropKeySet>)> = HashMap::new();
        for (field, interop) in fields {
            if sets.contains_key(interop) {
                continue;
            }
            let path = self.path(interop).ok_or_else(|| InteropFileError::Unnamed {
                field,
                form: interop.form.as_str(),
                member: interop.form.file_member(),
            })?;
            let set = read(interop.form, &path)?;
            let same = sets.values().find(|(_, other)| have_one_in_common(&set, other));
            if let Some((other, _)) = same {
                return Err(InteropFileError::Shared { one: other.clone(), other: path });
            }
            sets.insert(interop.clone(), (path, Arc::new(set)));
        }
        Ok(InteropKeys::new(sets.into_iter().map(|(interop, (_, set))| (interop, set))))
    }

    fn path(&self, interop: &Interop) -> Option<PathBuf> {
        let section = match interop.form {
            InteropForm::Fernet => &self.fernet,
            InteropForm::Pgcrypto => &self.pgcrypto,
        };
        match &interop.file {
            Some(own) => Some(self.base.join(&**own)),
            None => section.clone(),
        }
    }
}

/// The places of keys that schemas name, each once.
#[must_use]
pub fn places(schemas: &SchemaSet) -> BTreeSet<Interop> {
    let fields = schemas.schemas().iter().flat_map(|schema| schema.interop_fields());
    fields.map(|(_, interop)| interop.clone()).collect()
}

/// Reads a file of keys: lines of Fernet keys, or of passphrases, taken to the last byte before the
/// line's end. The first seals, all open. Empty lines do not count.
///
/// # Errors
/// [`InteropFileError`].
pub fn read(form: InteropForm, path: &Path) -> Result<InteropKeySet, InteropFileError> {
    let at = || path.to_owned();
    let unreadable = |source| InteropFileError::Unreadable { path: at(), source };
    let meta = fs::metadata(path).map_err(unreadable)?;
    if meta.mode() & 0o077 != 0 {
        return Err(InteropFileError::Open { path: at(), mode: meta.mode() & 0o7777 });
    }
    let bytes = Zeroizing::new(fs::read(path).map_err(unreadable)?);
    let lines =
        bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines = lines.enumerate().filter(|(_, line)| !line.is_empty());
    let set = match form {
        InteropForm::Fernet => {
            let key = |(number, line): (usize, &[u8])| {
                let wrong = || InteropFileError::Line { path: at(), line: number + 1 };
                FernetKey::parse(line.trim_ascii()).ok_or_else(wrong)
            };
            FernetKeys::new(lines.map(key).collect::<Result<_, _>>()?).map(InteropKeySet::Fernet)
        }
        InteropForm::Pgcrypto => {
            let passphrases = lines.map(|(_, line)| Zeroizing::new(line.to_vec()));
            Passphrases::new(passphrases.collect()).map(InteropKeySet::Pgcrypto)
        }
    };
    set.ok_or_else(|| InteropFileError::Empty { path: at() })
}

fn have_one_in_common(one: &InteropKeySet, other: &InteropKeySet) -> bool {
    match (one, other) {
        (InteropKeySet::Fernet(one), InteropKeySet::Fernet(other)) => one.shares_a_key(other),
        (InteropKeySet::Pgcrypto(one), InteropKeySet::Pgcrypto(other)) => one.shares_one(other),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use veilstream_engine::compile::{Grants, compile};

    use super::*;

    const A: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
    const B: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn written(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn schemas(fields: &str) -> SchemaSet {
        let document = format!(r#"{{"veilstream":1,"name":"p","version":1,"fields":[{fields}]}}"#);
        let schema = compile(document.as_bytes(), &Grants::local()).unwrap().schema;
        SchemaSet::new(vec![Arc::new(schema)]).unwrap()
    }

    #[test]
    fn faults_name_the_file_and_the_line_and_hold_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let fault = |text: &str, mode| {
            let path = written(dir.path(), "keys", text, mode);
            let error = read(InteropForm::Fernet, &path).unwrap_err().to_string();
            assert!(error.contains("/keys") && !error.contains(&A[..8]), "{error}");
            error
        };
        assert!(fault(&format!("{A}\n"), 0o640).contains("chmod 600"));
        assert!(fault("\n\n", 0o600).contains("holds no key"));
        assert!(fault(&format!("{A}\n\n{A}A\n"), 0o600).contains("line 3"));
        let missing = read(InteropForm::Pgcrypto, &dir.path().join("no")).unwrap_err();
        assert!(missing.to_string().contains("cannot be read"), "{missing}");
    }

    #[test]
    fn a_field_s_own_file_goes_before_the_configuration_s() {
        let dir = tempfile::tempdir().unwrap();
        let files = InteropFiles {
            base: dir.path().to_owned(),
            fernet: Some(written(dir.path(), "all", A, 0o600)),
            pgcrypto: None,
        };
        let own = r#"{"id":"a","path":"$.a","type":"string","format":"fernet"},
            {"id":"b","path":"$.b","type":"string","format":"fernet","keys_file":"sub/own"}"#;
        let set = schemas(own);
        assert!(files.load(&set).unwrap_err().to_string().contains("sub/own"));
        fs::create_dir(dir.path().join("sub")).unwrap();
        written(dir.path(), "sub/own", B, 0o600);
        let keys = files.load(&set).unwrap();
        assert!(places(&set).iter().all(|place| keys.get(place).is_some()));
        // Nothing would tell a text of one field from a text of the other.
        written(dir.path(), "sub/own", &format!("{B}\n{A}\n"), 0o600);
        let error = files.load(&set).unwrap_err().to_string();
        assert!(error.contains("key in common"), "{error}");
        let set = schemas(r#"{"id":"c","path":"$.c","type":"string","format":"pgcrypto"}"#);
        let error = files.load(&set).unwrap_err().to_string();
        assert!(error.contains("p.c") && error.contains("interop.pgcrypto.passphrases_file"));
    }
}
