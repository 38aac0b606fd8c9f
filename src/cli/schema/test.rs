//! `veilstream schema test`

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use veilstream_engine::compile::Grants;
use veilstream_engine::schema::Schema;

use crate::cases::{self, Cases, Runner};
use crate::exit::{Exit, faults_error};
use crate::registry::{self, DocumentFault};

pub(super) fn test(paths: &[PathBuf], out: &mut impl Write) -> anyhow::Result<Exit> {
    let mut faults: Vec<String> = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        match tested(path) {
            Ok(found) => files.extend(found),
            Err(found) => faults.extend(found.iter().map(ToString::to_string)),
        }
    }
    let mut suites = Vec::new();
    for file in files {
        match suite(&file) {
            Ok((schema, cases)) => suites.push((file, schema, cases)),
            Err(found) => faults.extend(found),
        }
    }
    if !faults.is_empty() {
        return Err(faults_error(&faults));
    }
    let (mut passed, mut failed) = (0, 0);
    for (file, schema, cases) in suites {
        let Some(cases) = cases else {
            writeln!(out, "{}: no cases", file.display())?;
            continue;
        };
        writeln!(out, "{}", file.display())?;
        let mut runner = Runner::new(schema)?;
        for case in &cases.cases {
            let differences = runner.run(case)?;
            if differences.is_empty() {
                passed += 1
            } else {
                failed += 1
            }
            writeln!(
                out,
                "  {}  {}",
                if differences.is_empty() { "pass" } else { "FAIL" },
                case.name
            )?;
            for difference in differences {
                writeln!(out, "        {difference}")?;
            }
        }
    }
    writeln!(out, "{passed} passed, {failed} failed")?;
    Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
}

/// The documents a path stands for.
fn tested(path: &Path) -> Result<Vec<PathBuf>, Vec<DocumentFault>> {
    if path.is_dir() {
        return registry::documents_in(path);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(vec![
        name.strip_suffix(".cases.json")
            .map_or_else(|| path.to_owned(), |stem| path.with_file_name(format!("{stem}.json"))),
    ])
}

/// A document and its cases, if it has some.
fn suite(file: &Path) -> Result<(Arc<Schema>, Option<Cases>), Vec<String>> {
    let lines =
        |faults: Vec<DocumentFault>| faults.iter().map(ToString::to_string).collect::<Vec<_>>();
    let loaded = registry::open_files(&[file.to_owned()], &Grants::local()).map_err(lines)?;
    let place = cases::file_of(file);
    let cases = match std::fs::read(&place) {
        Ok(text) => Some(
            Cases::parse(&text).map_err(|error| vec![format!("{}: {error}", place.display())])?,
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(vec![format!("{}: cannot be read ({error})", place.display())]),
    };
    Ok((loaded.set.schemas()[0].clone(), cases))
}

