//! `veilstream policy explain`

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::{Policies, effect};
use crate::cli::argument::ArgumentError;
use crate::exit::Exit;
use crate::policy::cases::{Asker, ask};
use crate::policy::{
    Action, Credential, PolicyPlace, PolicySet, Principal, PrincipalKind, RequestFacts, Want,
};

/// Arguments of `policy explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    policies: Policies,
    /// Who asks: user:ID or service:ID
    #[arg(long, value_name = "KIND:ID", value_parser = principal)]
    principal: Principal,
    /// A role it has; may be given several times
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<String>,
    /// reveal, mask, search, seal, explain, audit_read or policy_read
    #[arg(long, value_name = "ACTION", value_parser = action)]
    action: Action,
    /// The field: <schema>.<id>, <schema>#key or <schema>#header:<name>
    #[arg(long, value_name = "FIELD")]
    field: String,
    /// What it is asked for
    #[arg(long, value_name = "NAME")]
    purpose: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How much is wanted
    #[arg(long, value_enum, default_value = "auto")]
    want: Wanted,
    /// Address it is asked from
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    ip: IpAddr,
    /// How the caller proves who it is
    #[arg(long, value_enum, default_value = "jwt")]
    auth: Auth,
    /// Items of the request
    #[arg(long, value_name = "N", default_value_t = 1)]
    items: u64,
    /// Data subjects of the request
    #[arg(long, value_name = "N", default_value_t = 1)]
    subjects: u64,
    /// A token comes without the subject in whose row it stands
    #[arg(long)]
    bare: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Wanted {
    Auto,
    Reveal,
    Mask,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Auth {
    Mtls,
    Jwt,
    Key,
}

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    let mut loaded = args.policies.load(Vec::new())?;
    if args.policies.scope.config.is_none() && args.policies.scope.purposes.is_empty() {
        // Nothing says which purposes there are: the one that is asked for is.
        loaded.policy.purposes.push(crate::config::Purpose {
            name: args.purpose.clone(),
            reason_required: false,
            pattern: None,
        });
    }
    let set = loaded.open()?;
    if !set.facts().iter().any(|field| *field.id == *args.field) {
        let message = format!("no schema document has the field {}", args.field);
        return Err(Exit::Usage.because(message));
    }
    let caller = Principal { roles: args.roles.clone(), ..args.principal.clone() };
    let asker = Asker { caller: &caller, person: None };
    let outcome = ask(&set, asker, &args.facts(), args.action, args.want.want(), &args.field);
    if args.json {
        let places = |ids: &[Arc<str>]| {
            places(&set, ids).into_iter().map(super::described).collect::<Vec<_>>()
        };
        let answer = json!({
            "policy": &**set.hash(), "answer": outcome.answer,
            "denial": outcome.denial.map(|denial| denial.code()),
            "policies": places(&outcome.policies), "failed": places(&outcome.failed),
        });
        writeln!(out, "{}", crate::cli::sorted(answer))?;
        return Ok(Exit::Ok);
    }
    match outcome.denial {
        None => writeln!(out, "{}", outcome.answer)?,
        Some(denial) => writeln!(out, "{}: {denial}", outcome.answer)?,
    }
    for place in places(&set, &outcome.policies) {
        writeln!(out, "  {}", line(place, effect(place)))?;
    }
    for place in places(&set, &outcome.failed) {
        writeln!(out, "  {}", line(place, "fails"))?;
    }
    Ok(Exit::Ok)
}

fn places<'s>(set: &'s PolicySet, ids: &[Arc<str>]) -> Vec<&'s PolicyPlace> {
    ids.iter().filter_map(|id| set.policy(id)).collect()
}

fn line(place: &PolicyPlace, what: &str) -> String {
    format!("{what}  {}  {}:{}", place.id, place.file.display(), place.line)
}

impl ExplainArgs {
    fn facts(&self) -> RequestFacts {
        RequestFacts {
            purpose: self.purpose.clone(),
            reason: self.reason.clone(),
            ip: self.ip,
            auth: match self.auth {
                Auth::Mtls => Credential::Mtls,
                Auth::Jwt => Credential::Jwt,
                Auth::Key => Credential::Key,
            },
            items: self.items,
            bare: self.bare,
            subjects: self.subjects,
        }
    }
}

impl Wanted {
    fn want(self) -> Want {
        match self {
            Self::Auto => Want::Auto,
            Self::Reveal => Want::Reveal,
            Self::Mask => Want::Mask,
        }
    }
}

fn principal(text: &str) -> Result<Principal, ArgumentError> {
    let (kind, id) = text.split_once(':').unwrap_or_default();
    let kind = match kind {
        "user" => PrincipalKind::User,
        "service" => PrincipalKind::Service,
        _ => return Err(ArgumentError::Form("user:ID or service:ID")),
    };
    Ok(Principal { kind, id: id.to_owned(), roles: Vec::new() })
}

fn action(text: &str) -> Result<Action, ArgumentError> {
    let names = || Action::ALL.iter().map(|action| action.name()).collect();
    Action::named(text).ok_or_else(|| ArgumentError::Name(names()))
}
