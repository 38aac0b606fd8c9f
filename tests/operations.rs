//! The runbooks of docs/operations.md and docs/usage.md, run as they stand there.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

use std::path::Path;
use std::process::Command;

struct Runbook<'t> {
    name: &'t str,
    after: Option<&'t str>,
    script: &'t str,
}

/// The blocks that follow a line `<!-- run: NAME, after: NAME -->`.
fn runbooks(text: &str) -> Vec<Runbook<'_>> {
    let marked = text.split("<!-- run: ").skip(1);
    marked
        .map(|rest| {
            let (head, rest) = rest.split_once(" -->\n```sh\n").unwrap();
            let (script, _) = rest.split_once("```").unwrap();
            let (name, after) = head
                .split_once(", after: ")
                .map_or((head, None), |(name, after)| (name, Some(after)));
            Runbook { name, after, script }
        })
        .collect()
}

fn run(books: &[Runbook<'_>], name: &str, folder: &Path) -> String {
    let book =
        books.iter().find(|book| book.name == name).unwrap_or_else(|| panic!("no runbook {name}"));
    let before = book.after.map(|after| run(books, after, folder)).unwrap_or_default();
    let binary = Path::new(env!("CARGO_BIN_EXE_veilstream")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", book.script])
        .current_dir(folder)
        .env("PATH", path)
        .env_remove("VEILSTREAM_KEYS")
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "runbook {name}: {}\n{said}", output.status);
    before + &said
}

#[test]
fn every_runbook_works_as_it_stands() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = ["docs/operations.md", "docs/usage.md"]
        .map(|name| std::fs::read_to_string(root.join(name)).unwrap())
        .concat();
    let books = runbooks(&text);
    // What each must have shown, beside ending well.
    let expected: [(&str, &[&str]); 14] = [
        ("install", &["made ", "key-encrypting key file, version 1"]),
        ("rotate", &["file: version 2", " moved, ", "key-encrypting key file, version 2"]),
        ("index", &["1~", "2~", "is retired"]),
        ("lost-kek", &["another key-encrypting key", " recovered, ", "ada@example.com"]),
        ("api-keys", &["reports", "active", "analyst"]),
        ("revoke-api-keys", &[" revoked", "reports"]),
        (
            "erase",
            &["canary erased: yes", "\"status\":\"erased\"", "\"reason\":\"erased_subject\""],
        ),
        (
            "restore",
            &[
                "1 keys were there again and are destroyed",
                "keys destroyed: yes",
                "\"status\":\"erased\"",
            ],
        ),
        ("ledger", &["line 0 is missing", "names 1 data subjects", "\"status\":\"erased\""]),
        (
            "audit",
            &[
                "the log is whole",
                "\"event\": \"shred\"",
                "\"event\":\"audit_read\"",
                "proved: line 1",
            ],
        ),
        ("access-request", &["ada@example.com", "\"event\": \"reveal\""]),
        ("escrow", &["keys imported"]),
        ("local", &["made ", "\"email\":\"ada@example.com\"", "1~"]),
        ("table", &[]),
    ];
    assert_eq!(
        books.iter().map(|book| book.name).collect::<Vec<_>>(),
        expected.map(|(name, _)| name)
    );
    for (name, parts) in expected {
        let sandbox = tempfile::tempdir().unwrap();
        std::fs::create_dir(sandbox.path().join("schemas")).unwrap();
        for file in ["schemas/customers.json", "schemas/customers.cases.json"] {
            std::fs::copy(root.join(file), sandbox.path().join(file)).unwrap();
        }
        let said = run(&books, name, sandbox.path());
        for part in parts {
            assert!(said.contains(part), "runbook {name} does not say {part:?}:\n{said}");
        }
        if name == "rotate" {
            assert!(
                !said.rsplit("moved, ").next().unwrap().contains("warning: "),
                "nothing is left to do:\n{said}"
            );
        }
    }
}
