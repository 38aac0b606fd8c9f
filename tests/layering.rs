//! What may know what (docs/design.md): floors of the sidecar, crates below it, and the engine,
//! which does no IO.

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
    let found: Vec<_> = tree
        .iter()
        .filter(|name| BANNED.contains(&name.as_str()) || name.as_str() == "veilstream-keys")
        .collect();
    assert!(found.is_empty(), "the engine depends on {found:?}");
}

#[test]
fn the_keys_know_neither_kafka_nor_http() {
    let tree = dependencies("veilstream-keys");
    let found: Vec<_> = tree
        .iter()
        .filter(|name| ["rdkafka", "rdkafka-sys", "axum", "veilstream"].contains(&name.as_str()))
        .collect();
    assert!(found.is_empty(), "the keys depend on {found:?}");
}

#[test]
fn reading_knows_neither_kafka_nor_http() {
    let tree = dependencies("veilstream-reading");
    assert!(tree.iter().any(|name| name == "hpke"), "not the tree of reading: {tree:?}");
    let found: Vec<_> = tree
        .iter()
        .filter(|name| ["rdkafka", "rdkafka-sys", "axum", "veilstream"].contains(&name.as_str()))
        .collect();
    assert!(found.is_empty(), "reading depends on {found:?}");
}

/// From, to, why all the same.
const UPWARDS: [(&str, &str, &str); 1] = [(
    "config",
    "kafka",
    "which librdkafka properties and mechanisms may be set is a matter of the client, and a \
    configuration is judged as a whole",
)];

/// The floors of CONTRIBUTING.md, the uppermost first.
#[test]
fn nothing_imports_from_a_floor_above() {
    let text = std::fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let list = text
        .split("## Floors")
        .nth(1)
        .and_then(|text| text.split("```text\n").nth(1))
        .and_then(|text| text.split("```").next())
        .unwrap();
    let floors: Vec<Vec<&str>> =
        list.lines().map(|line| line.split_whitespace().collect()).collect();
    let source = root().join("src");
    let floor = |name: &str| match name {
        "main" | "lib" => Some(0),
        _ => floors.iter().position(|parts| parts.contains(&name)).map(|floor| floor + 1),
    };
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let (mut count, mut used) = (0, Vec::new());
    for file in files {
        let place = file.strip_prefix(&source).unwrap().with_extension("");
        let path: Vec<&str> = place.iter().map(|part| part.to_str().unwrap()).collect();
        let from = path[0];
        let above = floor(from).unwrap_or_else(|| {
            panic!("{} has no floor yet: give it one in CONTRIBUTING.md", file.display())
        });
        for (line, to) in imports(&std::fs::read_to_string(&file).unwrap(), path.len()) {
            count += 1;
            // Others are items of the crate's root.
            let Some(below) = floor(&to) else {
                panic!("{}:{line}: {to} has no floor", file.display())
            };
            if let Some(exception) = UPWARDS.iter().find(|(f, t, _)| *f == from && *t == to) {
                used.push(exception.0);
                continue;
            }
            assert!(
                below >= above,
                "{}:{line}: {from} imports from {to}, a floor above",
                file.display()
            );
        }
    }
    assert!(count > 200, "{count} imports: these are not all");
    assert!(
        UPWARDS.iter().all(|(from, ..)| used.contains(from)),
        "an exception is needed no more: take it away"
    );
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::{a::X, b::{C, D}, e};\n// crate::no\nlet x = crate::f::g();\nuse \
        super::super::h::I;\nuse super::near;\nuse crate::{\n    j::K,\n    \
        l,\n};\n#[cfg(test)]\nmod tests {\n    use crate::no;\n}\n";
    let found = imports(text, 2);
    assert_eq!(
        found,
        [(1, "a"), (1, "b"), (1, "e"), (3, "f"), (4, "h"), (6, "j"), (6, "l")]
            .map(|(line, name)| (line, name.to_owned()))
    );
}

/// The parts that production code names, with their lines; `depth`: how many `super` lead to the
/// crate's root.
fn imports(text: &str, depth: usize) -> Vec<(usize, String)> {
    let name = |text: &str| {
        text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>()
    };
    let production = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines: Vec<&str> = production
        .lines()
        .map(|line| if line.trim_start().starts_with("//") { "" } else { line })
        .collect();
    let (code, to_root) = (lines.join("\n"), "super::".repeat(depth));
    let mut found = Vec::new();
    for root in ["crate::", &to_root] {
        for (at, _) in code.match_indices(root) {
            let (before, after) = (&code[..at], &code[at + root.len()..]);
            if before.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$')
                || before.ends_with("super::")
            {
                continue;
            }
            let line = before.matches('\n').count() + 1;
            match after.strip_prefix('{') {
                None => found.push((line, name(after))),
                Some(list) => found.extend(members(list).map(|member| (line, name(member)))),
            }
        }
    }
    found.sort();
    found
}

