//! Who gets into `veilstream serve`: the built binary, with keys, certificates and an issuer of
//! JWTs of its own. Needs no Kafka, so it is a binary of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod keys {
    pub(crate) use veilstream::keys::{CredentialSource, KeyFault, now};
}
#[allow(dead_code, reason = "shared with the tests of the matrix")]
#[path = "serve_instance.rs"]
mod instance;
#[path = "../../keys/tests/support/ports.rs"]
mod ports;
#[allow(dead_code, reason = "shared with the tests of the service")]
#[path = "../../src/serve/testing.rs"]
mod testing;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use instance::{Instance, SUPPORT, Setup, corp, done, veilstream};
use ports::free_port;
use rcgen::SanType;
use reqwest::StatusCode;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use testing::{Authority, Behaviour, Leaf, TestIssuer, until};

#[test]
fn an_api_key_opens_until_it_is_revoked() {
    let instance = Instance::new("insecure = true\n");
    let (id, key) = instance.make_key("reports");
    let (forged, forged_key) = instance.make_key("forged");
    let mut running = instance.start();
    let client = Client::new();
    let status = |token: &str| running.status(&client, "http", token);
    assert_eq!(status(&key), StatusCode::OK);
    let ready = reqwest::blocking::get(format!("http://{}/readyz", running.http)).unwrap();
    assert_eq!(ready.status(), StatusCode::OK);
    assert_eq!(status(&format!("{key}0")), StatusCode::UNAUTHORIZED);
    // One that is made while it runs.
    let (_, later) = instance.make_key("later");
    until("the new key is known", || {
        std::thread::park_timeout(Duration::from_millis(500));
        status(&later) == StatusCode::OK
    });
    let revoked = done(&mut instance.keys(&["revoke", &id]));
    let since = Instant::now();
    assert_eq!(String::from_utf8(revoked.stdout).unwrap(), format!("{id} revoked\n"));
    until("the key is refused", || status(&key) == StatusCode::UNAUTHORIZED);
    assert!(since.elapsed() <= Duration::from_secs(5), "refused after {:?}", since.elapsed());
    // Somebody writes the store who does not hold its key.
    let store = rusqlite::Connection::open(instance.path("keys/keys.db")).unwrap();
    let edit = "UPDATE credentials SET roles = 'admin' WHERE id = ?1";
    assert_eq!(store.execute(edit, [&forged]).unwrap(), 1);
    until("the alarm is there", || running.metrics().contains("veilstream_credentials_corrupt 1"));
    assert_eq!(status(&forged_key), StatusCode::UNAUTHORIZED);
    let listed = instance.keys(&["list", "--json"]).output().unwrap();
    assert_eq!(listed.status.code(), Some(1));
    let shown = String::from_utf8(listed.stdout).unwrap();
    assert!(shown.contains(r#""state":"revoked""#) && !shown.contains(&forged), "{shown}");
    assert!(String::from_utf8(listed.stderr).unwrap().contains(&forged));
    for cause in ["key_mistyped", "key_revoked", "key_unknown"] {
        assert!(running.metrics().contains(&format!("{{cause=\"{cause}\"}}")), "{cause}");
    }
    assert_eq!(running.stop(), 0);
    // Shown once: no secret is in the log, the list or the store.
    let log = running.log();
    assert!(log.contains(&id) && log.contains("login refused"), "{log}");
    for key in [&key, &forged_key, &later] {
        let secret = key.split('_').nth(2).unwrap();
        assert!(!log.contains(secret) && !shown.contains(secret));
        for file in ["keys/keys.db", "keys/keys.db-wal"] {
            let bytes = fs::read(instance.path(file)).unwrap_or_default();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
    }
}

#[test]
fn fields_are_read_under_policy_and_each_reading_is_audited() {
    let instance = Instance::new("insecure = true\n");
    let (_, key) = instance.make_key("desk");
    let event = r#"{"type":"customer.updated","customer":{"id":42,"email":"ada@example.com","ssn":"078-05-1120","phone":"+1 415 555 0101"}}"#;
    let mut protect = veilstream(&["transform", "--keys", &instance.path("keys"), "--schema"]);
    let mut child = protect
        .arg(instance.path("schemas/customers.json"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), event.as_bytes()).unwrap();
    let sealed = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    let sealed: Value = serde_json::from_str(&sealed).unwrap();
    let mut running = instance.start();
    let post = |path: &str, body: &Value| -> (StatusCode, Value) {
        let url = format!("http://{}{path}", running.address);
        let answer = Client::new().post(url).bearer_auth(&key).json(body).send().unwrap();
        (answer.status(), answer.json().unwrap())
    };
    let token = &sealed["customer"]["email"];
    let body = serde_json::json!({ "purpose": "support", "request_id": "r-1", "items": [
        { "id": "a", "schema": "customers", "fields": ["email", "phone", "ssn"], "record": sealed },
        { "id": "b", "field": "customers.email", "token": token, "subject": 42 },
        { "id": "c", "field": "customers.email", "token": token, "subject": 43 },
        { "id": "d", "field": "nowhere.email", "token": token },
        { "id": "e", "token": 1 },
        { "id": "f", "schema": "customers", "fields": ["canary-5a1f"], "record": sealed },
        { "id": "g", "schema": "canary-5a1f", "fields": ["canary-5a1f"], "record": sealed },
        { "id": "h", "field": "canary-5a1f", "token": token },
    ] });
    let (status, answer) = post("/v1/reveal", &body);
    assert_eq!(status, StatusCode::OK, "{answer}");
    let items = &answer["items"];
    assert_eq!(items[0]["record"]["customer"]["email"], "ada@example.com", "{answer}");
    assert_eq!(items[0]["record"]["customer"]["phone"], "********0101", "{answer}");
    assert_eq!(items[0]["record"]["customer"]["ssn"], Value::Null, "{answer}");
    assert!(items[0]["record"]["customer"].get("email_bidx").is_none(), "{answer}");
    let statuses = |item: &Value| item["fields"].clone();
    assert_eq!(
        statuses(&items[0]),
        serde_json::json!({ "email": { "status": "revealed" }, "phone": { "status": "masked" },
            "ssn": { "status": "denied" } })
    );
    assert_eq!(
        items[1],
        serde_json::json!({ "id": "b", "status": "revealed", "value": "ada@example.com" })
    );
    assert_eq!(items[2], serde_json::json!({ "id": "c", "status": "corrupt" }));
    assert_eq!(items[3], serde_json::json!({ "id": "d", "status": "denied" }));
    assert_eq!(items[4]["status"], "malformed");
    // A purpose that nobody configured, and a body that is none.
    let mut other = body.clone();
    (other["purpose"], other["request_id"]) = ("curiosity".into(), "r-2".into());
    let (_, denied) = post("/v1/reveal", &other);
    assert_eq!(denied["items"][0]["record"], Value::Null, "{denied}");
    assert_eq!(denied["items"][1], serde_json::json!({ "id": "b", "status": "denied" }));
    other["request_id"] = "r-1".into();
    let (status, problem) = post("/v1/reveal", &other);
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &"request_id".into()));
    // What to search for is what stands in the record.
    let query = serde_json::json!({ "purpose": "support", "queries": [
        { "id": 1, "field": "customers.email", "value": "Ada@Example.com" },
        { "id": 2, "field": "customers.ssn", "value": "078-05-1120" },
    ] });
    let (_, found) = post("/v1/index", &query);
    assert_eq!(found["queries"][0]["values"][0], sealed["customer"]["email_bidx"], "{found}");
    assert_eq!(found["queries"][1]["status"], "denied", "{found}");
    let (_, explained) = post(
        "/v1/explain",
        &serde_json::json!({ "purpose": "support",
        "items": body["items"] }),
    );
    assert_eq!(explained["items"][0]["fields"]["phone"]["status"], "masked", "{explained}");
    let metrics = running.metrics();
    assert!(metrics.contains(r#"veilstream_reveals_total{status="masked"} 1"#), "{metrics}");
    assert_eq!(running.stop(), 0);
    let log = fs::read_to_string(instance.path("audit.jsonl")).unwrap();
    for part in [
        "\"event\":\"reveal\"",
        "\"event\":\"search\"",
        "\"event\":\"explain\"",
        "analyst-reads",
        "key:desk",
        "\"phone\":\"masked\"",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    for canary in ["ada@example.com", "555 0101", "078-05-1120", "canary-5a1f"] {
        assert!(!log.contains(canary) && !running.log().contains(canary), "{canary}");
    }
    let config = instance.path("veilstream.toml");
    let verified = done(&mut veilstream(&[
        "audit",
        "verify",
        "--config",
        &config,
        "--key",
        &instance.path("verifier.key"),
    ]));
    assert!(verified.status.success());
}

#[test]
fn api_keys_are_checked_before_they_are_made() {
    let instance = Instance::new("insecure = true\n");
    for args in [
        &["create", "--name", "Reports", "--role", "a"][..],
        &["create", "--name", "reports"],
        &["create", "--name", "reports", "--role", "a,b"],
        &["create", "--name", "reports", "--role", "a", "--days", "366"],
        &["create", "--name", "reports", "--role", "a", "--days", "0"],
        &["revoke"],
        &["revoke", "none"],
        &["revoke", "--name", "reports", "0b2e7c0123456789"],
    ] {
        assert_eq!(instance.keys(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    for args in [&["revoke", "0b2e7c0123456789"][..], &["revoke", "--name", "reports"]] {
        let output = instance.keys(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("there is no API key"));
    }
}

/// TLS with every kind of credential at once.
struct Everything {
    instance: Instance,
    servers: Authority,
    clients: Authority,
    issuer: TestIssuer,
}

impl Everything {
    fn new() -> Self {
        let (servers, clients, issuer) = (Authority::new(), Authority::new(), TestIssuer::start());
        let instance = Instance::new(&format!(
            "principals = [\"certificate\", \"jwt\", \"key\"]\ncertificate_file = \
            \"server.pem\"\nkey_file = \"server.key\"\nclient_ca_file = \
            \"clients.pem\"\nclient_crl_file = \"revoked.pem\"\nclients = {{ \
            \"spiffe://corp/fraud\" = [\"fraud\"] }}\n{}",
            corp(&issuer)
        ));
        let leaf = servers.server();
        instance.write("server.pem", &leaf.certificate);
        instance.write("server.key", &leaf.key);
        instance.write("clients.pem", &clients.pem());
        instance.write("revoked.pem", &clients.revoked(&[9]));
        Self { instance, servers, clients, issuer }
    }

    fn leaf(&self, serial: u64) -> Leaf {
        let name = SanType::URI("spiffe://corp/fraud".try_into().unwrap());
        self.clients.leaf(vec![name], serial, false)
    }
}

#[test]
fn each_kind_of_credential_opens_by_itself_alone() {
    let all = Everything::new();
    let (_, key) = all.instance.make_key("reports");
    let mut running = all.instance.start();
    let (plain, fraud) = (all.servers.client(None), all.servers.client(Some(&all.leaf(7))));
    let token = all.issuer.token(|_| ());
    assert_eq!(running.status(&plain, "https", &key), StatusCode::OK);
    assert_eq!(running.status(&plain, "https", &token), StatusCode::OK);
    let document = || fraud.get(format!("https://{}/openapi.json", running.address));
    assert_eq!(document().send().unwrap().status(), StatusCode::OK);
    // Two at once.
    assert_eq!(running.status(&fraud, "https", &key), StatusCode::UNAUTHORIZED);
    assert_eq!(running.status(&fraud, "https", &token), StatusCode::UNAUTHORIZED);
    let twice = plain.get(format!("https://{}/openapi.json", running.address));
    let twice = twice.bearer_auth(&key).header("authorization", format!("Bearer {token}"));
    assert_eq!(twice.send().unwrap().status(), StatusCode::UNAUTHORIZED);
    // A person's token beside a certificate proves the person; one that does not hold refuses.
    let proved =
        |token: &str| document().header("veilstream-on-behalf-of", token).send().unwrap().status();
    let expired = all.issuer.token(|claims| claims["exp"] = (keys::now() - 120).into());
    assert_eq!(proved(&token), StatusCode::OK);
    assert_eq!(proved(&expired), StatusCode::UNAUTHORIZED);
    // Revoked, and of another authority: no handshake.
    let other = Authority::new().leaf(vec![], 1, false);
    for leaf in [&all.leaf(9), &other] {
        let client = all.servers.client(Some(leaf));
        assert!(client.get(format!("https://{}/openapi.json", running.address)).send().is_err());
    }
    // Without TLS.
    let clear = Client::new().get(format!("http://{}/openapi.json", running.address));
    assert!(clear.bearer_auth(&key).send().is_err());
    // The issuer goes away: what it signed before is still known.
    all.issuer.behave(Behaviour::Close);
    let next = all.issuer.token(|claims| claims["sub"] = "bob".into());
    assert_eq!(running.status(&plain, "https", &next), StatusCode::OK);
    // Each is counted; the log tells one a second and address.
    let metrics = running.metrics();
    for cause in ["several_credentials", "token_expired", "certificate_invalid"] {
        assert!(metrics.contains(&format!("{{cause=\"{cause}\"}}")), "{metrics}");
    }
    assert_eq!(running.stop(), 0);
    let log = running.log();
    assert!(log.contains("login refused"), "{log}");
    assert!(!log.contains(&token) && !log.contains(&expired), "{log}");
}

/// The desk reads for persons alone, and what they may read too.
const FOR_PERSONS: &str = r#"
@id("desk") permit(principal in Role::"desk", action == Action::"reveal", resource)
  when { context has on_behalf_of };
@id("person") permit(principal in Role::"support", action == Action::"reveal",
  resource == Field::"customers.email");
"#;

#[test]
fn a_person_who_is_claimed_grants_nothing_and_one_who_is_proved_is_decided_too() {
    let issuer = TestIssuer::start();
    let serve = format!("insecure = true\nprincipals = [\"jwt\", \"key\"]\n{}", corp(&issuer));
    let instance = Instance::of(&Setup { serve: &serve, cedar: FOR_PERSONS, ..Setup::default() });
    let (_, key) = instance.make_key_of("desk", "desk");
    let event = r#"{"type":"customer.updated","customer":{"id":42,"email":"ada@example.com","ssn":"078-05-1120"}}"#;
    let record = instance.seal("customers", event).remove(0);
    let mut running = instance.start();
    let client = Client::new();
    let ask = |id: &str, claim: Option<&str>, proof: Option<&str>| {
        let items =
            json!([{ "schema": "customers", "fields": ["email", "ssn"], "record": record }]);
        let mut body = json!({ "purpose": "support", "request_id": id, "items": items });
        if let Some(claim) = claim {
            body["on_behalf_of"] = claim.into();
        }
        let asked = client.post(format!("http://{}/v1/reveal", running.address));
        let mut asked = asked.bearer_auth(&key).json(&body);
        if let Some(proof) = proof {
            asked = asked.header("veilstream-on-behalf-of", proof);
        }
        let answer = asked.send().unwrap();
        let status = answer.status().as_u16();
        let answer: Value = answer.json().unwrap();
        let of = |field: &str| answer["items"][0]["fields"][field]["status"].clone();
        (status, of("email"), of("ssn"))
    };
    let (ana, other) = (issuer.token(|_| ()), TestIssuer::start().token(|_| ()));
    let bob = issuer.token(|claims| {
        (claims["sub"], claims["roles"]) = ("bob".into(), json!([]));
    });
    let expired = issuer.token(|claims| claims["exp"] = (keys::now() - 120).into());
    let told = |email: &str, ssn: &str| (200, Value::from(email), Value::from(ssn));
    assert_eq!(ask("nobody", None, None), told("denied", "denied"));
    assert_eq!(ask("claimed", Some("jwt:corp:ana"), None), told("denied", "denied"));
    assert_eq!(ask("proved", None, Some(&ana)), told("revealed", "denied"));
    assert_eq!(ask("both", Some("jwt:corp:bob"), Some(&ana)), told("revealed", "denied"));
    assert_eq!(ask("other", Some("jwt:corp:ana"), Some(&bob)), told("denied", "denied"));
    for proof in [&expired, &other] {
        let refused = (401, Value::Null, Value::Null);
        assert_eq!(ask("refused", Some("jwt:corp:ana"), Some(proof)), refused);
    }
    assert_eq!(running.stop(), 0);
    let lines = instance.audited();
    let reveals = lines.iter().filter(|line| line["event"] == "reveal");
    let named: Vec<Value> = reveals
        .map(|l| json!([l["request_id"], l["actor"], l["on_behalf_of"], l["auth"], l["outcome"]]))
        .collect();
    // What a token proved goes before what the caller claims.
    let expected = json!([
        ["nobody", "key:desk", null, "api_key", "denied"],
        ["claimed", "key:desk", "jwt:corp:ana", "api_key", "denied"],
        ["proved", "key:desk", "jwt:corp:ana", "api_key+jwt", "ok"],
        ["both", "key:desk", "jwt:corp:ana", "api_key+jwt", "ok"],
        ["other", "key:desk", "jwt:corp:bob", "api_key+jwt", "denied"],
    ]);
    assert_eq!(Value::from(named), expected);
    let refused = lines.iter().filter(|line| line["event"] == "login_refused");
    let told: u64 = refused.map(|line| line["items"].as_u64().unwrap_or(1)).sum();
    assert!(told >= 1, "one a second and address, the rest in the next");
}

/// A real OAuth server (oidc-provider), whose tokens are RS256 and `at+jwt`. Killed when dropped.
struct OauthServer {
    process: Child,
    url: String,
}

impl OauthServer {
    fn start() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/oidc");
        let script = folder.join("issuer.mjs");
        assert!(script.exists(), "no OAuth server in {}: run `make setup`", folder.display());
        let port = free_port();
        let mut process = Command::new("node")
            .arg(script)
            .envs([("PORT", &*port.to_string()), ("AUDIENCE", "urn:veilstream")])
            .envs([("CLIENT_SECRET", "canary-client-secret"), ("TTL", "300")])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "listens"));
        // It writes a line for each token.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { process, url: format!("http://127.0.0.1:{port}") }
    }

    fn token(&self) -> String {
        let answer = Client::new()
            .post(format!("{}/token", self.url))
            .basic_auth("veilstream", Some("canary-client-secret"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body("grant_type=client_credentials&scope=kafka")
            .send()
            .unwrap();
        let answer: Value = answer.json().unwrap();
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

impl Drop for OauthServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn tokens_of_a_real_server_open() {
    let server = OauthServer::start();
    let section = |name: &str, audience: &str| {
        format!(
            "insecure = true\nprincipals = [\"jwt\"]\n[serve.jwt.{name}]\nissuer = \
            \"{url}\"\naudience = \"{audience}\"\njwks = \"{url}/jwks\"\nkind = \
            \"service\"\nroles_claim = \"scope\"\n",
            url = server.url
        )
    };
    let (instance, other) =
        (Instance::new(&section("batch", "urn:veilstream")), Instance::new(&section("batch", "x")));
    let (running, refusing) = (instance.start(), other.start());
    let (client, token) = (Client::new(), server.token());
    assert_eq!(running.status(&client, "http", &token), StatusCode::OK);
    assert_eq!(refusing.status(&client, "http", &token), StatusCode::UNAUTHORIZED);
    assert!(refusing.metrics().contains("{cause=\"token_audience\"} 1"));
    // The last character of a signature may spell unused bits: one before it is another signature.
    let at = token.len() - 10;
    let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
    let forged = format!("{}{other}{}", &token[..at], &token[at + 1..]);
    assert_eq!(running.status(&client, "http", &forged), StatusCode::UNAUTHORIZED);
    assert!(running.metrics().contains("{cause=\"token_signature\"} 1"));
}

#[test]
fn a_start_that_would_be_open_or_blind_is_refused() {
    let instance = Instance::new("insecure = true\n");
    let toml = fs::read_to_string(instance.path("veilstream.toml")).unwrap();
    let with = |from: &str, to: &str| {
        instance.write("veilstream.toml", &toml.replace(from, to));
        instance.refused()
    };
    let (code, said) = with("insecure = true", "");
    assert!(code == 2 && said.contains("serve.certificate_file: is missing"), "{said}");
    let (code, said) = with("[serve]\nlisten = \"127.0.0.1:0\"", "[serve]\nlisten = \"0.0.0.0:0\"");
    assert!(code == 2 && said.contains("no address of the loopback"), "{said}");
    let (code, said) = with("[serve]\nlisten = \"127.0.0.1:0\"\ninsecure = true", "");
    assert!(code == 2 && said.contains("there is no section [serve]"), "{said}");
    let (code, said) = with("[audit]\nrecipient_file = \"audit.pub\"\ncopy = \"none\"\n", "");
    assert!(code == 2 && said.contains("there is no section [audit]"), "{said}");
    let (code, said) = with("copy = \"none\"\n", "");
    assert!(code == 2 && said.contains("the audit log has no second place"), "{said}");
    let (code, said) = with(SUPPORT, "");
    assert!(code == 2 && said.contains("policy.purposes is empty"), "{said}");
    let missing = "certificate_file = \"nowhere.pem\"\nkey_file = \"nowhere.key\"";
    let (code, said) = with("insecure = true", missing);
    assert!(code == 2 && said.contains("nowhere.pem"), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) =
        with("[serve]\nlisten = \"127.0.0.1:0\"", &format!("[serve]\nlisten = \"{address}\""));
    assert!(code == 2 && said.contains("serve.listen"), "{said}");
}
