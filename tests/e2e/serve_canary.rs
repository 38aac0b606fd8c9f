//! What callers send, what they show to get in, and the bytes of keys show in nothing that the
//! service tells anyone else.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::instance::{Instance, SUPPORT, ServeProcess, Setup, corp};
use crate::key_bytes::{assert_absent, files, secrets};
use crate::testing::TestIssuer;

const EVENT: &str = r#"{"type":"customer.updated","customer":{"id":42,"email":"ada-canary-5a1f@example.com","ssn":"078-05-1120","phone":"+1 415 555 0101","address":"Canary-5a1f Road 7"},"payments":[{"card":"4242424242424242"}]}"#;
/// In lower case.
const CLEAR: [&str; 6] =
    ["canary-5a1f", "078-05-1120", "078051120", "555 0101", "5550101", "4242424242424242"];
/// What a request says of itself: for the audit log alone.
const TOLD: [&str; 2] = ["reason-7c2e", "person-7c2e"];
const PATHS: [&str; 5] = ["/v1/reveal", "/v1/explain", "/v1/index", "/v1/seal", "/v1/subject-ref"];
/// Values where something else belongs.
const MISPLACED: [&str; 13] = [
    "canary-5a1f",
    r#"{"purpose":"support","items":[canary-5a1f]}"#,
    r#"["canary-5a1f"]"#,
    r#"{"purpose":"canary-5a1f","items":[],"queries":[]}"#,
    r#"{"purpose":"canary-5a1f","reason":"reason-7c2e","items":[]}"#,
    r#"{"purpose":["canary-5a1f"],"items":[]}"#,
    r#"{"purpose":"support","canary-5a1f":"canary-5a1f","items":[]}"#,
    r#"{"purpose":"support","want":"canary-5a1f","items":[]}"#,
    r#"{"purpose":"support","request_id":"canary-5a1f/","items":[]}"#,
    r#"{"purpose":"support","items":"canary-5a1f","queries":"canary-5a1f"}"#,
    r#"{"purpose":"support","items":["canary-5a1f",{"canary-5a1f":1}]}"#,
    r#"{"purpose":"support","items":[{"field":"canary-5a1f","token":"canary-5a1f"},
        {"field":"customers.email","token":"canary-5a1f@example.com","subject":"canary-5a1f"},
        {"field":"customers.email","token":"vs1.canary-5a1f","bind":{"canary-5a1f":"canary-5a1f"}},
        {"schema":"canary-5a1f","fields":["canary-5a1f"],"record":{"canary-5a1f":"canary-5a1f"}},
        {"schema":"customers","record":{"customer":{"id":42,"email":"canary-5a1f","ssn":7}}},
        {"field":"canary-5a1f","value":"canary-5a1f"},
        {"field":"customers.ssn","value":{"canary-5a1f":1},"bind":{"canary-5a1f":1}},
        {"schema":"canary-5a1f","subject":"canary-5a1f"}]}"#,
    r#"{"purpose":"support","queries":[{"field":"canary-5a1f","value":"canary-5a1f"},
        {"field":"customers.ssn","values":["canary-5a1f","078-05-1120"]},"canary-5a1f"]}"#,
];

/// A running service with what its callers have.
struct Desk {
    instance: Instance,
    issuer: TestIssuer,
    running: ServeProcess,
    client: Client,
    key: String,
}

impl Desk {
    fn new() -> Self {
        let issuer = TestIssuer::start();
        let serve = format!("insecure = true\nprincipals = [\"jwt\", \"key\"]\n{}", corp(&issuer));
        let policy = format!("{SUPPORT}[[policy.budgets]]\nsubjects = 1\n");
        let cedar = r#"permit(principal in Role::"support", action, resource);"#;
        let setup = Setup { serve: &serve, policy: &policy, cedar, ..Setup::default() };
        let instance = Instance::of(&setup);
        let (_, key) = instance.make_key_of("desk", "support");
        let running = instance.start_with(|command| {
            command.env("VEILSTREAM__LOG__LEVEL", "trace");
        });
        Self { instance, issuer, running, client: Client::new(), key }
    }

    fn to(&self, path: &str, media: &str, body: impl Into<Vec<u8>>) -> RequestBuilder {
        let asked = self.client.post(format!("http://{}{path}", self.running.address));
        asked.header("content-type", media).body(body.into())
    }

    fn get(&self, path: &str) -> String {
        let address = &self.running.http;
        reqwest::blocking::get(format!("http://{address}{path}")).unwrap().text().unwrap()
    }

