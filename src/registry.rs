//! The schemas in force: a directory of documents, published as immutable snapshots. A change that
//! does not compile is refused as a whole and the snapshot in force stays.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use veilstream_engine::compile::{self, Compiled, Grants, SchemaSet};
use veilstream_engine::error::{Fault, Severity};

use crate::config;
use crate::keys::KeyFault;

/// A fault of one document, or between documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentFault {
    /// The document's file; for a fault of the directory itself, the directory.
    pub file: PathBuf,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for DocumentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.fault)
    }
}

/// Documents that compiled together.
#[derive(Debug)]
pub struct Loaded {
    /// The snapshot.
    pub set: Arc<SchemaSet>,
    /// What the authors should know.
    pub warnings: Vec<DocumentFault>,
}

/// What a look at the directory found.
#[derive(Debug)]
pub enum Change {
    /// Nothing new.
    None,
    /// A new snapshot is in force.
    Loaded(Loaded),
    /// The documents have these faults; the snapshot in force stays.
    Refused(Vec<DocumentFault>),
    /// What the new snapshot needs is not there yet; the one in force stays, the next look tries
    /// again.
    Postponed(KeyFault),
}

/// The live schemas of a directory.
#[derive(Debug)]
pub struct Registry {
    dir: PathBuf,
    grants: Grants,
    current: ArcSwap<SchemaSet>,
    /// The documents as last seen, refused ones included, so that each change is judged and
    /// reported once.
    seen: Mutex<Vec<LoadedDocument>>,
    /// Versions that protect less come into force too, with a warning.
    allow_weaker: bool,
}

/// A file's path and content.
#[derive(Debug, PartialEq, Eq)]
struct LoadedDocument {
    file: PathBuf,
    text: Vec<u8>,
}

impl Registry {
    /// Loads the documents of `dir`: every `*.json` but cases (`*.cases.json`) and JSON Schemas
    /// (`*.schema.json`).
    ///
    /// # Errors
    /// Every fault of every document.
    pub fn open(
        dir: &Path,
        grants: Grants,
    ) -> Result<(Self, Vec<DocumentFault>), Vec<DocumentFault>> {
        let documents = read(dir)?;
        let loaded = load(&documents, &grants)?;
        let registry = Self {
            dir: dir.to_owned(),
            grants,
            current: ArcSwap::new(loaded.set),
            seen: Mutex::new(documents),
            allow_weaker: false,
        };
        Ok((registry, loaded.warnings))
    }

    /// Lets versions that protect less come into force, each with a warning. Off unless the
    /// operator says so.
    #[must_use]
    pub fn allow_weaker(self, allow: bool) -> Self {
        Self { allow_weaker: allow, ..self }
    }

    /// The schemas in force. Take it once per batch.
    #[must_use]
    pub fn current(&self) -> Arc<SchemaSet> {
        self.current.load_full()
    }

    /// Looks at the directory and publishes what changed, once `prepare` has what the new snapshot
    /// needs (its keys).
    pub fn reload(&self, prepare: impl FnOnce(&SchemaSet) -> Result<(), KeyFault>) -> Change {
        // Held to the end: two reloads at once must not publish the older one last.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let documents = match read(&self.dir) {
            Ok(documents) => documents,
            Err(faults) => {
                // Reported once: an empty list is what an unreadable directory was last seen as.
                let news = !seen.is_empty();
                seen.clear();
                return if news { Change::Refused(faults) } else { Change::None };
            }
        };
        if *seen == documents {
            return Change::None;
        }
        let change = match load(&documents, &self.grants) {
            Ok(mut loaded) => {
                let current = self.current();
                let of_dir = |fault| DocumentFault { file: self.dir.clone(), fault };
                let mut refused = loaded.set.refused_changes(&current);
                let weaker = loaded.set.weaker_than(&current).into_iter();
                if self.allow_weaker {
                    loaded.warnings.extend(weaker.map(allowed).map(of_dir));
                } else {
                    refused.extend(weaker.map(refusable));
                }
                if !refused.is_empty() {
                    *seen = documents;
                    return Change::Refused(refused.into_iter().map(of_dir).collect());
                }
                if let Err(reason) = prepare(&loaded.set) {
                    return Change::Postponed(reason);
                }
                self.current.store(loaded.set.clone());
                Change::Loaded(loaded)
            }
            Err(faults) => Change::Refused(faults),
        };
        *seen = documents;
        change
    }
}

/// The documents a configuration names.
///
/// # Errors
/// Every fault of every document.
pub fn open_configured(
    schemas: &config::Schemas,
) -> Result<(Registry, Vec<DocumentFault>), Vec<DocumentFault>> {
    Registry::open(&schemas.dir, Grants { domains: schemas.domains.clone(), any_domain: false })
}

/// The documents in these files, as one snapshot.
///
/// # Errors
/// Every fault of every document, and between them.
pub fn open_files(files: &[PathBuf], grants: &Grants) -> Result<Loaded, Vec<DocumentFault>> {
    load(&read_files(files)?, grants)
}

