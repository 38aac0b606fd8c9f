//! `veilstream index`

#[cfg(feature = "serve")]
mod server;

use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;

use clap::Args;
use veilstream_engine::Keyring;
use veilstream_engine::compile::Grants;
use veilstream_engine::index::Indexer;
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::schema::{IndexRule, Schema};
use veilstream_engine::transform::Limits;

use super::KeysSource;
use super::lines::{Line, Lines};
#[cfg(feature = "serve")]
use crate::client::{Client, ServerArgs};
use crate::exit::Exit;
use crate::{keys, registry};
#[cfg(feature = "serve")]
use server::ServerSearch;

const AFTER_HELP: &str = "Prints one value for each version of the index root in use, the newest first: search for any of them. A bucketed index (\"bits\" below 128) \
also finds other values: open what was found and compare.
A compound index takes one VALUE for each part, in the order of its \"of\".
A value on the command line stands in the shell's history and in the list of processes. With --stdin the values are read instead: one a line (the parts of \
a compound one separated by tabs), and each gives one line, its index values separated by tabs; a value that has no index gives an empty line. Blank lines are skipped.

Examples:
  veilstream index --keys keys --schema schemas/customers.json --field email ada@example.com
  veilstream index --keys keys --schema schemas/customers.json --field '#key' customer-17
  veilstream index --keys keys --schema schemas/customers.json --field ssn --stdin < numbers.txt
  veilstream index --server https://reveal.internal:8788 --token-file key --purpose support --schema schemas/customers.json --field email --stdin < addresses.txt

Exit code: 0 done, 1 a value has no index or keys are not available, 2 wrong usage or document";

/// Arguments of `index`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct IndexArgs {
    /// Schema document
    #[arg(long, value_name = "FILE")]
    schema: PathBuf,
    #[command(flatten)]
    keys: KeysSource,
    /// Field of the document, #key for the record key or #header:NAME
    #[arg(long, value_name = "ID")]
    field: String,
    /// What to search for, as it would stand in an event, without quotes
    #[arg(value_name = "VALUE", required_unless_present = "stdin", conflicts_with = "stdin")]
    values: Vec<String>,
    /// Read the values from standard input
    #[arg(long)]
    stdin: bool,
    #[cfg(feature = "serve")]
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
///
/// # Errors
/// Faults of the document, a field without index, keys that are not available.
pub fn run(args: &IndexArgs) -> anyhow::Result<Exit> {
    let loaded = registry::open_files(std::slice::from_ref(&args.schema), &Grants::local())
        .map_err(|faults| super::faults_error(&faults))?;
    let schema = &loaded.set.schemas()[0];
    let rule = rule(schema, &args.field)?;
    let parts = rule.of.len().max(1);
    if !args.stdin && args.values.len() != parts {
        return Err(Exit::Usage.because(format!(
            "{} takes {parts} VALUE{}, not {}",
            args.field,
            if parts == 1 { "" } else { "s" },
            args.values.len()
        )));
    }
    #[cfg(feature = "serve")]
    if let Some(client) = args.client()? {
        return args.ask(&ServerSearch::new(&client, schema, rule, &args.field));
    }
    let keyring = keys::open_local(&args.keys)?.keyring();
    let mut search = Search::new(rule, &keyring)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let all = if args.stdin {
        search.lines(io::stdin().lock(), &mut out, &mut io::stderr())?
    } else {
        let values: Vec<&[u8]> = args.values.iter().map(String::as_bytes).collect();
        let found = search.write(&values, b'\n', &mut out)?;
        if found {
            writeln!(out)?
        } else {
            writeln!(io::stderr(), "veilstream: {}", search.no_index())?
        }
        found
    };
    out.flush()?;
    Ok(if all { Exit::Ok } else { Exit::Failed })
}

#[cfg(feature = "serve")]
impl IndexArgs {
    /// The reading service that was named.
    fn client(&self) -> anyhow::Result<Option<Client>> {
        let client = self.server.client()?;
        if client.is_some() && (self.keys.keys.is_some() || self.keys.config.is_some()) {
            let message = "--server: the service has the keys; leave out --keys and --config";
            return Err(Exit::Usage.because(message));
        }
        Ok(client)
    }

    /// Does over HTTP what the command does with keys.
    fn ask(&self, search: &ServerSearch<'_>) -> anyhow::Result<Exit> {
        let (mut out, mut errors) = (BufWriter::new(io::stdout().lock()), io::stderr());
        let all = if self.stdin {
            search.lines(io::stdin().lock(), &mut out, &mut errors)
        } else {
            let values: Vec<&str> = self.values.iter().map(String::as_str).collect();
            search.one(&values, &mut out, &mut errors)
        };
        // What was found before a fault leaves too.
        out.flush()?;
        Ok(if all? { Exit::Ok } else { Exit::Failed })
    }
}

/// The index of that field, the record key or a header.
fn rule<'s>(schema: &'s Schema, id: &str) -> anyhow::Result<&'s IndexRule> {
    if let Some((_, rule)) = schema.indexes().find(|(name, _)| name == id) {
        return Ok(rule);
    }
    let known: Vec<_> = schema.indexes().map(|(name, _)| name).collect();
    let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
    Err(Exit::Usage
        .because(format!("--field: {} has no index {id}; it indexes {known}", schema.name)))
}

