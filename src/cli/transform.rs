//! `veilstream transform`

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::record::Record;
use veilstream_engine::schema::When;
use veilstream_engine::transform::Limits;
use veilstream_engine::{Reject, RejectCode};

use super::lines::{Line, LineBatch, Lines};
use super::{Documents, KeysSource};
use crate::clock::unix_seconds;
use crate::exit::Exit;
use crate::keys::{self, KeySource};
use crate::protect::Protector;

const AFTER_HELP: &str =
    "Input is NDJSON: one event a line, UTF-8, at most 16 MiB. Blank lines are skipped. A line has neither record key nor headers: the document's \
\"key\" and \"headers\" do not apply, and a \"when\" on a header never holds.
Of several schemas the first whose \"when\" holds protects a line.
A line that cannot be protected as declared is not written. It is reported as a JSON object, without any of its content:
{\"line\":2,\"reason\":\"missing_required\",\"schema\":\"customers/3\",\"field\":\"ssn\"}

Examples:
  veilstream transform --keys keys --schema schemas/customers.json < raw.ndjson > safe.ndjson
  veilstream transform --keys keys --schema a.json --schema b.json --rejects rejects.ndjson < raw.ndjson > safe.ndjson

Exit code: 0 every line protected, 1 some rejected or keys not available, 2 wrong usage or documents";

/// Arguments of `transform`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct TransformArgs {
    #[command(flatten)]
    documents: Documents,
    #[command(flatten)]
    keys: KeysSource,
    /// Report rejected lines to this file (replaced) instead of standard error
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Faults of the documents, keys that are not available, a stream that fails.
pub fn run(args: &TransformArgs) -> anyhow::Result<Exit> {
    let set = Arc::new(args.documents.load()?);
    usable_on_lines(&set)?;
    let keys = keys::open_local(&args.keys)?;
    keys.take_interop(&set)?;
    let _upkeep = keys::maintain(&keys)?;
    let mut rejects: Box<dyn Write> = match &args.rejects {
        Some(path) => Box::new(BufWriter::new(
            File::create(path).with_context(|| path.display().to_string())?,
        )),
        None => Box::new(io::stderr()),
    };
    let out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    let rejected = transform(&set, &*keys, io::stdin().lock(), out, &mut rejects)?;
    rejects.flush()?;
    Ok(if rejected == 0 { Exit::Ok } else { Exit::Failed })
}

/// Lines have no topic and no headers: refuses what would never apply, or would keep another schema
/// from ever applying.
fn usable_on_lines(set: &SchemaSet) -> anyhow::Result<()> {
    let mut faults = Vec::new();
    let last = set.schemas().len() - 1;
    for (i, schema) in set.schemas().iter().enumerate() {
        if schema.when.iter().any(|when| matches!(when, When::Header(..))) {
            faults.push(format!(
                "{}: its \"when\" asks for a header, which a line does not have; leave it out here",
                schema.name
            ));
        } else if schema.when.is_empty() && i < last {
            faults.push(format!(
                "{}: has no \"when\", so it would claim every line; name it last, or give it one",
                schema.name
            ));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(super::faults_error(&faults)) }
}

/// Protects line after line; how many were rejected.
fn transform(
    set: &Arc<SchemaSet>,
    keys: &dyn KeySource,
    input: impl Read,
    mut out: impl Write,
    rejects: &mut dyn Write,
) -> anyhow::Result<u64> {
    let limits = Limits::default();
    let mut protector = Protector::new(set.clone(), keys.keyring()).with_limits(limits).one_shot();
    let (mut lines, mut batch) = (Lines::new(input, limits.input), LineBatch::default());
    let mut rejected = 0;
    loop {
        if lines.may_wait() {
            out.flush()?;
            rejects.flush()?;
        }
        lines.batch(&mut batch)?;
        // As it is now: a stream may last for days.
        protector.take_snapshots(set.clone(), keys.keyring());
        let mut left = batch.lines();
        let Some((mut number, mut line)) = left.next() else { break };
        loop {
            let outcome = match line {
                Line::TooLong => Err(Reject::new(RejectCode::TooLarge)),
                Line::Text(text) => {
                    // The lines after it too, so that one request to the store serves them all.
                    let (now, rest) = (unix_seconds(), left.clone());
                    let ahead = rest.filter_map(|(_, line)| {
                        if let Line::Text(text) = line { Some(record(text, now)) } else { None }
                    });
                    protector
                        .protect(&record(text, now), ahead, keys)
                        .with_context(|| format!("line {number}"))?
                }
            };
            match outcome {
                Ok(_) => {
                    out.write_all(&protector.output().value)?;
                    out.write_all(b"\n")?;
                }
                Err(reject) => {
                    rejected += 1;
                    report(rejects, number, &reject)?;
                }
            }
            let Some(next) = left.next() else { break };
            (number, line) = next;
        }
    }
    out.flush()?;
    Ok(rejected)
}

/// A line as a record: without topic, key and headers.
fn record(value: &[u8], now: u64) -> Record<'_> {
    Record { value: Some(value), now, ..Record::default() }
}

/// Writes what is known of a rejected line; nothing of its content.
fn report(rejects: &mut dyn Write, line: u64, reject: &Reject) -> io::Result<()> {
    let mut report = json!({ "line": line, "reason": reject.code.as_str(), "schema": reject.schema.as_deref(), "field": reject.field.as_deref() });
    if let Some(offset) = reject.offset {
        report["offset"] = offset.into();
    }
    writeln!(rejects, "{}", super::sorted(report))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::ephemeral::EphemeralKeys;
    use crate::keys::KeyFault;
    use veilstream_engine::Keyring;
    use veilstream_engine::compile::{Grants, compile};
    use veilstream_engine::transform::NeededKey;

    const PEOPLE: &str = r#"{"veilstream":1,"name":"people","version":1,"when":{"$.type":"person"},"subject":"$.id","subject_optional":true,
        "fields":[{"id":"email","path":"$..email","index":{"normalize":"email"}},{"id":"ssn","path":"$.ssn","required":true}]}"#;
    const REST: &str =
        r#"{"veilstream":1,"name":"rest","version":1,"fields":[{"id":"note","path":"$.note"}]}"#;
    pub(in crate::cli) const EVENTS: &str = concat!(
        "{\"type\":\"person\",\"id\":7,\"ssn\":\"078-05-1120\", \"email\" : \
        \"ada@example.com\"}\r\n",
        "\n",
        "{\"note\":\"ring Ada back\",\"n\":1.10}\n",
        "{\"type\":\"person\",\"ssn\":\"078-05-1120\"}",
    );

    pub(in crate::cli) fn set(documents: &[&str]) -> Arc<SchemaSet> {
        Arc::new(
            SchemaSet::new(
                documents
                    .iter()
                    .map(|d| Arc::new(compile(d.as_bytes(), &Grants::local()).unwrap().schema))
                    .collect(),
            )
            .unwrap(),
        )
    }

    pub(in crate::cli) fn people_and_rest() -> Arc<SchemaSet> {
        set(&[PEOPLE, REST])
    }

    pub(in crate::cli) fn run(
        set: &Arc<SchemaSet>,
        keys: &EphemeralKeys,
        input: &str,
    ) -> (String, String, u64) {
        let (mut out, mut rejects) = (Vec::new(), Vec::new());
        let rejected = transform(set, keys, input.as_bytes(), &mut out, &mut rejects).unwrap();
        (String::from_utf8(out).unwrap(), String::from_utf8(rejects).unwrap(), rejected)
    }

    #[test]
    fn each_line_is_protected_by_the_schema_that_claims_it() {
        let (out, rejects, rejected) = run(&people_and_rest(), &EphemeralKeys::default(), EVENTS);
        assert_eq!((rejects.as_str(), rejected), ("", 0));
        let lines: Vec<&str> = out.split_terminator('\n').collect();
        assert_eq!(lines.len(), 3, "{out}");
        assert!(
            lines[0].ends_with("}\r")
                && lines[0].contains(r#""email" : "vs1."#)
                && lines[0].contains(r#","email_bidx":"1~"#),
            "{out}"
        );
        assert!(
            lines[1].starts_with(r#"{"note":"vs1."#) && lines[1].ends_with(r#","n":1.10}"#),
            "{out}"
        );
        for clear in ["078-05-1120", "ada@example.com", "ring"] {
            assert!(!out.contains(clear), "{out}");
        }
    }

    #[test]
    fn what_cannot_be_protected_is_told_without_its_content() {
        let input = "{\"type\":\"person\",\"email\":\"ada@example.com\"}\nhello \
            ada\n{\"type\":\"other\"}\n";
        let (out, rejects, rejected) = run(&set(&[PEOPLE]), &EphemeralKeys::default(), input);
        assert_eq!((out.as_str(), rejected), ("", 3));
        let expected = [
            r#"{"field":"ssn","line":1,"reason":"missing_required","schema":"people/1"}"#,
            r#"{"field":null,"line":2,"offset":0,"reason":"not_json","schema":null}"#,
            r#"{"field":null,"line":3,"reason":"no_schema","schema":null}"#,
        ];
        assert_eq!(rejects.lines().collect::<Vec<_>>(), expected);
    }

    /// Keys that count how often they are asked for, and how many at most at once.
    #[derive(Default)]
    struct Counting {
        keys: EphemeralKeys,
        fetches: Mutex<Vec<usize>>,
    }

    impl KeySource for Counting {
        fn keyring(&self) -> Arc<Keyring> {
            self.keys.keyring()
        }
        fn fetch(
            &self,
            needed: &[NeededKey],
        ) -> Result<Vec<Arc<veilstream_engine::Key>>, KeyFault> {
            self.fetches.lock().unwrap().push(needed.len());
            self.keys.fetch(needed)
        }
        fn lookup(
            &self,
            id: &veilstream_engine::KeyId,
        ) -> Result<Option<Arc<veilstream_engine::Key>>, KeyFault> {
            self.keys.lookup(id)
        }
        fn prepare(&self, schemas: &SchemaSet) -> Result<(), KeyFault> {
            self.keys.prepare(schemas)
        }
        fn follow(&self) {}
        fn renew(&self) {}
    }

    #[test]
    fn one_request_for_keys_serves_the_lines_of_a_batch() {
        let line =
            |i: usize| format!("{{\"type\":\"person\",\"id\":{i},\"ssn\":\"078-05-{i}\"}}\n");
        let input: String = (0..3000)
            .map(
                |i| if i % 10 == 9 { "{\"type\":\"person\"}\n".to_owned() } else { line(i % 2500) },
            )
            .collect();
        let keys = Counting::default();
        let (mut out, mut rejects) = (Vec::new(), Vec::new());
        let set = set(&[PEOPLE]);
        assert_eq!(transform(&set, &keys, input.as_bytes(), &mut out, &mut rejects).unwrap(), 300);
        let fetches = keys.fetches.into_inner().unwrap();
        // What the schema needs, then the new subjects of each batch; the last 500 lines are of
        // subjects seen before.
        assert!(fetches.len() <= 5 && fetches.iter().sum::<usize>() < 2300, "{fetches:?}");
        // The order stays, of what is written and of what is told.
        let ids: Vec<usize> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|l| l[22..].split(',').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(ids, (0..3000).filter(|i| i % 10 != 9).map(|i| i % 2500).collect::<Vec<_>>());
        assert_eq!(
            String::from_utf8(rejects).unwrap().lines().nth(299).unwrap().split(',').nth(1),
            Some("\"line\":3000")
        );
    }

    #[test]
    fn a_schema_that_would_keep_another_from_applying_is_refused() {
        let header = PEOPLE.replace("$.type", "header:type");
        for documents in [[REST, PEOPLE].as_slice(), &[&header]] {
            assert_eq!(Exit::of(&usable_on_lines(&set(documents)).unwrap_err()), Exit::Usage);
        }
        usable_on_lines(&people_and_rest()).unwrap();
    }

    #[test]
    fn keys_that_cannot_be_had_stop_the_work() {
        struct Gone;
        impl KeySource for Gone {
            fn keyring(&self) -> Arc<Keyring> {
                Arc::default()
            }
            fn fetch(
                &self,
                _: &[veilstream_engine::transform::NeededKey],
            ) -> Result<Vec<Arc<veilstream_engine::Key>>, KeyFault> {
                Err(KeyFault("the store is gone".to_owned()))
            }
            fn lookup(
                &self,
                _: &veilstream_engine::KeyId,
            ) -> Result<Option<Arc<veilstream_engine::Key>>, KeyFault> {
                Err(KeyFault("the store is gone".to_owned()))
            }
            fn prepare(&self, _: &SchemaSet) -> Result<(), KeyFault> {
                Ok(())
            }
            fn follow(&self) {}
            fn renew(&self) {}
        }
        let mut out = Vec::new();
        let error =
            transform(&people_and_rest(), &Gone, EVENTS.as_bytes(), &mut out, &mut Vec::new())
                .unwrap_err();
        assert_eq!(format!("{error:#}"), "line 1: the store is gone");
        assert_eq!(out, b"");
    }
}
