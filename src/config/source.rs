//! Where settings come from, layered: plain names < file < `.env` beside the file < environment.
//! Injected, so that the parser itself reads nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{Config as Layers, FileFormat, Format, Map, Source, Value, ValueKind};

use super::fault::ConfigFault;

/// What a configuration is made from.
#[derive(Debug, Clone, Default)]
pub struct Input {
    /// Path of the configuration file, for messages and as the start of relative paths.
    pub path: PathBuf,
    /// Its text (TOML).
    pub text: String,
    /// Variables of `.env`.
    pub dotenv: BTreeMap<String, String>,
    /// What is wrong with `.env`, by its lines.
    pub dotenv_faults: Vec<ConfigFault>,
    /// A `.env` of the working directory that does not count.
    pub ignored: Option<PathBuf>,
    /// Variables of the process.
    pub environment: BTreeMap<String, String>,
    /// Default of `kafka.instance`.
    pub host_name: String,
}

impl Input {
    /// Reads the file, the environment and the `.env` beside the file. One of the working directory
    /// counts for nothing: anyone who can put a file there would outrank a configuration that
    /// somebody named.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn from_system(path: &Path) -> Result<Self, ConfigFault> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            ConfigFault::of_place(
                path.display().to_string(),
                format!("cannot be read ({e}); name a TOML file with --config"),
            )
        })?;
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (beside, here) = (folder.join(".env"), PathBuf::from(".env"));
        let (dotenv, dotenv_faults) = if beside.is_file() {
            (read_dotenv(&beside)?, keys_in_dotenv(&beside)?)
        } else {
            (BTreeMap::new(), Vec::new())
        };
        let is_other = || here.canonicalize().ok() != beside.canonicalize().ok();
        let ignored = (here.is_file() && is_other()).then_some(here);
        // Variables that are not UTF-8 cannot be ours: every name and value of ours is text.
        let environment = std::env::vars_os()
            .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
            .collect();
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self {
            path: path.to_owned(),
            text,
            dotenv,
            dotenv_faults,
            ignored,
            environment,
            host_name,
        })
    }

    /// Merges the layers into one tree; each value remembers its origin.
    pub(super) fn merge(&self, faults: &mut Vec<ConfigFault>) -> Map<String, Value> {
        let place = self.path.display().to_string();
        let file = FileFormat::Toml.parse(Some(&place), &self.text).unwrap_or_else(|e| {
            faults.push(ConfigFault::of_place(&place, syntax_error(&e.to_string())));
            Map::new()
        });
        faults.extend(self.dotenv_faults.iter().cloned());
        let layers = [
            plain_names(&self.dotenv),
            plain_names(&self.environment),
            file,
            variables(&self.dotenv, " of .env"),
            variables(&self.environment, ""),
        ];
        let mut builder = Layers::builder();
        for layer in layers {
            builder = builder.add_source(Tree(layer));
        }
        match builder.build().and_then(|c| c.collect()) {
            Ok(tree) => tree,
            Err(e) => {
                faults.push(ConfigFault::of_place(place, e.to_string()));
                Map::new()
            }
        }
    }
}

/// One layer, as the `config` crate wants it.
#[derive(Debug, Clone)]
struct Tree(Map<String, Value>);

impl Source for Tree {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}

/// A parser's message without the quoted source lines: they may hold a password.
fn syntax_error(message: &str) -> String {
    let lines: Vec<&str> = message
        .lines()
        .filter(|l| !l.contains('|'))
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    format!("is not TOML: {}", lines.join("; "))
}

fn read_dotenv(path: &Path) -> Result<BTreeMap<String, String>, ConfigFault> {
    let place = path.display().to_string();
    let lines = dotenvy::from_path_iter(path).map_err(|_| {
        ConfigFault::of_place(&place, "cannot be read; make it readable or remove it")
    })?;
    // dotenvy's own message quotes the line, which may hold a secret.
    lines.collect::<Result<_, _>>().map_err(|_| {
        ConfigFault::of_place(
            &place,
            "has a line that is not NAME=value; quote values with spaces or special characters",
        )
    })
}

/// Sections that decide who may read what: they are set where the service is, in its configuration
/// or its environment, not in a file that developers share.
const NOT_IN_DOTENV: [&str; 4] = ["KEYS", "SERVE", "POLICY", "AUDIT"];

