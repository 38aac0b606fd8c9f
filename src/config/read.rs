//! Reads typed values out of the merged tree and collects every fault on the way.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use config::{Map, Value, ValueKind};
#[cfg(any(feature = "pkcs11", feature = "vault"))]
use veilstream_keys::provider::SecretText;

use super::fault::ConfigFault;
use super::secret::{Properties, Secret};
use super::value_error::ValueError;

/// Reads the text of a `*_file` setting.
pub type ReadFile<'a> = dyn Fn(&Path) -> std::io::Result<String> + 'a;

/// What the whole reading shares.
pub(super) struct ConfigReader<'a> {
    /// The configuration file, the place of faults about what is absent.
    pub(super) place: String,
    /// Where relative paths start.
    pub(super) base: PathBuf,
    pub(super) read_file: &'a ReadFile<'a>,
    pub(super) faults: Vec<ConfigFault>,
    /// Every key asked for, in dotted form: the test of the example file compares.
    pub(super) known: Vec<String>,
}

/// One table of the configuration. [`Section::finish`] reports what nobody asked for.
pub(super) struct Section<'s, 'r> {
    prefix: String,
    table: Map<String, Value>,
    asked: Vec<&'static str>,
    reading: &'s mut ConfigReader<'r>,
}

impl<'s, 'r> Section<'s, 'r> {
    pub(super) fn root(table: Map<String, Value>, reading: &'s mut ConfigReader<'r>) -> Self {
        Self { prefix: String::new(), table, asked: Vec::new(), reading }
    }