/// The documents in these files for records that they protected already, which move to newer keys
/// ([`compile::compile_rotation`]).
///
/// # Errors
/// As [`open_files`].
pub fn open_rotation(files: &[PathBuf], grants: &Grants) -> Result<Loaded, Vec<DocumentFault>> {
    load_with(&read_files(files)?, |text| compile::compile_rotation(text, grants))
}

/// The files of a directory that are schema documents by their name, sorted; never empty.
///
/// # Errors
/// The directory cannot be read, or holds none.
pub fn documents_in(dir: &Path) -> Result<Vec<PathBuf>, Vec<DocumentFault>> {
    let entries = std::fs::read_dir(dir).map_err(|e| {
        vec![whole(dir, format!("cannot be read ({e}); name the folder of the schema documents"))]
    })?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| is_document(p) && p.is_file())
        .collect();
    files.sort();
    if files.is_empty() {
        Err(vec![whole(dir, "holds no schema document; put one in, as <name>.json".to_owned())])
    } else {
        Ok(files)
    }
}

/// Whether a file of this name is a schema document: `*.json`, but neither cases (`*.cases.json`)
/// nor a JSON Schema (`*.schema.json`).
#[must_use]
pub fn is_document(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".json")
        && !name.starts_with('.')
        && !name.ends_with(".cases.json")
        && !name.ends_with(".schema.json")
}

fn read(dir: &Path) -> Result<Vec<LoadedDocument>, Vec<DocumentFault>> {
    read_files(&documents_in(dir)?)
}

fn read_files(files: &[PathBuf]) -> Result<Vec<LoadedDocument>, Vec<DocumentFault>> {
    let mut faults = Vec::new();
    let mut documents = Vec::new();
    for file in files {
        match std::fs::read(file) {
            Ok(text) => documents.push(LoadedDocument { file: file.clone(), text }),
            Err(e) => faults.push(whole(
                file,
                format!("cannot be read ({e}); name the file of a schema document"),
            )),
        }
    }
    if faults.is_empty() { Ok(documents) } else { Err(faults) }
}

/// A version that protects less, which is in force all the same.
fn allowed(fault: Fault) -> Fault {
    Fault { severity: Severity::Warning, ..fault }
}

/// A version that protects less, with what lets it through.
fn refusable(fault: Fault) -> Fault {
    Fault { message: format!("{}, or start with --allow-weaker", fault.message), ..fault }
}

/// A fault of a whole file or folder.
fn whole(file: &Path, message: String) -> DocumentFault {
    DocumentFault {
        file: file.to_owned(),
        fault: Fault { pointer: String::new(), message, severity: Severity::Error },
    }
}

fn load(documents: &[LoadedDocument], grants: &Grants) -> Result<Loaded, Vec<DocumentFault>> {
    load_with(documents, |text| compile::compile(text, grants))
}

