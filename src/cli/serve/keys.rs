//! `veilstream serve keys`: API keys of the reading service.

use std::collections::BTreeSet;
use std::io::{self, Write};

use anyhow::Context as _;
use clap::Subcommand;
use jiff::Timestamp;
use serde_json::json;
use veilstream_keys::credential::{ApiKey, Credential, CredentialId, LONGEST_DAYS, Suspension};
use veilstream_reading::audit::{Entry, Event, cut_reason};

use crate::audit::{self, Trail};
use crate::cli::argument::ArgumentError;
use crate::config;
use crate::exit::Exit;
use crate::keys::{self, KeysSource};

const DAY: u64 = 86_400;

#[derive(Debug, Subcommand)]
pub(super) enum ApiKeysCommand {
    /// Make an API key; it is shown once
    #[command(
        after_help = "Examples:\n  veilstream serve keys create --config veilstream.toml --name \
            reports --role analyst > key\n  veilstream serve keys create --keys keys --name \
            support --role support --days 30\n\nThe key goes to standard output and nowhere \
            else. Keys of one name are one principal."
    )]
    Create {
        #[command(flatten)]
        source: KeysSource,
        /// Whose it is
        #[arg(long, value_parser = name)]
        name: String,
        /// A role of it; may be given several times
        #[arg(long = "role", value_name = "ROLE", required = true, value_parser = role)]
        roles: Vec<String>,
        /// How many days it is accepted
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=i64::from(LONGEST_DAYS)))]
        days: u32,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// List API keys: ids, names and roles, never the keys; and who is suspended
    #[command(
        after_help = "Examples:\n  veilstream serve keys list --config veilstream.toml\n\nExit \
            code: 0, or 1 if a record was changed by somebody who does not hold the store key"
    )]
    List {
        #[command(flatten)]
        source: KeysSource,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Revoke API keys; a running service refuses them within five seconds
    #[command(after_help = "Examples:\n  veilstream serve keys revoke --config veilstream.toml \
            0b2e7c0123456789\n  veilstream serve keys revoke --config veilstream.toml --name reports")]
    Revoke {
        #[command(flatten)]
        source: KeysSource,
        /// Ids, as `serve keys list` shows them
        #[arg(value_name = "ID", required_unless_present = "name")]
        ids: Vec<CredentialId>,
        /// All keys of this name
        #[arg(long, conflicts_with = "ids", value_parser = name)]
        name: Option<String>,
    },
    /// Let principals read again who opened a honey token
    #[command(
        after_help = "Anyone who opens a honey token is denied everything, if serve.honey_suspends is \
            true. Find out who it was first: the audit log has the line. A running service lets \
            them read again within five seconds.\n\nExamples:\n  veilstream serve keys resume \
            --config veilstream.toml 0b2e7c0123456789\n  veilstream serve keys resume --config \
            veilstream.toml --principal key:reports"
    )]
    Resume {
        #[command(flatten)]
        source: KeysSource,
        /// Ids of suspensions, as `serve keys list` shows them
        #[arg(value_name = "ID", required_unless_present = "principal")]
        ids: Vec<CredentialId>,
        /// All suspensions of this principal
        #[arg(long, value_name = "ID", conflicts_with = "ids")]
        principal: Option<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// The key store cannot be opened or changed.
pub(super) fn run(command: &ApiKeysCommand) -> anyhow::Result<Exit> {
    match command {
        ApiKeysCommand::Create { source, name, roles, days, json } => {
            create(source, name, roles, *days, *json)
        }
        ApiKeysCommand::List { source, json } => list(source, *json),
        ApiKeysCommand::Revoke { source, ids, name } => revoke(source, ids, name.as_deref()),
        ApiKeysCommand::Resume { source, ids, principal } => {
            resume(source, ids, principal.as_deref())
        }
    }
}

fn create(
    source: &KeysSource,
    name: &str,
    roles: &[String],
    days: u32,
    as_json: bool,
) -> anyhow::Result<Exit> {
    let (manager, trail) = audit::audited(source)?;
    let key = ApiKey::generate()?;
    let now = keys::now();
    let roles: BTreeSet<String> = roles.iter().cloned().collect();
    let credential = Credential {
        id: key.id(),
        sha256: key.sha256(),
        name: name.to_owned(),
        roles: roles.into_iter().collect(),
        created: now,
        expires: now + u64::from(days) * DAY,
        revoked: None,
    };
    anyhow::ensure!(
        manager.store().add_credential(&credential)?,
        "the id {} is taken; run it again",
        credential.id
    );
    let what = format!("create {name}: {}, {days} days", credential.roles.join(" "));
    // Before it is shown: nobody has a key that the log does not know.
    trail.append_done(change(&trail, credential.id, &what))?;
    let mut out = io::stdout().lock();
    if as_json {
        let mut shown = shown(&credential, now);
        shown["key"] = key.expose().into();
        writeln!(out, "{shown}")?;
    } else {
        writeln!(out, "{}", key.expose())?;
        writeln!(
            io::stderr(),
            "made API key {} of {name} with {}, until {}; it is not shown again",
            credential.id,
            credential.roles.join(", "),
            time(credential.expires)
        )?;
    }
    Ok(Exit::Ok)
}

fn list(source: &KeysSource, as_json: bool) -> anyhow::Result<Exit> {
    let manager = keys::manager(&keys::settings(source)?)?;
    let found = manager.store().credentials()?;
    let now = keys::now();
    let mut out = io::BufWriter::new(io::stdout().lock());
    if !as_json {
        writeln!(
            out,
            "{:<16} {:<24} {:<8} {:<20} {:<20} ROLES",
            "ID", "NAME", "STATE", "CREATED", "EXPIRES"
        )?;
    }
    for one in &found.authentic {
        if as_json {
            writeln!(out, "{}", shown(one, now))?;
            continue;
        }
        writeln!(
            out,
            "{} {:<24} {:<8} {} {} {}",
            one.id,
            one.name,
            state(one, now),
            time(one.created),
            time(one.expires),
            one.roles.join(",")
        )?;
    }
    for one in &found.suspensions {
        if as_json {
            writeln!(out, "{}", shown_suspension(one))?;
            continue;
        }
        let person = one.person.as_deref().map_or_else(String::new, |id| format!(" for {id}"));
        let (state, whom) = (suspension_state(one), format!("{}{person}", one.principal));
        writeln!(out, "{} {state:<9} {} {}", one.id, time(one.since), printable(&whom))?;
    }
    out.flush()?;
    for id in &found.corrupt {
        writeln!(
            io::stderr(),
            "the record of API key {} was changed by somebody who does not hold the store key, \
            so it opens nothing; find out who writes to the key store",
            printable(id)
        )?;
    }
    Ok(if found.corrupt.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn revoke(source: &KeysSource, ids: &[CredentialId], name: Option<&str>) -> anyhow::Result<Exit> {
    let (manager, trail) = audit::audited(source)?;
    let known = manager.store().credentials()?.authentic;
    let ids: Vec<CredentialId> = match name {
        Some(name) => known.iter().filter(|one| one.name == name).map(|one| one.id).collect(),
        None => ids.to_vec(),
    };
    let missing = missing(&ids, known.iter().map(|one| one.id));
    anyhow::ensure!(
        missing.is_empty() && !ids.is_empty(),
        "there is no API key {}; `veilstream serve keys list` shows them. Nothing was revoked",
        name.map_or_else(|| missing.join(", "), |name| format!("of name {name}"))
    );
    let revoked = manager.store().revoke_credentials(&ids, keys::now())?;
    let told = trail.append(revoked.iter().map(|id| change(&trail, *id, "revoke")).collect());
    say_done(&ids, &revoked, "revoked")?;
    told.context("it is done, but it is not in the audit log")?;
    Ok(Exit::Ok)
}

/// Those that the store does not know.
fn missing(ids: &[CredentialId], known: impl Iterator<Item = CredentialId>) -> Vec<String> {
    let known: BTreeSet<CredentialId> = known.collect();
    ids.iter().filter(|id| !known.contains(id)).map(ToString::to_string).collect()
}

/// Says of each id whether it was changed now or before.
fn say_done(ids: &[CredentialId], changed: &[CredentialId], what: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for id in ids {
        if changed.contains(id) {
            writeln!(out, "{id} {what}")?;
        } else {
            writeln!(out, "{id} was {what} before")?;
        }
    }
    Ok(())
}

/// The audit line of a change of a credential.
fn change(trail: &Trail, id: CredentialId, what: &str) -> Entry {
    Entry {
        credential: Some(id.to_string()),
        reason: Some(cut_reason(what)),
        ..trail.entry(Event::Credentials)
    }
}

fn resume(
    source: &KeysSource,
    ids: &[CredentialId],
    principal: Option<&str>,
) -> anyhow::Result<Exit> {
    let (manager, trail) = audit::audited(source)?;
    let known = manager.store().credentials()?.suspensions;
    let ids: Vec<CredentialId> = match principal {
        Some(id) => known
            .iter()
            .filter(|one| one.principal == id && one.resumed.is_none())
            .map(|one| one.id)
            .collect(),
        None => ids.to_vec(),
    };
    let missing = missing(&ids, known.iter().map(|one| one.id));
    anyhow::ensure!(
        missing.is_empty() && !ids.is_empty(),
        "there is no suspension {}; `veilstream serve keys list` shows them. Nobody was resumed",
        principal.map_or_else(|| missing.join(", "), |id| format!("of {}", printable(id)))
    );
    let resumed = manager.store().resume(&ids, keys::now())?;
    let told = trail.append(resumed.iter().map(|id| change(&trail, *id, "resume")).collect());
    say_done(&ids, &resumed, "resumed")?;
    told.context("it is done, but it is not in the audit log")?;
    Ok(Exit::Ok)
}

fn shown_suspension(one: &Suspension) -> serde_json::Value {
    json!({
        "id": one.id.to_string(),
        "principal": one.principal,
        "person": one.person,
        "state": suspension_state(one),
        "since": time(one.since),
        "resumed": one.resumed.map(time),
    })
}

fn suspension_state(one: &Suspension) -> &'static str {
    if one.resumed.is_some() { "resumed" } else { "suspended" }
}

fn shown(one: &Credential, now: u64) -> serde_json::Value {
    json!({
        "id": one.id.to_string(),
        "name": one.name,
        "state": state(one, now),
        "created": time(one.created),
        "expires": time(one.expires),
        "revoked": one.revoked.map(time),
        "roles": one.roles,
    })
}

fn state(one: &Credential, now: u64) -> &'static str {
    match (one.revoked, now >= one.end()) {
        (Some(_), _) => "revoked",
        (None, true) => "expired",
        (None, false) => "active",
    }
}

fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

/// What somebody else wrote into the store must not move a terminal.
fn printable(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

fn name(text: &str) -> Result<String, ArgumentError> {
    Ok(config::name(text)?)
}

fn role(text: &str) -> Result<String, ArgumentError> {
    Ok(config::role(text)?)
}
