//! What the readers of a case see: the policies decide, the engine opens and masks.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use clap::Args;
use veilstream_engine::compile::Grants;
use veilstream_engine::reveal::Decision;
use veilstream_engine::schema::Schema;

use super::test::Tally;
use crate::cases::{Case, CaseReader, Cases, Runner};
use crate::config::Purpose;
use crate::exit::faults_error;
use crate::policy::{Credential, PolicySet, Principal, PrincipalKind, RequestFacts, Want};
use crate::registry;

/// Where the policies stand.
#[derive(Debug, Clone, Args)]
pub(super) struct Policies {
    /// Folder of the policies that decide what readers of a case see
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// The purposes that the policies name, separated by commas; without it those of the readers
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "config")]
    purposes: Vec<String>,
    /// Configuration file whose [policy] decides what readers of a case see
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Policies that answer for readers of one document's cases.
pub(super) struct Readings {
    policies: PolicySet,
    /// Fields of the document in its order, as policies name them.
    fields: Vec<String>,
}

impl Policies {
    /// The policies over every document of the folder in which the document stands: they may speak
    /// of each. `None`: nobody names them, or no case has readers.
    pub(super) fn open(
        &self,
        file: &Path,
        schema: &Schema,
        cases: &Cases,
    ) -> anyhow::Result<Option<Readings>> {
        let readers = || cases.cases.iter().flat_map(|case| &case.readers);
        if readers().next().is_none() {
            return Ok(None);
        }
        let Some((dir, purposes)) = self.source(readers())? else { return Ok(None) };
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty());
        let loaded = registry::documents_in(folder.unwrap_or(Path::new(".")))
            .and_then(|files| registry::open_files(&files, &Grants::local()))
            .map_err(|faults| faults_error(&faults))?;
        let policies =
            PolicySet::open(&dir, loaded.set, &purposes).map_err(|faults| faults_error(&faults))?;
        let fields = schema.fields.iter().map(|field| format!("{}.{}", schema.name, field.id));
        Ok(Some(Readings { policies, fields: fields.collect() }))
    }

    /// Folder and purposes; `None`: the arguments name no policies.
    fn source<'c>(
        &self,
        readers: impl Iterator<Item = &'c CaseReader>,
    ) -> anyhow::Result<Option<(PathBuf, Vec<Purpose>)>> {
        if let Some(config) = &self.config {
            let policy = crate::cli::load_config(config)?.policy;
            return Ok(Some((self.policies.clone().unwrap_or(policy.dir), policy.purposes)));
        }
        let mut names: BTreeSet<String> = self.purposes.iter().cloned().collect();
        if names.is_empty() {
            names.extend(readers.map(|reader| reader.purpose.clone()));
        }
        let free = |name| Purpose { name, reason_required: false, pattern: None };
        Ok(self.policies.clone().map(|dir| (dir, names.into_iter().map(free).collect())))
    }
}

impl Readings {
    /// Says what each reader of a case sees, and whether it is what they must see.
    pub(super) fn ask(
        &self,
        runner: &mut Runner,
        case: &Case,
        tally: &mut Tally,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        for reader in &case.readers {
            let decisions = self.decisions(reader);
            let name = format!("read as {} for {}", reader.roles.join(", "), reader.purpose);
            let Some(reading) = runner.read(case, &decisions)? else {
                tally.say(out, "    ", &name, &["/sees: nothing comes out".to_owned()])?;
                continue;
            };
            let differences = reader.sees.as_ref().map(|sees| reading.differences(sees));
            tally.say(out, "    ", &name, differences.as_deref().unwrap_or_default())?;
            if reader.sees.is_none() {
                writeln!(out, "          {}", reading.value)?;
            }
        }
        Ok(())
    }

    /// What the engine does with each field, as `serve` would have it do.
    fn decisions(&self, reader: &CaseReader) -> Vec<Decision> {
        let caller = Principal {
            kind: PrincipalKind::User,
            id: "case".to_owned(),
            roles: reader.roles.clone(),
        };
        let facts = RequestFacts {
            purpose: reader.purpose.clone(),
            reason: reader.reason.clone(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            auth: Credential::Jwt,
            items: 1,
            bare: false,
            subjects: 1,
        };
        let mut request = self.policies.request(&caller, None, &facts, Want::Auto);
        self.fields.iter().map(|field| request.decide(field).answer.decision()).collect()
    }
}
