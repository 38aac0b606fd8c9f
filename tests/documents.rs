//! References between documents, code and messages: each names a file, a heading or a setting that
//! is there.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

/// A heading as it is written, and as an address names it.
#[derive(Debug, Default)]
struct Headings {
    titles: BTreeSet<String>,
    anchors: BTreeSet<String>,
}

/// What is tracked and may hold a reference. Transcripts of commands (`tests/cmd`) repeat what the
/// code says.
const ENDINGS: [&str; 9] = ["md", "rs", "toml", "yml", "sh", "py", "json", "proto", "txt"];
const SKIPPED: [&str; 6] = ["target", "corpus", "artifacts", "found", "seeds", "vectors"];
/// Documents of others, and what a run writes.
const ELSEWHERE: [&str; 4] = [
    "CONFIGURATION.md",
    "target/bench/growth.md",
    "target/bench/latency.md",
    "target/bench/pipeline.md",
];

/// Sections whose keys are librdkafka's, or those of another section.
const OPEN_SECTIONS: [&str; 4] =
    ["kafka.client", "kafka.consumer", "kafka.producer", "keys.recovery"];
/// What looks like a setting and is a file.
const NO_SETTINGS: [&str; 2] = ["audit.key", "keys.erasures.jsonl"];

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let documents = documents();
    let mut found = 0;
    let mut faults = Vec::new();
    for (path, text) in &documents {
        for (line, target) in links(text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            found += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() {
                path.clone()
            } else {
                normal(&path.parent().unwrap().join(file))
            };
            let has_anchor =
                || documents.get(&file).is_some_and(|text| headings(text).anchors.contains(anchor));
            if !root().join(&file).exists() {
                faults.push(format!("{}:{line}: {target}: no such file", path.display()));
            } else if !anchor.is_empty() && !has_anchor() {
                faults.push(format!("{}:{line}: {target}: no such heading", path.display()));
            }
        }
    }
    assert!(found > 100, "only {found} links were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_document_that_is_named_is_there() {
    let mut found = 0;
    let mut faults = Vec::new();
    for (path, text) in &texts() {
        for (line, name, _) in named_documents(text) {
            found += 1;
            if resolve(path, name).is_none() && !ELSEWHERE.contains(&name) {
                faults.push(format!("{}:{line}: {name}: no such document", path.display()));
            }
        }
    }
    assert!(found > 60, "only {found} names of documents were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Behind the document's name and a comma, in quotation marks, several with "and"; or before it,
/// with "in".
#[test]
fn every_heading_that_is_named_is_there() {
    let documents = documents();
    let mut found = 0;
    let mut faults = Vec::new();
    for (path, text) in &texts() {
        for (line, name, titles) in named_documents(text) {
            // What a run wrote may be there, and has no headings that anything names.
            let Some(document) = resolve(path, name).filter(|_| !ELSEWHERE.contains(&name)) else {
                continue;
            };
            let there = headings(&documents[&document]).titles;
            for title in titles {
                found += 1;
                if !there.contains(&title) {
                    faults.push(format!(
                        "{}:{line}: {name} has no heading \"{title}\"",
                        path.display()
                    ));
                }
            }
        }
    }
    assert!(found > 15, "only {found} headings were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The list at the head of a document has its chapters, in their order.
#[test]
fn lists_of_contents_are_complete() {
    let mut found = 0;
    for (path, text) in &documents() {
        let (head, _) = text.split_once("\n## ").unwrap_or((text, ""));
        let listed: Vec<&str> = head
            .lines()
            .filter_map(|line| line.strip_prefix("- [")?.split_once("](#").map(|(title, _)| title))
            .collect();
        if listed.is_empty() {
            continue;
        }
        found += 1;
        let prose = without_blocks(text);
        let chapters: Vec<&str> =
            prose.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(
            listed,
            chapters,
            "left: the list at the head of {}, right: its chapters",
            path.display()
        );
    }
    assert!(found >= 4, "only {found} lists of contents were found");
}

#[test]
fn documents_wrap_at_100_columns() {
    let documents = documents();
    for (path, text) in &documents {
        let prose = without_blocks(text);
        let long = prose.lines().find(|line| !line.starts_with('|') && line.chars().count() > 100);
        assert_eq!(long, None, "{} has a line of more than 100 columns", path.display());
    }
    assert!(documents.len() > 10, "only {} documents were found", documents.len());
}

/// Settings are those of docs/configuration.md, which a test of the configuration compares with the
/// code. Prose names them, and so do blocks of TOML.
#[test]
fn every_setting_that_is_named_is_there() {
    let documents = documents();
    let known = settings(&documents[Path::new("docs/configuration.md")]);
    assert!(known.len() > 100, "only {} settings were found", known.len());
    let sections: BTreeSet<&str> =
        known.iter().filter_map(|name| Some(name.split_once('.')?.0)).collect();
    let is_there = |name: &str| {
        let section = format!("{}.", name.trim_end_matches('.'));
        known.contains(name)
            || known.iter().any(|known| known.starts_with(&section))
            || name.starts_with('.') && known.iter().any(|known| known.ends_with(name))
            || OPEN_SECTIONS.iter().any(|open| name.starts_with(open))
    };
    let mut found = 0;
    let mut faults = Vec::new();
    for (path, text) in &documents {
        for (line, name) in named_settings(text, &sections) {
            found += 1;
            if !is_there(&name) {
                faults.push(format!("{}:{line}: {name}: no such setting", path.display()));
            }
        }
    }
    assert!(found > 250, "only {found} names of settings were found");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What a newcomer reads before the first command.
#[test]
fn the_readme_is_short() {
    let words =
        std::fs::read_to_string(root().join("README.md")).unwrap().split_whitespace().count();
    assert!(
        words <= 1100,
        "README.md has {words} words; move what a newcomer does not ask first to docs/"
    );
}

#[test]
fn maps_of_modules_are_complete() {
    for crate_root in ["src/lib.rs", "engine/src/lib.rs", "keys/src/lib.rs", "reading/src/lib.rs"] {
        let text = std::fs::read_to_string(root().join(crate_root)).unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("//! |"));
        let first = rows.filter_map(|row| row.split('|').next());
        let mapped: BTreeSet<&str> = first
            .flat_map(|cell| cell.split('`').skip(1).step_by(2))
            .filter(|name| !name.contains("::"))
            .collect();
        let modules = text.lines().filter_map(|line| {
            line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?.strip_suffix(';')
        });
        assert_eq!(
            mapped,
            modules.collect(),
            "left: the map at the head of {crate_root}, right: its modules"
        );
    }
}

/// Every text that may refer to a document, by its path.
fn texts() -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    collect(root(), &mut files);
    files
}

fn documents() -> BTreeMap<PathBuf, String> {
    texts()
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|ending| ending == "md"))
        .collect()
}

fn collect(folder: &Path, into: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            // A folder with a point at its start is no part of the project, except for CI.
            if !SKIPPED.contains(&name.as_str()) && (!name.starts_with('.') || name == ".ci") {
                collect(&path, into);
            }
        } else if name == "Makefile"
            || name == "Dockerfile"
            || path.extension().is_some_and(|e| ENDINGS.iter().any(|ending| e == *ending))
        {
            // Malformed inputs of tests are no text, and name nothing.
            let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            into.insert(path.strip_prefix(root()).unwrap().to_owned(), text);
        }
    }
}

