//! Schema documents compiled, every fault reported at once.

mod checks;
mod disclosure;
mod document;
mod field;
mod interop;
mod paths;
mod read;
mod rotation;
mod set;
mod weaker;

use std::collections::HashSet;

use sha2::{Digest, Sha256};

pub use set::SchemaSet;

use crate::error::{Fault, Severity};
use crate::schema::Schema;
use read::Reader;

/// What the operator's configuration allows documents to do.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    /// Domains a document may use.
    pub domains: Vec<String>,
    /// Local commands grant whatever the file declares.
    pub any_domain: bool,
}

impl Grants {
    /// What local commands grant: everything the file declares.
    #[must_use]
    pub fn local() -> Self {
        Self { domains: Vec::new(), any_domain: true }
    }
}

/// A document that compiled.
#[derive(Debug)]
pub struct Compiled {
    /// The schema.
    pub schema: Schema,
    /// What its author should know.
    pub warnings: Vec<Fault>,
}

/// Compiles one schema document.
///
/// # Errors
/// Every fault of the document, each with the JSON pointer of its cause and what to write instead.
pub fn compile(document: &[u8], grants: &Grants) -> Result<Compiled, Vec<Fault>> {
    let (read, warnings) = read_document(document, grants)?;
    Ok(Compiled { schema: read.schema, warnings })
}

/// Compiles one schema document for records that it protected already, which move to newer keys:
/// what opens is sealed and indexed again, all else stays as it stands. Warns of indexes that
/// cannot be made again.
///
/// # Errors
/// As [`compile`].
pub fn compile_rotation(document: &[u8], grants: &Grants) -> Result<Compiled, Vec<Fault>> {
    let (read, _) = read_document(document, grants)?;
    Ok(rotation::rotation(read))
}

/// The document as read, and its warnings.
fn read_document(
    document: &[u8],
    grants: &Grants,
) -> Result<(document::ReadSchema, Vec<Fault>), Vec<Fault>> {
    let mut reader = Reader::default();
    let value = read::parse(document, &mut reader);
    let schema =
        value.and_then(|value| document::schema(&value, &digest(document), grants, &mut reader));
    if let Some(schema) = &schema {
        checks::check(schema, &mut reader);
    }
    let (mut warnings, mut errors): (Vec<Fault>, Vec<Fault>) =
        told_once(reader.faults).into_iter().partition(|f| f.severity == Severity::Warning);
    match schema {
        Some(read) if errors.is_empty() => Ok((read, warnings)),
        _ => {
            errors.append(&mut warnings);
            Err(errors)
        }
    }
}

/// A filter may read one member in many ways; its author has one thing to mend.
fn told_once(faults: Vec<Fault>) -> Vec<Fault> {
    let mut seen = HashSet::new();
    faults
        .into_iter()
        .filter(|fault| seen.insert((fault.pointer.clone(), fault.message.clone())))
        .collect()
}

/// First 8 hex digits of the document's SHA-256: its version when it gives none.
fn digest(document: &[u8]) -> String {
    Sha256::digest(document)[..4].iter().map(|b| format!("{b:02x}")).collect()
}
