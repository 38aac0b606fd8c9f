//! Kafka Connect's own JsonConverter at both ends: what a source writes with schemas, `transform`
//! protects, and a sink reads with types that fit.
#![allow(clippy::unwrap_used)]

#[path = "support/feed.rs"]
mod feed;

use feed::feed;
use std::path::Path;
use std::process::Command;

const DOCUMENT: &str = r#"{"veilstream":1,"name":"changes","version":1,"envelope":"connect","when":{"$.op":"c"},"subject":["$.after.id","$.before.id"],"fields":[
    {"id":"email","path":"$['before','after'].email","index":{"normalize":"email"}},
    {"id":"age","path":"$['before','after'].age"},
    {"id":"vip","path":"$['before','after'].vip"},
    {"id":"phones","path":"$['before','after'].phones[*]","index":{"normalize":"phone-us","bits":24}},
    {"id":"tags","path":"$['before','after'].tags.*"},
    {"id":"recipient","path":"$['before','after'].lines[*].recipient"},
    {"id":"born","path":"$['before','after'].born","protect":"generalize","to":"year","epoch":"days"},
    {"id":"salary","path":"$['before','after'].salary"},
    {"id":"note","path":"$['before','after'].note","protect":"drop"}]}"#;

#[test]
fn a_sink_reads_types_that_fit() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("changes.json"), DOCUMENT).unwrap();
    veilstream(dir.path(), &["keys", "init", "--keys", "keys"], "");
    let events = converter("write", "");
    assert_eq!(events.lines().count(), 2);

    let safe = veilstream(
        dir.path(),
        &["transform", "--keys", "keys", "--schema", "changes.json"],
        &events,
    );
    for clear in ["ada@example.com", "Charles", "gift", "4155550101"] {
        assert!(events.contains(clear) && !safe.contains(clear), "{clear}");
    }
    let read = converter("read", &safe);
    let records: Vec<&str> = read.split_terminator("end of record\n").collect();
    let [ada, nobody] = records[..] else { panic!("{read}") };
    let has = |record: &str, line: &str| {
        assert!(record.lines().any(|l| l.starts_with(line)), "no {line} in\n{record}")
    };
    for record in [ada, nobody] {
        // What was a number, a boolean or a list of numbers would have been read as 0, false or
        // nothing.
        for field in ["email", "email_bidx", "age", "vip"] {
            has(
                record,
                &format!(
                    "$.after.{field} STRING? {}",
                    if field.ends_with("bidx") { "" } else { "vs1." }
                ),
            );
        }
        has(record, "$.after.phones ARRAY of STRING");
        has(record, "$.after.note STRING? null");
        has(record, "$.before STRUCT? Row null");
        has(record, "$.op STRING c");
    }
    for line in [
        "$.after.id INT64 7",
        "$.after.email_bidx STRING? 1~",
        "$.after.phones ARRAY of STRING 2",
        "$.after.phones[] STRING? vs1.",
        "$.after.phones_bidx ARRAY of STRING 2",
        "$.after.phones_bidx[] STRING? 1~",
        "$.after.tags MAP {early=vs1.",
        "$.after.lines[].recipient STRING? vs1.",
        "$.after.lines[].quantity INT32 2",
        "$.after.born STRING? 1974",
        "$.after.salary STRING? vs1.",
    ] {
        has(ada, line);
    }
    for line in [
        "$.after.email_bidx STRING? null",
        "$.after.phones ARRAY of STRING 0",
        "$.after.tags MAP {}",
        "$.after.born STRING? null",
        "$.after.salary STRING? null",
    ] {
        has(nobody, line);
    }

    // The payload comes back, byte for byte except for what has no way back.
    let back =
        veilstream(dir.path(), &["reveal", "--keys", "keys", "--schema", "changes.json"], &safe);
    let payload = |text: &str| {
        text.lines()
            .map(|l| l.split_once(r#""payload":"#).unwrap().1.to_owned())
            .collect::<Vec<_>>()
    };
    let expected: Vec<String> = payload(&events)
        .iter()
        .map(|p| {
            p.replace(r#","note":"gift""#, "")
                .replace(r#","note":"""#, "")
                .replace("\"born\":1819", "\"born\":\"1974\"")
        })
        .collect();
    assert_eq!(payload(&back), expected);
}

#[test]
fn an_envelope_that_is_not_declared_is_rejected_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("changes.json"),
        DOCUMENT.replace(r#""envelope":"connect","#, ""),
    )
    .unwrap();
    veilstream(dir.path(), &["keys", "init", "--keys", "keys"], "");
    let output = run(
        dir.path(),
        &["transform", "--keys", "keys", "--schema", "changes.json"],
        &converter("write", ""),
    );
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"");
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(told.matches(r#""reason":"connect_envelope""#).count(), 2, "{told}");
}

/// What Kafka Connect's converter prints; Java compiles the one file as it starts.
fn converter(mode: &str, input: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let libs = root.join("target/kafka/libs");
    assert!(libs.is_dir(), "no Kafka in {}: make setup", libs.display());
    let mut java = Command::new("java");
    java.args(["-Xmx128m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp"])
        .arg(libs.join("*"));
    java.arg(root.join("tests/support/connect/Converter.java")).arg(mode);
    let output = feed(java, input);
    assert!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn veilstream(dir: &Path, args: &[&str], input: &str) -> String {
    let output = run(dir, args, input);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn run(dir: &Path, args: &[&str], input: &str) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
    command.current_dir(dir).args(args);
    feed(command, input)
}