    /// Reads, searches and seals as somebody who may.
    fn use_it(&self, bearer: &str) {
        let record = self.instance.seal("customers", EVENT).remove(0);
        let other = self.instance.seal("customers", &EVENT.replace("42,", "43,")).remove(0);
        let post = |path: &str, of: &str, items: Value| {
            let mut body =
                json!({ "purpose": "support", "reason": TOLD[0], "on_behalf_of": TOLD[1] });
            body[of] = items;
            let (status, answer) = self.running.post(&self.client, bearer, path, &body);
            assert_eq!(status, 200, "{answer}");
            answer.to_string()
        };
        let items = json!([{ "schema": "customers", "record": record }]);
        let said = post("/v1/reveal", "items", items.clone());
        assert!(CLEAR[0..2].iter().all(|clear| said.to_lowercase().contains(clear)), "{said}");
        let said = format!("{{\"purpose\":\"support\"}}\n{}\n", items[0]);
        let stream = self.to("/v1/reveal", "application/x-ndjson", said).bearer_auth(bearer);
        let said = stream.send().unwrap().text().unwrap();
        assert!(said.contains("\"summary\":{"), "{said}");
        post("/v1/explain", "items", items);
        // The budget is of one person.
        let said = post("/v1/reveal", "items", json!([{ "schema": "customers", "record": other }]));
        assert!(!said.contains("revealed"), "{said}");
        let value = "bob-canary-5a1f@example.com";
        let queries = json!([{ "field": "customers.email", "value": value }]);
        assert!(post("/v1/index", "queries", queries).contains("\"ok\":1"));
        let items = json!([{ "field": "customers.email", "value": value, "subject": "canary-5a1f" },
            { "field": "customers.card", "value": "4242424242424242" }]);
        assert!(post("/v1/seal", "items", items).contains("\"sealed\":2"));
        let items = json!([{ "schema": "customers", "subject": "canary-5a1f" }]);
        assert!(post("/v1/subject-ref", "items", items).contains("subject_ref"));
    }

