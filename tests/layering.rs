//! The engine does no IO (docs/design.md): its dependency tree and its sources hold nothing that could.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates that open sockets or files, ask the clock or the system's random source.
const BANNED: [&str; 17] = [
    "async-std",
    "axum",
    "chrono",
    "getrandom",
    "hyper",
    "jiff",
    "mio",
    "rand",
    "rdkafka",
    "reqwest",
    "rusqlite",
    "rustix",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "ureq",
];

#[test]
fn the_engine_depends_on_nothing_that_does_io() {
    let tree = dependencies("veilstream-engine");
    assert!(tree.iter().any(|name| name == "aes-gcm"), "not the tree of the engine: {tree:?}");
    let found: Vec<_> = tree.iter().filter(|name| BANNED.contains(&name.as_str()) || name.as_str() == "veilstream-keys").collect();
    assert!(found.is_empty(), "the engine depends on {found:?}");
}

#[test]
fn the_keys_know_neither_kafka_nor_http() {
    let tree = dependencies("veilstream-keys");
    let found: Vec<_> = tree.iter().filter(|name| ["rdkafka", "rdkafka-sys", "axum", "veilstream"].contains(&name.as_str())).collect();
    assert!(found.is_empty(), "the keys depend on {found:?}");
}

/// Decisions are events in, actions out: another client could take librdkafka's place, and a simulator can drive them.
#[test]
fn the_core_of_the_pipeline_knows_no_kafka_and_no_clock() {
    const WORDS: [&str; 8] = ["rdkafka", "kafka::ffi", "kafka::producer", "kafka::client", "kafka::topics", "Instant::now", "SystemTime", "std::thread"];
    let mut files = Vec::new();
    rust_files(&root().join("src/pipeline/core"), &mut files);
    files.retain(|file| !file.components().any(|part| part.as_os_str() == "simulator"));
    assert!(files.len() > 6, "not the sources of the core: {files:?}");
    assert_without(&files, &WORDS);
}

#[test]
fn unsafe_stands_in_one_file() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    rust_files(&root().join("keys/src"), &mut files);
    let ffi = root().join("src/kafka/ffi.rs");
    assert!(files.contains(&ffi));
    files.retain(|file| *file != ffi);
    assert_without(&files, &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]);
}

#[test]
fn the_engine_names_no_io() {
    const WORDS: [&str; 9] = ["std::fs", "std::env", "std::net", "std::process", "std::thread", "std::io", "SystemTime", "Instant::now", "unsafe "];
    let mut files = Vec::new();
    rust_files(&root().join("engine/src"), &mut files);
    assert!(files.len() > 10, "not the sources of the engine: {files:?}");
    assert_without(&files, &WORDS);
}

/// No line of production code has one of these words.
fn assert_without(files: &[PathBuf], words: &[&str]) {
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        // Tests may do what they want; they stand at the end of a file or in a file of their own.
        let production = text.split("#[cfg(test)]").next().unwrap();
        for (i, line) in production.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            let word = words.iter().find(|word| line.contains(**word));
            assert!(word.is_none(), "{}:{}: {}", file.display(), i + 1, word.unwrap());
        }
    }
}

/// A client made elsewhere would get no new credentials, and nobody would hear why a broker refuses it.
#[test]
fn clients_of_kafka_are_made_where_they_are_registered() {
    const MAKERS: [(&str, &[&str]); 3] = [
        (".create_with_context(", &["kafka/client.rs"]),
        ("ClientConfig = settings::", &["kafka/client.rs"]),
        ("NativeProducer::new(", &["kafka/producer.rs"]),
    ];
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    let mut found = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let production = text.split("#[cfg(test)]").next().unwrap();
        for (maker, places) in MAKERS.iter().filter(|(maker, _)| production.contains(maker)) {
            assert!(places.iter().any(|place| file.ends_with(place)), "{} makes a client ({maker}); let src/kafka/client.rs make it", file.display());
            found += 1;
        }
    }
    assert_eq!(found, 3, "these are not the words any more with which clients are made");
}

/// Names of all normal dependencies, direct and indirect.
fn dependencies(package: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--package", package])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn rust_files(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
            into.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
