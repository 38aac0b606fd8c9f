//! The engine does no IO (docs/design.md): its dependency tree and its sources hold nothing that could. And nothing of the sidecar
//! imports from a floor above (CONTRIBUTING.md, "Floors").

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
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

/// Imports from a floor above that are still there. None is added; one that is gone leaves the list.
const RISING: [(&str, &str); 5] = [("app", "cli"), ("config", "kafka"), ("demo", "cli"), ("keys", "cli"), ("telemetry", "cli")];

/// The floors of CONTRIBUTING.md, the uppermost first.
#[test]
fn nothing_imports_from_a_floor_above() {
    let text = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let list = text.split("## Floors").nth(1).and_then(|text| text.split("```text\n").nth(1)).and_then(|text| text.split("```").next()).unwrap();
    let floors: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    let floor_of = |room: &str| floors.iter().position(|rooms| rooms.contains(&room));

    let src = root().join("src");
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    let mut rising = BTreeSet::new();
    let mut found = 0;
    for file in files.iter().filter(|file| !file.ends_with("src/lib.rs") && !file.ends_with("src/main.rs")) {
        let room = file.strip_prefix(&src).unwrap().components().next().unwrap().as_os_str().to_str().unwrap();
        let room = room.trim_end_matches(".rs");
        let floor = floor_of(room).unwrap_or_else(|| panic!("src/{room} stands on no floor of CONTRIBUTING.md"));
        for other in imports(&std::fs::read_to_string(file).unwrap()) {
            let Some(above) = floor_of(&other) else { continue };
            found += 1;
            if above < floor {
                rising.insert((room.to_owned(), other));
            }
        }
    }
    assert!(found > 200, "only {found} imports were found");
    let known: BTreeSet<_> = RISING.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
    assert_eq!(rising, known, "left: (importer, imported) against the floors of CONTRIBUTING.md, right: RISING");
    for room in floors.iter().flatten() {
        assert!(src.join(room).is_dir() || src.join(format!("{room}.rs")).is_file(), "src/{room} of CONTRIBUTING.md is not there");
    }
}

/// The rooms of this crate that production code names, in `use` lines and in paths.
fn imports(text: &str) -> Vec<String> {
    let production = text.split("#[cfg(test)]").next().unwrap();
    let code: String = production.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    // `pub(in crate::...)` and `$crate::` are no imports.
    let starts = code.match_indices("crate::").filter(|(at, _)| !code[..*at].ends_with(['$', '_']) && !code[..*at].ends_with("in "));
    let mut rooms = Vec::new();
    for (at, found) in starts {
        let rest = &code[at + found.len()..];
        let room = |path: &str| path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            None => rooms.push(room(rest)),
            Some(list) => rooms.extend(first_level(list).map(room)),
        }
    }
    rooms
}

/// The parts of a list in braces, up to its end; commas of inner lists separate nothing.
fn first_level(list: &str) -> impl Iterator<Item = &str> {
    let mut depth = 1;
    let end = list.find(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    });
    let mut depth = 0;
    list[..end.unwrap_or(list.len())].split(move |c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    })
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