/// Computes the index values of one rule.
struct Search<'a> {
    rule: &'a IndexRule,
    /// One per root version, the newest first.
    indexers: Vec<Indexer>,
    scratch: Scratch,
    normal: Vec<u8>,
}

impl<'a> Search<'a> {
    fn new(rule: &'a IndexRule, keyring: &Keyring) -> anyhow::Result<Self> {
        let indexers = Indexer::to_search(rule, keyring);
        anyhow::ensure!(
            !indexers.is_empty(),
            "these keys hold no index root{}",
            rule.root.map_or_else(String::new, |v| format!(" of version {v}"))
        );
        Ok(Self { rule, indexers, scratch: Scratch::default(), normal: Vec::new() })
    }

    /// Writes the index values of `parts`; `false` (nothing written): there is none.
    fn write(&mut self, parts: &[&[u8]], separator: u8, out: &mut impl Write) -> io::Result<bool> {
        let mut normal = Vec::with_capacity(parts.len());
        for part in parts {
            if !self.rule.normalize.normalize(Input::Raw(part), &mut self.scratch, &mut self.normal)
            {
                return Ok(false);
            }
            normal.push(self.normal.clone());
        }
        let mut text = Vec::new();
        for indexer in &self.indexers {
            if !text.is_empty() {
                text.push(separator);
            }
            indexer.write(normal.iter().map(Vec::as_slice), &mut text);
        }
        out.write_all(&text)?;
        Ok(true)
    }

    /// Line after line; whether all have an index.
    fn lines(
        &mut self,
        input: impl Read,
        out: &mut impl Write,
        errors: &mut impl Write,
    ) -> anyhow::Result<bool> {
        let mut lines = Lines::new(input, Limits::default().input);
        let mut all = true;
        loop {
            if lines.may_wait() {
                out.flush()?;
            }
            let Some((number, line)) = lines.next()? else { return Ok(all) };
            let parts: Vec<&[u8]> = match line {
                Line::Text(text) if self.rule.of.is_empty() => {
                    vec![text.strip_suffix(b"\r").unwrap_or(text)]
                }
                Line::Text(text) => {
                    text.strip_suffix(b"\r").unwrap_or(text).split(|b| *b == b'\t').collect()
                }
                Line::TooLong => Vec::new(),
            };
            if parts.len() != self.rule.of.len().max(1) {
                all = false;
                writeln!(
                    errors,
                    "veilstream: line {number}: give {} parts, separated by tabs",
                    self.rule.of.len().max(1)
                )?;
            } else if !self.write(&parts, b'\t', out)? {
                all = false;
                writeln!(errors, "veilstream: line {number}: {}", self.no_index())?;
            }
            writeln!(out)?;
        }
    }

    fn no_index(&self) -> String {
        no_index(self.rule)
    }
}

fn no_index(rule: &IndexRule) -> String {
    format!(
        "no index: nothing is left of the value after normalizing it as {}, so records that hold \
        it have none either",
        rule.normalize
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::transform::tests::{run as protect, set};
    use crate::ephemeral::EphemeralKeys;
    use crate::keys::KeySource as _;

    const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"fields":[
        {"id":"email","path":"$.email","index":{"normalize":"email","bits":24}},
        {"id":"name","path":"$.name","index":{"normalize":"text","of":["$.name","$.dob"],"into":"who"}},{"id":"dob","path":"$.dob"}],
        "key":{"protect":"hash","normalize":"exact","root":1}}"#;

    #[test]
    fn the_index_is_the_one_in_the_record() {
        let (set, keys) = (set(&[DOCUMENT]), EphemeralKeys::default());
        let (record, ..) = protect(
            &set,
            &keys,
            r#"{"email":"Ada@EXAMPLE.com","name":"Ada Lovelace","dob":"1815-12-10"}"#,
        );
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        for (field, parts, member) in [
            ("email", &[" ada@example.COM"][..], "email_bidx"),
            ("name", &["ADA  LOVELACE", "1815-12-10"], "who"),
        ] {
            let (keyring, mut out) = (keys.keyring(), Vec::new());
            let parts: Vec<&[u8]> = parts.iter().map(|p| p.as_bytes()).collect();
            assert!(
                Search::new(rule(&set.schemas()[0], field).unwrap(), &keyring)
                    .unwrap()
                    .write(&parts, b'\n', &mut out)
                    .unwrap()
            );
            assert_eq!(record[member], String::from_utf8(out).unwrap());
        }
    }

    #[test]
    fn lines_stay_side_by_side_with_their_indexes() {
        let (set, keys) = (set(&[DOCUMENT]), EphemeralKeys::default());
        keys.prepare(&set).unwrap();
        let (keyring, mut out, mut errors) = (keys.keyring(), Vec::new(), Vec::new());
        let schema = &set.schemas()[0];
        let mut search = Search::new(rule(schema, "name").unwrap(), &keyring).unwrap();
        assert!(
            !search
                .lines("a\tb\r\na\n\u{200b}\tb\nA\tB\n".as_bytes(), &mut out, &mut errors)
                .unwrap()
        );
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!((lines.len(), lines[1], lines[2]), (4, "", ""));
        assert!(lines[0].starts_with("1~") && lines[0] == lines[3], "{out}");
        assert_eq!(String::from_utf8(errors).unwrap().lines().count(), 2);
        assert!(rule(schema, "#key").is_ok());
        assert_eq!(
            rule(schema, "dob").unwrap_err().to_string(),
            "--field: people has no index dob; it indexes email, name, #key"
        );
    }
}