/// The members of a list in braces, without its opening one.
fn members(list: &str) -> impl Iterator<Item = &str> {
    let (mut open, mut starts, mut end) = (0, vec![0], list.len());
    for (at, c) in list.char_indices() {
        match c {
            '{' => open += 1,
            '}' if open == 0 => {
                end = at;
                break;
            }
            '}' => open -= 1,
            ',' if open == 0 => starts.push(at + 1),
            _ => {}
        }
    }
    starts
        .into_iter()
        .map(move |start| list[start..end].trim_start())
        .filter(|member| !member.is_empty())
}

/// Decisions are events in, actions out: another client could take librdkafka's place, and a
/// simulator can drive them.
#[test]
fn the_core_of_the_pipeline_knows_no_kafka_and_no_clock() {
    const WORDS: [&str; 8] = [
        "rdkafka",
        "kafka::ffi",
        "kafka::producer",
        "kafka::client",
        "kafka::topics",
        "Instant::now",
        "SystemTime",
        "std::thread",
    ];
    let mut files = vec![root().join("src/pipeline/core.rs")];
    rust_files(&root().join("src/pipeline/core"), &mut files);
    files.retain(|file| {
        !file
            .components()
            .any(|part| Path::new(&part).file_stem().is_some_and(|stem| stem == "simulator"))
    });
    assert!(files.len() > 6, "not the sources of the core: {files:?}");
    assert_without(&files, &WORDS);
}

#[test]
fn unsafe_stands_where_foreign_code_is_met() {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    rust_files(&root().join("keys/src"), &mut files);
    rust_files(&root().join("reading/src"), &mut files);
    rust_files(&root().join("python/src"), &mut files);
    for ffi in ["src/kafka/ffi.rs", "python/src/ffi.rs"].map(|file| root().join(file)) {
        assert!(files.contains(&ffi));
        files.retain(|file| *file != ffi);
    }
    assert_without(&files, &["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]);
}

/// An error says whose fault it is by its type; a text can only be shown.
#[test]
fn errors_are_types() {
    let mut files = Vec::new();
    for dir in ["src", "engine/src", "keys/src", "python/src", "reading/src"] {
        rust_files(&root().join(dir), &mut files);
    }
    for file in files {
        // The simulator of the pipeline's core is a test; its verdicts are texts for people.
        if file.ends_with("core/simulator.rs") || file.parent().unwrap().ends_with("cluster") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        for (line, number) in text.lines().zip(1..) {
            let line = line.replace("BTreeMap<String, String>", "");
            let is_text = line.contains("Result<") && line.contains(", String>")
                || line.contains("type Err = String")
                || line.contains("type Error = String");
            assert!(!is_text, "{}:{number}: an error that is a text", file.display());
        }
    }
}

#[test]
fn the_engine_names_no_io() {
    const WORDS: [&str; 9] = [
        "std::fs",
        "std::env",
        "std::net",
        "std::process",
        "std::thread",
        "std::io",
        "SystemTime",
        "Instant::now",
        "unsafe ",
    ];
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
        for (i, line) in
            production.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//"))
        {
            let word = words.iter().find(|word| line.contains(**word));
            assert!(word.is_none(), "{}:{}: {}", file.display(), i + 1, word.unwrap());
        }
    }
}

/// A client made elsewhere would get no new credentials, and nobody would hear why a broker refuses
/// it.
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
            assert!(
                places.iter().any(|place| file.ends_with(place)),
                "{} makes a client ({maker}); let src/kafka/client.rs make it",
                file.display()
            );
            found += 1;
        }
    }
    assert_eq!(found, 3, "these are not the words any more with which clients are made");
}

/// Names of all normal dependencies, direct and indirect.
fn dependencies(package: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            package,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Cargo reads the manifest of each member before it builds any.
#[test]
fn the_image_is_built_of_every_crate() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")).unwrap();
    let image = std::fs::read_to_string(root().join("deploy/Dockerfile")).unwrap();
    for member in members.trim_end_matches(']').split(", ").map(|name| name.trim_matches('"')) {
        assert!(image.contains(&format!("\nCOPY {member} {member}\n")), "{member}");
    }
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