/// Targets of `[text](target)` outside of blocks, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut is_block = false;
    for (line, number) in text.lines().zip(1..) {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
        }
        if is_block {
            continue;
        }
        let mut rest = line;
        while let Some(at) = rest.find("](") {
            rest = &rest[at + 2..];
            let Some(end) = rest.find(')') else { break };
            found.push((number, &rest[..end]));
        }
    }
    found
}

/// Names in the first cells of the tables of settings.
fn settings(document: &str) -> BTreeSet<&str> {
    let tables = document.split("| setting | default | meaning |\n").skip(1);
    let rows = tables.flat_map(|table| table.lines().take_while(|line| line.starts_with('|')));
    rows.filter_map(|row| row.split(" | ").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect()
}

/// Settings and sections that a document names, with their lines: `section.key`, `section.`, and
/// `.key` where prose says no section.
fn named_settings(text: &str, sections: &BTreeSet<&str>) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut section = "";
    // The line that ends a block of TOML, or a configuration that a shell writes.
    let mut end = None;
    for (line, number) in text.lines().zip(1..) {
        if end == Some(line) {
            end = None;
        } else if end.is_some() {
            if let Some(name) = named_section(line) {
                section = name;
                found.push((number, format!("{name}.")));
            } else if let Some((key, _)) = line.split_once(" = ") {
                found.push((number, format!("{section}.{key}")));
            }
        } else if line == "```toml" {
            (section, end) = ("", Some("```"));
        } else if let Some(mark) = line.strip_prefix("cat > veilstream.toml <<") {
            (section, end) = ("", Some(mark.trim_matches('\'')));
        } else {
            let codes = line.split('`').skip(1).step_by(2);
            found.extend(codes.filter_map(|code| Some((number, named_setting(code, sections)?))));
        }
    }
    found
}