    /// A table within this one.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'_, 'r> {
        self.asked.push(key);
        let table = match self.table.remove(key) {
            None => Map::new(),
            Some(value) => match value.kind {
                ValueKind::Table(table) => table,
                _ => {
                    self.fault(
                        key,
                        &value,
                        "is a section; write its settings below a line \
                            with its name in brackets",
                    );
                    Map::new()
                }
            },
        };
        Section { prefix: self.dotted(key) + ".", table, asked: Vec::new(), reading: self.reading }
    }

    /// A list of tables (`[[section.key]]`), each read by `read`. `names`: what one may hold.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        names: &[&str],
        mut read: impl FnMut(Section<'_, 'r>) -> T,
    ) -> Vec<T> {
        self.asked.push(key);
        let dotted = self.dotted(key);
        self.reading.known.extend(names.iter().map(|name| format!("{dotted}.{name}")));
        let Some(value) = self.table.remove(key) else { return Vec::new() };
        let tables = match value.kind.clone() {
            ValueKind::Array(values) => values.into_iter().map(|v| v.into_table()).collect(),
            _ => Err(config::ConfigError::Message(String::new())),
        };
        let Ok(tables): Result<Vec<Map<String, Value>>, _> = tables else {
            let message = format!("is no list of tables; write each one below a line [[{dotted}]]");
            self.fault(key, &value, &message);
            return Vec::new();
        };
        let prefix = |n: usize| format!("{dotted}.{n}.");
        tables
            .into_iter()
            .zip(1..)
            .map(|(table, n)| {
                let reading = &mut *self.reading;
                read(Section { prefix: prefix(n), table, asked: Vec::new(), reading })
            })
            .collect()
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Hands over each table in this one, with its name, in their order; nothing else may stand in
    /// it.
    pub(super) fn each(&mut self, mut read: impl FnMut(&str, Section<'_, 'r>)) {
        let mut tables: Vec<(String, Value)> =
            std::mem::take(&mut self.table).into_iter().collect();
        tables.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, value) in tables {
            let ValueKind::Table(table) = value.kind else {
                self.fault(
                    &name,
                    &value,
                    "is a section; write its settings below a line with its name in brackets",
                );
                continue;
            };
            let prefix = self.dotted(&name) + ".";
            read(&name, Section { prefix, table, asked: Vec::new(), reading: self.reading });
        }
    }

    /// A table of lists of texts, each under a name that is anybody's.
    pub(super) fn lists(&mut self, key: &'static str) -> BTreeMap<String, Vec<String>> {
        let dotted = self.dotted(key);
        let names: Vec<String> = match self.table.get(key).map(|value| &value.kind) {
            Some(ValueKind::Table(table)) => table.keys().cloned().collect(),
            _ => Vec::new(),
        };
        let mut section = self.section(key);
        section.reading.known.push(dotted);
        let mut lists = BTreeMap::new();
        for name in names {
            let Some(value) = section.table.remove(&name) else { continue };
            match texts(&value) {
                Some(texts) => drop(lists.insert(name, texts)),
                None => section.fault(&name, &value, NO_LIST),
            }
        }
        lists
    }

    /// The text of a scalar, whatever its TOML type: the environment has only text.
    fn text(&mut self, key: &'static str) -> Option<(String, Value)> {
        self.asked.push(key);
        let dotted = self.dotted(key);
        self.reading.known.push(dotted);
        let value = self.table.remove(key)?;
        match value.clone().into_string() {
            Ok(text) => Some((text, value)),
            Err(_) => {
                self.fault(key, &value, "is a table or a list; write one value");
                None
            }
        }
    }

    /// A value with a parser that says what to write instead; `default` where it is absent or
    /// faulty.
    pub(super) fn parse<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> T {
        let Some((text, value)) = self.text(key) else { return default };
        parse(&text).unwrap_or_else(|error| {
            self.fault(key, &value, &format!("{} {error}", quoted(&text)));
            default
        })
    }

    /// A number within bounds.
    pub(super) fn number<T>(
        &mut self,
        key: &'static str,
        default: T,
        bounds: std::ops::RangeInclusive<T>,
    ) -> T
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        self.parse(key, default, |text| {
            let parsed = text.parse::<T>().ok().filter(|n| bounds.contains(n));
            parsed.ok_or_else(|| ValueError::Number {
                least: bounds.start().to_string(),
                most: bounds.end().to_string(),
            })
        })
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.parse(key, default, |text| {
            text.to_ascii_lowercase()
                .parse()
                .map_err(|_| ValueError::form("neither true nor false", "one of them"))
        })
    }

    /// A path; relative ones start at the configuration file's folder.
    pub(super) fn path(&mut self, key: &'static str, default: &str) -> PathBuf {
        let path = self.parse(key, default.to_owned(), not_empty);
        self.reading.base.join(path)
    }

    /// A path that may be absent.
    pub(super) fn optional_path(&mut self, key: &'static str) -> Option<PathBuf> {
        let path = self.parse(key, None, |text| not_empty(text).map(Some));
        path.map(|path| self.reading.base.join(path))
    }

    /// A text that may be absent.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<String> {
        self.parse(key, None, |text| not_empty(text).map(Some))
    }

    /// Where relative paths start.
    pub(super) fn base(&self) -> &Path {
        &self.reading.base
    }

    /// Whether nothing stands in it that nobody asked for yet.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// A list of texts; from the environment separated by commas.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<String> {
        self.asked.push(key);
        let dotted = self.dotted(key);
        self.reading.known.push(dotted);
        let Some(value) = self.table.remove(key) else { return Vec::new() };
        texts(&value).unwrap_or_else(|| {
            self.fault(key, &value, NO_LIST);
            Vec::new()
        })
    }

    /// A secret, given as `key` or, better, in the file `key_file` names, without the line's end.
    pub(super) fn secret(&mut self, key: &'static str, key_file: &'static str) -> Option<Secret> {
        self.secret_with(key, key_file, without_line_end)
    }

    /// [`Section::secret`] to the last byte: its reader says what does not count.
    pub(super) fn secret_whole(
        &mut self,
        key: &'static str,
        key_file: &'static str,
    ) -> Option<Secret> {
        self.secret_with(key, key_file, |text| text)
    }

    fn secret_with(
        &mut self,
        key: &'static str,
        key_file: &'static str,
        counts: fn(&str) -> &str,
    ) -> Option<Secret> {
        let direct = self.text(key);
        let Some((path, from)) = self.text(key_file) else {
            return direct.map(|(text, _)| Secret::new(text));
        };
        if let Some((_, value)) = &direct
            && !value.origin().is_some_and(is_plain_name)
        {
            self.fault(
                key,
                value,
                &format!("is given twice, directly and by {key_file}; keep one of them"),
            );
        }
        match self.secret_file(Path::new(&path), counts) {
            Ok(text) => Some(Secret::new(text)),
            Err(error) => {
                self.fault(key_file, &from, &error.to_string());
                None
            }
        }
    }

    /// [`Section::secret`] for what is read again later: platforms replace tokens in their files.
    #[cfg(any(feature = "pkcs11", feature = "vault"))]
    pub(super) fn secret_text(
        &mut self,
        key: &'static str,
        key_file: &'static str,
    ) -> Option<SecretText> {
        let path = self.table.get(key_file).and_then(|value| value.clone().into_string().ok());
        let secret = self.secret(key, key_file)?;
        Some(path.map_or_else(
            || SecretText::Given(zeroize::Zeroizing::new(secret.expose().to_owned())),
            |path| SecretText::File(self.reading.base.join(path)),
        ))
    }

    /// All settings of this table as librdkafka properties, `*_file` ones read. `refused` says why
    /// one may not be set.
    pub(super) fn properties(
        mut self,
        refused: impl Fn(&str, &str) -> Option<String>,
    ) -> Properties {
        let mut flat = Vec::new();
        flatten("", std::mem::take(&mut self.table), &mut flat);
        let mut properties = Properties::default();
        for (name, value) in flat {
            let Ok(text) = value.clone().into_string() else {
                self.fault(&name, &value, "is a list; write one value");
                continue;
            };
            let (name, text, file) = match name.strip_suffix("_file") {
                None => (name, text, None),
                Some(plain) => match self.secret_file(Path::new(&text), without_line_end) {
                    Ok(secret) => (plain.to_owned(), secret, Some(self.reading.base.join(text))),
                    Err(error) => {
                        self.fault(&name, &value, &error.to_string());
                        continue;
                    }
                },
            };
            // `probe` is librdkafka's word for the system's certificates.
            let is_path = (name.starts_with("ssl.") || name.starts_with("https."))
                && name.ends_with(".location")
                && text != "probe";
            let text =
                if is_path { self.reading.base.join(text).display().to_string() } else { text };
            match refused(&name, &text) {
                Some(message) => self.fault(&name, &value, &message),
                None => {
                    properties.files.extend(file.map(|file| (name.clone(), file)));
                    properties.values.insert(name, text);
                }
            }
        }
        properties
    }

    /// Settings of a later version: refused, not silently accepted.
    pub(super) fn later(&mut self, key: &'static str, instead: &str) {
        self.asked.push(key);
        if let Some(value) = self.table.remove(key) {
            self.fault(key, &value, &format!("is not in this version; {instead}"));
        }
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(mut self) {
        for (key, value) in std::mem::take(&mut self.table) {
            let near = self
                .asked
                .iter()
                .map(|a| (strsim::jaro_winkler(a, &key), *a))
                .filter(|(score, _)| *score > 0.8);
            let message = match near.max_by(|a, b| a.0.total_cmp(&b.0)) {
                Some((_, name)) => format!("is unknown; did you mean {name}?"),
                None => format!("is unknown; known here: {}", self.asked.join(", ")),
            };
            self.fault(&key, &value, &message);
        }
    }

    /// Adds a fault about a value that is there.
    fn fault(&mut self, key: &str, value: &Value, message: &str) {
        let place = value
            .origin()
            .map(str::to_owned)
            .or_else(|| nested_origin(value))
            .unwrap_or_else(|| self.reading.place.clone());
        self.reading.faults.push(ConfigFault {
            place,
            key: self.dotted(key),
            message: message.to_owned(),
        });
    }

    /// Adds a fault about something absent, or about several settings together.
    pub(super) fn missing(&mut self, key: &str, message: &str) {
        let place = self.reading.place.clone();
        self.reading.faults.push(ConfigFault {
            place,
            key: self.dotted(key),
            message: message.to_owned(),
        });
    }

    /// Whether a fault about this key was found.
    pub(super) fn is_faulty(&self, key: &str) -> bool {
        let dotted = self.dotted(key);
        self.reading.faults.iter().any(|fault| fault.key == dotted)
    }

    fn dotted(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn secret_file(
        &self,
        path: &Path,
        counts: fn(&str) -> &str,
    ) -> Result<String, SecretFileError> {
        let path = self.reading.base.join(path);
        let text = match (self.reading.read_file)(&path) {
            Ok(text) => counts(&text).to_owned(),
            Err(source) => return Err(SecretFileError::Unreadable { path, source }),
        };
        if text.trim_end_matches('\n').is_empty() {
            Err(SecretFileError::Empty { path })
        } else {
            Ok(text)
        }
    }
}

/// Why the file of a secret gives none. The text continues a sentence that begins with the setting.
#[derive(Debug, thiserror::Error)]
enum SecretFileError {
    #[error("names {}, which cannot be read ({source})", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("names {}, which is empty", path.display())]
    Empty { path: PathBuf },
}

const NO_LIST: &str = "is not a list of texts; write [\"one\", \"two\"]";

/// A list of texts; `None`: it is something else.
fn texts(value: &Value) -> Option<Vec<String>> {
    match &value.kind {
        ValueKind::String(text) => {
            Some(text.split(',').map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect())
        }
        ValueKind::Array(values) => values.iter().map(|v| v.clone().into_string().ok()).collect(),
        _ => None,
    }
}

fn without_line_end(text: &str) -> &str {
    text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text))
}

/// Refuses an empty text.
pub(super) fn not_empty(text: &str) -> Result<String, ValueError> {
    if text.trim().is_empty() { Err(ValueError::Empty) } else { Ok(text.to_owned()) }
}

fn is_plain_name(origin: &str) -> bool {
    origin.starts_with("environment variable ENCRYPTION_KEY")
}

/// A table has no origin of its own; any value in it has.
fn nested_origin(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::Table(table) => {
            table.values().find_map(|v| v.origin().map(str::to_owned).or_else(|| nested_origin(v)))
        }
        ValueKind::Array(values) => values.iter().find_map(|v| v.origin().map(str::to_owned)),
        _ => None,
    }
}

/// `fetch.min.bytes = 1` without quotes is three nested tables in TOML: joined again.
fn flatten(prefix: &str, table: Map<String, Value>, into: &mut Vec<(String, Value)>) {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        match value.kind {
            ValueKind::Table(inner) => flatten(&format!("{name}."), inner, into),
            _ => into.push((name, value)),
        }
    }
}

/// The value as written, shortened.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    let dots = if short.len() < text.len() { "..." } else { "" };
    format!("\"{short}{dots}\"")
}
