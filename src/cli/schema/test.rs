//! `veilstream schema test`

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use veilstream_engine::compile::Grants;
use veilstream_engine::schema::Schema;

use crate::cases::{self, Cases, Runner};
use crate::exit::{Exit, faults_error};
use crate::registry::{self, DocumentFault};

/// Arguments of `schema test`.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Schema documents, their cases, or folders
    #[arg(value_name = "FILE|DIR", default_value = "schemas")]
    paths: Vec<PathBuf>,
    #[cfg(feature = "serve")]
    #[command(flatten)]
    policies: super::readers::Policies,
}

pub(super) fn test(args: &TestArgs, out: &mut impl Write) -> anyhow::Result<Exit> {
    let mut faults: Vec<String> = Vec::new();
    let mut files = Vec::new();
    for path in &args.paths {
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
    let mut tally = Tally::default();
    for (file, schema, cases) in suites {
        let Some(cases) = cases else {
            writeln!(out, "{}: no cases", file.display())?;
            continue;
        };
        writeln!(out, "{}", file.display())?;
        #[cfg(feature = "serve")]
        let readings = args.policies.open(&file, &schema, &cases)?;
        let mut runner = Runner::new(schema)?;
        for case in &cases.cases {
            let differences = runner.run(case)?;
            tally.say(out, "  ", &case.name, &differences)?;
            #[cfg(feature = "serve")]
            if let Some(readings) = &readings {
                readings.ask(&mut runner, case, &mut tally, out)?;
                continue;
            }
            tally.not_asked += case.readers.len();
        }
    }
    write!(out, "{} passed, {} failed", tally.passed, tally.failed)?;
    match tally.not_asked {
        0 => writeln!(out)?,
        readers => writeln!(out, ", {readers} readers not asked: name --policies or --config")?,
    }
    Ok(if tally.failed == 0 { Exit::Ok } else { Exit::Failed })
}

/// What came of the cases and their readers.
#[derive(Debug, Default)]
pub(super) struct Tally {
    passed: usize,
    failed: usize,
    not_asked: usize,
}

impl Tally {
    /// Counts and says whether something holds: it does where nothing differs.
    pub(super) fn say(
        &mut self,
        out: &mut impl Write,
        indent: &str,
        name: &str,
        differences: &[String],
    ) -> io::Result<()> {
        let holds = differences.is_empty();
        self.passed += usize::from(holds);
        self.failed += usize::from(!holds);
        writeln!(out, "{indent}{}  {name}", if holds { "pass" } else { "FAIL" })?;
        differences.iter().try_for_each(|line| writeln!(out, "{indent}      {line}"))
    }
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
pub(super) fn suite(file: &Path) -> Result<(Arc<Schema>, Option<Cases>), Vec<String>> {
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