fn load_with(
    documents: &[LoadedDocument],
    compile: impl Fn(&[u8]) -> Result<Compiled, Vec<Fault>>,
) -> Result<Loaded, Vec<DocumentFault>> {
    let (mut schemas, mut faults, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    let mut files: Vec<(Arc<str>, &Path)> = Vec::new();
    for LoadedDocument { file, text } in documents {
        let in_file = |fault| DocumentFault { file: file.clone(), fault };
        match compile(text) {
            Ok(compiled) => {
                files.push((compiled.schema.name.clone(), file));
                schemas.push(Arc::new(compiled.schema));
                warnings.extend(compiled.warnings.into_iter().map(in_file));
            }
            Err(found) => faults.extend(found.into_iter().map(in_file)),
        }
    }
    // Also with faulty documents left out: anyone who mends one should see what comes next.
    match SchemaSet::new(schemas) {
        Ok(set) if faults.is_empty() => Ok(Loaded { set: Arc::new(set), warnings }),
        Ok(_) => Err(faults),
        Err(between) => {
            // Their pointer is the schema's name, of which the later document is at fault.
            let file_of =
                |name: &str| files.iter().rfind(|f| *f.0 == *name).map_or(Path::new(""), |f| f.1);
            faults.extend(
                between
                    .into_iter()
                    .map(|fault| DocumentFault { file: file_of(&fault.pointer).to_owned(), fault }),
            );
            Err(faults)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"topics":{"from":"people.raw","to":"people"},"fields":[{"id":"email","path":"$.email"}]}"#;

    fn directory() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("people.json"), DOCUMENT).unwrap();
        dir
    }

    fn open(dir: &tempfile::TempDir) -> Registry {
        Registry::open(dir.path(), Grants::default()).unwrap().0
    }

    #[test]
    fn loads_documents_and_nothing_else() {
        let dir = directory();
        for other in ["people.cases.json", "veilstream.schema.json", ".hidden.json", "notes.txt"] {
            std::fs::write(dir.path().join(other), "not a document").unwrap();
        }
        std::fs::create_dir(dir.path().join("old.json")).unwrap();
        let labels: Vec<_> =
            open(&dir).current().schemas().iter().map(|s| s.label.to_string()).collect();
        assert_eq!(labels, ["people/1"]);
    }

    #[test]
    fn a_new_version_comes_into_force_once() {
        let dir = directory();
        let registry = open(&dir);
        assert!(matches!(registry.reload(|_| Ok(())), Change::None));
        std::fs::write(
            dir.path().join("people.json"),
            DOCUMENT.replace(r#""version":1"#, r#""version":2"#),
        )
        .unwrap();
        assert!(matches!(
            registry.reload(|_| Err(KeyFault("no keys".to_owned()))),
            Change::Postponed(_)
        ));
        assert_eq!(&*registry.current().schemas()[0].label, "people/1");
        assert!(matches!(registry.reload(|_| Ok(())), Change::Loaded(_)));
        assert_eq!(&*registry.current().schemas()[0].label, "people/2");
        assert!(matches!(registry.reload(|_| Ok(())), Change::None));
    }

    /// References of subjects are made in their domain: in another, keys are not found and erasures
    /// miss.
    #[test]
    fn subjects_stay_in_their_domain() {
        let dir = directory();
        let with = |members: &str| {
            std::fs::write(
                dir.path().join("people.json"),
                DOCUMENT.replace(r#""fields""#, &format!(r#"{members},"fields""#)),
            )
            .unwrap()
        };
        with(r#""subject":"$.id""#);
        let registry = open(&dir);
        with(r#""subject":"$.id","subject_domain":"people""#);
        let Change::Refused(faults) = registry.reload(|_| Ok(())) else { panic!("accepted") };
        assert!(faults[0].to_string().contains("subject_domain"), "{}", faults[0]);
        assert!(matches!(registry.reload(|_| Ok(())), Change::None), "told once");
        assert_eq!(registry.current().schemas()[0].subject_domain, None);
        with(r#""subject":["$.id","$.old.id"],"subject_domain":"""#);
        assert!(
            matches!(registry.reload(|_| Ok(())), Change::Loaded(_)),
            "said or not, no domain is no domain"
        );
    }

    /// A tag that goes opens what a policy forbids by it.
    #[test]
    fn a_version_that_protects_less_needs_a_permission() {
        let dir = directory();
        let with = |field: &str| {
            let text =
                DOCUMENT.replace(r#""path":"$.email""#, &format!(r#""path":"$.email"{field}"#));
            std::fs::write(dir.path().join("people.json"), text).unwrap()
        };
        with(r#","tags":["contact"]"#);
        let (refusing, allowing) = (open(&dir), open(&dir).allow_weaker(true));
        with("");
        let Change::Refused(faults) = refusing.reload(|_| Ok(())) else { panic!("accepted") };
        let said = faults[0].to_string();
        assert!(said.contains("no tag contact") && said.ends_with("--allow-weaker"), "{said}");
        assert!(matches!(refusing.reload(|_| Ok(())), Change::None), "told once");
        let tags = |registry: &Registry| registry.current().schemas()[0].fields[0].tags().len();
        assert_eq!(tags(&refusing), 1);
        let Change::Loaded(loaded) = allowing.reload(|_| Ok(())) else { panic!("refused") };
        assert!(loaded.warnings[0].to_string().contains("no tag contact"), "it is told");
        assert_eq!(tags(&allowing), 0);
    }

    #[test]
    fn a_bad_version_is_refused_once_and_the_old_one_stays() {
        let dir = directory();
        let registry = open(&dir);
        std::fs::write(dir.path().join("people.json"), DOCUMENT.replace("$.email", "email"))
            .unwrap();
        let Change::Refused(faults) = registry.reload(|_| Ok(())) else { panic!("accepted") };
        assert!(faults[0].to_string().contains("people.json: /fields/0/path"), "{}", faults[0]);
        assert!(matches!(registry.reload(|_| Ok(())), Change::None));
        assert_eq!(&*registry.current().schemas()[0].label, "people/1");
        std::fs::remove_file(dir.path().join("people.json")).unwrap();
        assert!(matches!(registry.reload(|_| Ok(())), Change::Refused(_)));
        assert_eq!(registry.current().schemas().len(), 1);
        std::fs::write(dir.path().join("people.json"), DOCUMENT).unwrap();
        assert!(matches!(registry.reload(|_| Ok(())), Change::Loaded(_)));
    }

    #[test]
    fn faults_of_all_documents_come_at_once() {
        let dir = directory();
        std::fs::write(dir.path().join("a.json"), "{").unwrap();
        std::fs::write(dir.path().join("b.json"), DOCUMENT.replace("$.email", "email")).unwrap();
        let faults = Registry::open(dir.path(), Grants::default()).unwrap_err();
        let files: std::collections::BTreeSet<_> =
            faults.iter().map(|f| f.file.file_name().unwrap().to_owned()).collect();
        assert!(
            files.contains(std::ffi::OsStr::new("a.json"))
                && files.contains(std::ffi::OsStr::new("b.json")),
            "{faults:?}"
        );
    }
}
