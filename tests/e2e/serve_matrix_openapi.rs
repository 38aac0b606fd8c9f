//! The interface as its document says it: schemathesis asks the running service what the document
//! allows, and what it does not. The service answers nothing that the document lacks.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use reqwest::blocking::Client;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::instance::{Instance, Setup, shipped};
use crate::serve_matrix_roles::seed;

/// Requests of each kind and path.
const EXAMPLES: &str = "60";

#[test]
fn schemathesis_finds_nothing() {
    let program = shipped("target/schemathesis/bin/schemathesis");
    assert!(program.exists(), "no schemathesis in target; run `make setup`");
    let serve = "insecure = true\nitems_per_second = 10000000\n";
    let instance = Instance::of(&Setup { serve, ..Setup::default() });
    let (_, key) = instance.make_key("desk");
    let mut running = instance.start();
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(program)
        .current_dir(folder.path())
        .env("SCHEMATHESIS_HOOKS", shipped("tests/support/schemathesis_hooks.py"))
        .args(["run", &format!("http://{}/openapi.json", running.address)])
        .args(["--header", &format!("Authorization: Bearer {key}")])
        .args(["--checks", "all", "--max-examples", EXAMPLES, "--seed", &seed().to_string()])
        .args(["--workers", "1", "--no-color", "--continue-on-failure"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(running.stop(), 0);
    assert!(!running.log().contains("a request failed"), "{}", running.log());
    assert!(instance.verify().status.success());
}

/// Each path answers the methods and content types of the document, and no others.
#[test]
fn the_document_has_each_method_and_content_type() {
    let instance = Instance::new("insecure = true\n");
    let (_, key) = instance.make_key("desk");
    let running = instance.start();
    let client = Client::new();
    let ask = |method: &Method, path: &str, media: &str| {
        let asked = client.request(method.clone(), format!("http://{}{path}", running.address));
        asked.bearer_auth(&key).header("content-type", media).body("{}").send().unwrap()
    };
    let document: Value = ask(&Method::GET, "/openapi.json", "").json().unwrap();
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        let operations = operations.as_object().unwrap();
        let (allowed, operation) = operations.iter().next().unwrap();
        assert_eq!(operations.len(), 1, "{path}");
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let answer = ask(&method, path, "application/json");
            let is_allowed = method.as_str().eq_ignore_ascii_case(allowed);
            let is_refused = answer.status() == StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(is_refused, !is_allowed, "{method} {path}");
            if is_refused {
                assert!(answer.headers()["allow"].to_str().unwrap().eq_ignore_ascii_case(allowed));
            }
        }
        let Some(content) = operation.pointer("/requestBody/content") else { continue };
        for media in ["application/json", "application/x-ndjson", "text/plain"] {
            let answer = ask(&Method::POST, path, media);
            let is_refused = answer.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE;
            assert_eq!(is_refused, content.get(media).is_none(), "{media} {path}");
        }
    }
}

/// The source of the service, but for its tests.
fn sources(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut text = String::new();
    for path in entries.filter(|path| !path.to_str().unwrap().contains("test")) {
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|end| end == "rs") {
            text += &std::fs::read_to_string(&path).unwrap();
        }
    }
    text
}

#[test]
fn the_document_has_each_status_and_code_of_a_problem() {
    let text = std::fs::read_to_string(shipped("src/serve/openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let listed = |name: &str| -> BTreeSet<String> {
        let listed =
            document.pointer(&format!("/components/schemas/Problem/properties/{name}/enum"));
        let listed = listed.unwrap().as_array().unwrap().iter();
        listed.map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect()
    };
    let text = sources(&shipped("src/serve"));
    let found = |pattern: &str| -> BTreeSet<String> {
        let pattern = Regex::new(pattern).unwrap();
        pattern.captures_iter(&text).map(|found| found[1].to_owned()).collect()
    };
    let number = |name: &String| {
        let named =
            (400..600).filter_map(|number| StatusCode::from_u16(number).ok()).find(|status| {
                status.canonical_reason().unwrap_or_default().to_uppercase().replace(' ', "_")
                    == *name
            });
        named.unwrap_or_else(|| panic!("{name} is no status of a problem")).as_str().to_owned()
    };
    let statuses = found(r"StatusCode::([A-Z_]{4,})");
    assert_eq!(listed("status"), statuses.iter().map(number).collect());
    let codes = found(r#"(?:StatusCode::[A-Z_]+,|\bbad\(|\bunavailable\()\s*"([a-z_]+)""#);
    assert_eq!(listed("code"), codes);
}