/// Settings of [`NOT_IN_DOTENV`], by their lines. The plain names of the common guide are none.
fn keys_in_dotenv(path: &Path) -> Result<Vec<ConfigFault>, ConfigFault> {
    let text = std::fs::read_to_string(path).map_err(|_| {
        ConfigFault::of_place(
            path.display().to_string(),
            "cannot be read; make it readable or remove it",
        )
    })?;
    let name_of = |line: &str| {
        line.trim_start()
            .trim_start_matches("export ")
            .split('=')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let is_refused = |name: &String| {
        let section = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split("__").next())
            .map(str::to_ascii_uppercase);
        section.is_some_and(|section| NOT_IN_DOTENV.contains(&section.as_str()))
    };
    let names = text
        .lines()
        .zip(1..)
        .map(|(line, number)| (name_of(line), number))
        .filter(|(name, _)| is_refused(name));
    let message = "may not stand in .env; write it into the configuration file, or set it in the \
        environment of the service";
    Ok(names
        .map(|(name, number)| ConfigFault {
            place: format!("{}, line {number}", path.display()),
            key: name,
            message: message.to_owned(),
        })
        .collect())
}

impl Input {
    /// What the environment and `.env` set beside the file or instead of it, by name; never a
    /// value.
    #[must_use]
    pub fn overrides(&self) -> Vec<String> {
        let of = |from: &BTreeMap<String, String>, origin: &str| {
            let ours = from
                .keys()
                .filter(|name| name.starts_with(PREFIX) || name.starts_with("ENCRYPTION_KEY"));
            ours.map(|name| format!("{name} ({origin})")).collect::<Vec<_>>()
        };
        let mut names = of(&self.dotenv, ".env");
        names.extend(of(&self.environment, "environment"));
        names
    }
}

const PREFIX: &str = "VEILSTREAM__";

/// `VEILSTREAM__SECTION__KEY` variables as a tree. Below `kafka` the third part is a librdkafka
/// property: its dots stay dots, and an underscore stands for a dot, because shells refuse dots in
/// names and no such property has an underscore.
fn variables(from: &BTreeMap<String, String>, of: &str) -> Map<String, Value> {
    let mut tree = Value::new(None, Map::<String, Value>::new());
    for (name, value) in from {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let origin = format!("environment variable {name}{of}");
        let path = path.to_ascii_lowercase();
        let mut parts: Vec<String> = path.splitn(3, "__").map(str::to_owned).collect();
        match &mut parts[..] {
            [section, _, property] if section == "kafka" => {
                let (name, file) = property
                    .strip_suffix("_file")
                    .map_or((property.as_str(), ""), |name| (name, "_file"));
                *property = name.replace('_', ".") + file;
            }
            // Shells refuse the dash as well.
            _ => {
                parts = path
                    .split("__")
                    .map(
                        |part| {
                            if part == "aws_kms" { "aws-kms".to_owned() } else { part.to_owned() }
                        },
                    )
                    .collect()
            }
        }
        insert(&mut tree, &parts, Value::new(Some(&origin), value.as_str()));
    }
    tree.into_table().unwrap_or_default()
}

/// The plain names of the common guide. An `ENCRYPTION_KEY` also chooses the provider `env` where
/// nothing else is configured.
fn plain_names(from: &BTreeMap<String, String>) -> Map<String, Value> {
    const NAMES: [(&str, &str); 3] = [
        ("ENCRYPTION_KEY", "env.key"),
        ("ENCRYPTION_KEY_ROTATION_ENABLED", "rotation_enabled"),
        ("ENCRYPTION_KEY_ROTATION_INTERVAL_DAYS", "rotation_interval_days"),
    ];
    let mut tree = Value::new(None, Map::<String, Value>::new());
    for (name, key) in NAMES {
        if let Some(value) = from.get(name) {
            let origin = format!("environment variable {name}");
            let path: Vec<String> =
                std::iter::once("keys").chain(key.split('.')).map(str::to_owned).collect();
            insert(&mut tree, &path, Value::new(Some(&origin), value.as_str()));
            if key == "env.key" {
                insert(
                    &mut tree,
                    &["keys".to_owned(), "provider".to_owned()],
                    Value::new(Some(&origin), "env"),
                );
            }
        }
    }
    tree.into_table().unwrap_or_default()
}

/// Puts a value at a path, making tables on the way.
fn insert(tree: &mut Value, path: &[String], value: Value) {
    let [first, rest @ ..] = path else {
        *tree = value;
        return;
    };
    if !matches!(tree.kind, ValueKind::Table(_)) {
        *tree = Value::new(None, Map::<String, Value>::new());
    }
    if let ValueKind::Table(table) = &mut tree.kind {
        insert(table.entry(first.clone()).or_default(), rest, value);
    }
}