    /// Requests that are refused as a whole, or have values where something else belongs.
    fn misplaced(&self) -> Vec<RequestBuilder> {
        let json = "application/json";
        let mut asked = Vec::new();
        for body in MISPLACED {
            asked.extend(PATHS.map(|path| self.to(path, json, body)));
            let lines = body.replace('\n', " ");
            asked.push(self.to("/v1/reveal", "application/x-ndjson", lines.clone()));
            let lines = format!("{{\"purpose\":\"support\"}}\n{lines}\n");
            asked.push(self.to("/v1/reveal", "application/x-ndjson", lines));
        }
        let id =
            |purpose: &str| format!(r#"{{"purpose":"{purpose}","request_id":"r","items":[]}}"#);
        asked.extend(["support", "canary-5a1f"].map(|p| self.to("/v1/reveal", json, id(p))));
        let empty = || self.to("/v1/reveal", json, id("support"));
        asked.extend([
            self.to("/v1/canary-5a1f?email=canary-5a1f", json, "{}"),
            self.client.get(format!("http://{}/v1/reveal?canary-5a1f", self.running.address)),
            self.to("/v1/reveal?canary-5a1f=canary-5a1f", json, "{}"),
            self.to("/v1/reveal", "text/canary-5a1f", "{}"),
            self.to("/v1/reveal", json, "canary-5a1f".repeat(1 << 20)),
            empty().header("content-encoding", "canary-5a1f"),
            empty().header("canary-5a1f", "canary-5a1f".repeat(2_000)),
            empty().header("veilstream-on-behalf-of", "canary-5a1f"),
            empty().header("x-forwarded-for", "canary-5a1f"),
            empty().header("cookie", "canary-5a1f"),
            self.client.request(
                Method::from_bytes(b"CANARY-5A1F").unwrap(),
                format!("http://{}/v1/reveal", self.running.address),
            ),
        ]);
        asked
    }
}

#[test]
fn nothing_of_callers_and_no_key_shows_in_what_is_told_of_requests() {
    let mut desk = Desk::new();
    let token = desk.issuer.token(|claims| {
        claims["roles"] = json!(["support", "canary-5a1f"]);
        claims["canary-5a1f"] = "canary-5a1f".into();
    });
    let expired = desk.issuer.token(|claims| claims["exp"] = 1.into());
    desk.use_it(&desk.key);
    desk.use_it(&token);
    let (mut codes, mut problems) = (BTreeSet::new(), Vec::new());
    let mut refused: Vec<RequestBuilder> =
        desk.misplaced().into_iter().map(|asked| asked.bearer_auth(&desk.key)).collect();
    for bearer in ["canary-5a1f", &expired, &desk.key[..desk.key.len() - 1]] {
        refused.push(desk.to("/v1/reveal", "application/json", "{}").bearer_auth(bearer));
    }
    for asked in refused {
        // The other end may close before the client has written all.
        let Ok(answer) = asked.send() else { continue };
        if answer.status().is_success() {
            continue;
        }
        let problem: Value = answer.json().unwrap();
        codes.insert(problem["code"].as_str().unwrap().to_owned());
        problems.push(problem.to_string());
    }
    for code in [
        "bad_request",
        "content_encoding",
        "content_type",
        "headers_too_large",
        "method_not_allowed",
        "not_found",
        "not_json",
        "request_id",
        "unauthorized",
    ] {
        assert!(codes.contains(code), "no {code} among {codes:?}");
    }
    let metrics = desk.get("/metrics");
    let purposes = metrics.lines().filter_map(|line| line.split("purpose=\"").nth(1));
    let purposes: BTreeSet<&str> = purposes.filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(purposes, BTreeSet::from(["", "support"]), "the budget's denials, by purpose");
    let mut written: Vec<(String, Vec<u8>)> =
        ["/status", "/readyz"].map(|path| (path.to_owned(), desk.get(path).into_bytes())).into();
    written.push(("/metrics".to_owned(), metrics.into_bytes()));
    written.push(("problems".to_owned(), problems.concat().into_bytes()));
    assert_eq!(desk.running.stop(), 0);
    let log = desk.running.log();
    assert!(log.contains("VEILSTREAM__LOG__LEVEL"), "not at trace: {log}");
    // One line a request, which the canaries below are looked for in.
    let told = desk.running.told("request answered");
    let ok = |line: &&Value| line["status"] == 200 && line["route"] == "/v1/reveal";
    let read = told.iter().filter(ok).find(|line| line["actor"] == "key:desk").unwrap();
    assert_eq!((&read["method"], &read["items"]), (&json!("POST"), &json!(1)), "{read}");
    assert!(read["outcome"].as_str().unwrap().contains("\"revealed\":"), "{read}");
    assert!(read["took_ms"].is_u64(), "{read}");
    assert!(told.iter().any(|line| line["request_id"] == "r"), "{told:?}");
    for (member, value) in
        [("code", "unauthorized"), ("code", "not_found"), ("route", "none"), ("method", "other")]
    {
        assert!(told.iter().any(|line| line[member] == value), "{member} {value}: {told:?}");
    }
    let streams = desk.running.told("stream ended");
    assert!(streams.iter().any(|line| line["items"] == 1), "{streams:?}");
    written.push(("the log".to_owned(), log.into_bytes()));

    // Starts that fail: another key-encrypting key, and a configuration with a password.
    let keys = secrets(Path::new(&desk.instance.path("keys")));
    let (kek, toml) = (desk.instance.read("keys/kek"), desk.instance.read("veilstream.toml"));
    desk.instance.write("keys/kek", &kek.chars().rev().collect::<String>());
    let (code, said) = desk.instance.refused();
    assert_ne!(code, 0, "{said}");
    written.push(("a start with another kek".to_owned(), said.into_bytes()));
    desk.instance.write("keys/kek", &kek);
    let audit = "[audit]\npostgres = \"postgres://canary-5a1f:canary-5a1f@127.0.0.1:1/a\"\n";
    desk.instance.write("veilstream.toml", &toml.replace("[audit]\n", audit));
    let (code, said) = desk.instance.refused();
    assert_ne!(code, 0, "{said}");
    written.push(("a start with a password".to_owned(), said.into_bytes()));
    desk.instance.write("veilstream.toml", &toml);

    for file in files(Path::new(&desk.instance.path("."))) {
        if !file.ends_with("keys/kek") {
            written.push((file.display().to_string(), fs::read(&file).unwrap()));
        }
    }
    assert!(keys.len() > 6, "kek, store key, roots, wrapping, people's, shared: {}", keys.len());
    assert_absent(&keys, &written);
    let parts = |token: &str| token.split('.').skip(1).map(str::to_lowercase).collect::<Vec<_>>();
    let mut canaries: Vec<String> = CLEAR.map(str::to_owned).into();
    canaries.extend(parts(&token).into_iter().chain(parts(&expired)));
    canaries.push(desk.key.split('_').nth(2).unwrap().to_lowercase());
    for (place, bytes) in &written {
        let text = String::from_utf8_lossy(bytes).to_lowercase();
        for canary in &canaries {
            assert!(!text.contains(canary), "{canary} stands in {place}");
        }
        let is_audit = place.ends_with("audit.jsonl");
        for told in TOLD {
            assert_eq!(text.contains(told), is_audit, "{told} in {place}");
        }
    }
}

#[test]
fn the_service_leaves_no_core_dump() {
    let instance = Instance::new("insecure = true\n");
    let mut running = instance.start();
    let place = format!("/proc/{}", running.child.id());
    let limits = fs::read_to_string(format!("{place}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    let ends: Vec<&str> = line.split_whitespace().skip(4).take(2).collect();
    assert_eq!(ends, ["0", "0"], "soft and hard: {line}");
    // Where no dump may be written at all, even to a program, its files are root's.
    assert_eq!(fs::metadata(format!("{place}/environ")).unwrap().uid(), 0);
    running.signal(Signal::ABORT);
    let ended = running.child.wait().unwrap();
    assert_eq!((ended.signal(), ended.core_dumped()), (Some(Signal::ABORT.as_raw()), false));
}