fn named_section(line: &str) -> Option<&str> {
    let name = line.strip_prefix('[')?.strip_suffix(']')?.trim_matches(['[', ']']);
    (is_setting(name) && name != "section").then_some(name)
}

/// What a piece of code in prose names: a section, a setting, or a key with its value.
fn named_setting(code: &str, sections: &BTreeSet<&str>) -> Option<String> {
    if let Some(section) = named_section(code) {
        return Some(format!("{section}."));
    }
    let (name, value) = code.split_once(" = ").unwrap_or((code, ""));
    if !is_setting(name) || NO_SETTINGS.contains(&name) {
        return None;
    }
    match name.split_once('.') {
        Some((section, _)) => sections.contains(section).then(|| name.to_owned()),
        None => value.starts_with('"').then(|| format!(".{name}")),
    }
}

fn is_setting(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-<>".contains(c))
}

/// Names that end with `.md`, the line, and the headings that are named with each. The text may run
/// over the ends of lines of a comment.
fn named_documents(text: &str) -> Vec<(usize, &str, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(".md") {
        let end = at + 3;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if text[end..].starts_with(is_name)
            && !text[end..].starts_with(". ")
            && !text[end..].starts_with(".\n")
            && !text[end..].starts_with("./")
        {
            continue;
        }
        let start = text[..at]
            .rfind(|c: char| !is_name(c))
            .map_or(0, |i| i + text[i..].chars().next().unwrap().len_utf8());
        let name = &text[start..end];
        if name == ".md" || name.starts_with('/') || text[..start].ends_with("://") {
            continue;
        }
        let line = text[..at].matches('\n').count() + 1;
        let mut titles = Vec::new();
        // Behind the name: `, "Title"`, and more of them.
        let mut rest = plain(&text[end..]);
        while let Some(behind) = rest
            .strip_prefix(", \"")
            .or_else(|| rest.strip_prefix(" and \"").filter(|_| !titles.is_empty()))
        {
            let Some((title, after)) = behind.split_once('"') else { break };
            titles.push(title.to_owned());
            rest = after.to_owned();
        }
        // Before it: `"Title" in `.
        let before = plain(
            &text[..start]
                .chars()
                .rev()
                .take(120)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect::<String>(),
        );
        if let Some(title) = before
            .trim_end_matches('`')
            .strip_suffix("\" in ")
            .and_then(|before| before.rsplit_once('"'))
        {
            titles.push(title.1.to_owned());
        }
        found.push((line, name, titles));
    }
    found
}

/// What follows or precedes a name, without the marks of code, comments and string literals.
fn plain(text: &str) -> String {
    let text: String = text.chars().take(400).collect();
    let text = text.replace("\\\"", "\"");
    let lines = text
        .lines()
        .map(|line| line.trim_start().trim_start_matches(['/', '!', '#']).trim_start())
        .collect::<Vec<_>>();
    // The first line keeps its start: it is what stands directly behind the name.
    let first = text.lines().next().unwrap_or("");
    let mut joined = first.to_owned();
    for line in lines.iter().skip(1) {
        joined.push(' ');
        joined.push_str(line);
    }
    joined.trim_start_matches('`').to_owned()
}

/// The document that a text means by a name: beside it, or from the root.
fn resolve(from: &Path, name: &str) -> Option<PathBuf> {
    let beside = normal(&from.parent().unwrap().join(name));
    let candidates = [normal(Path::new(name)), beside, Path::new("docs").join(name)];
    // What a bench wrote is no document of the project.
    candidates.into_iter().find(|path| !path.starts_with("target") && root().join(path).is_file())
}

fn headings(text: &str) -> Headings {
    let mut headings = Headings::default();
    for line in without_blocks(text).lines().filter(|line| line.starts_with('#')) {
        let title = line.trim_start_matches('#').trim();
        let anchor: String = title
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .collect();
        let anchor = anchor.replace(' ', "-");
        // The second of equal headings gets a number, as on GitHub.
        let number =
            (0..).find(|n| !headings.anchors.contains(&numbered(&anchor, *n))).unwrap_or(0);
        headings.anchors.insert(numbered(&anchor, number));
        headings.titles.insert(title.to_owned());
    }
    headings
}

fn numbered(anchor: &str, number: usize) -> String {
    if number == 0 { anchor.to_owned() } else { format!("{anchor}-{number}") }
}

fn without_blocks(text: &str) -> String {
    text.split("\n```").step_by(2).collect::<Vec<_>>().join("\n")
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.into_iter().collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
