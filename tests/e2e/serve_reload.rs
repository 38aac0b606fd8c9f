//! Policies, certificates, API keys and data keys that change under continuous load.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::blocking::Client;
use reqwest::tls::TlsInfo;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;

use crate::instance::{Instance, SUPPORT, ServeProcess, Setup, done, veilstream};
use crate::testing::{Authority, until};

const MASKS: &str = r#"permit(principal in Role::"analyst", action in [Action::"reveal", Action::"search"],
  resource == Field::"customers.email");
permit(principal in Role::"analyst", action == Action::"mask", resource == Field::"customers.phone");"#;
const REVEALS: &str = r#"permit(principal in Role::"analyst", action in [Action::"reveal", Action::"search"],
  resource in Tag::"contact");"#;
const SERVE: &str = "certificate_file = \"server.pem\"\nkey_file = \"server.key\"\n\
    items_per_second = 10000000\n";
/// What is rotated in each round.
const ROTATED: [&[&str]; 4] = [&["--subject", "42"], &["--wrapping"], &["--index"], &["--kek"]];
const EVENT: &str = r#"{"type":"customer.updated","customer":{"id":42,"email":"ada@example.com","ssn":"078-05-1120","phone":"+1 415 555 0101"}}"#;

/// What all who ask share.
struct Load<'a> {
    running: &'a ServeProcess,
    authority: &'a Authority,
    /// A record and the newest one beside it.
    records: Mutex<[Value; 2]>,
    key: &'a str,
    answered: AtomicU64,
    is_over: AtomicBool,
    /// Hash of the policies, and the telephone number as they show it.
    shown: Mutex<BTreeSet<(String, String)>>,
}

/// Ends those who ask, also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Load<'_> {
    /// Asks again and again; `fresh`: over a connection each.
    fn ask(&self, fresh: bool) {
        let connect = || self.authority.client(None);
        let mut client = connect();
        while !self.is_over.load(Ordering::SeqCst) {
            if fresh {
                client = connect();
            }
            let items: Vec<Value> = self.records.lock().unwrap().iter().map(|record| {
                json!({ "schema": "customers", "fields": ["email", "phone"], "record": record })
            }).collect();
            let answer =
                self.post(&client, "/v1/reveal", &json!({ "purpose": "support", "items": items }));
            let customer = |n: usize| &answer["items"][n]["record"]["customer"];
            for n in [0, 1] {
                assert_eq!(customer(n)["email"], "ada@example.com", "{answer}");
                assert_eq!(customer(n)["phone"], customer(0)["phone"], "{answer}");
            }
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let shown = (text(&answer["policy"]), text(&customer(0)["phone"]));
            self.shown.lock().unwrap().insert(shown);
            let queries = json!([{ "field": "customers.email", "value": "ada@example.com" }]);
            let answer = self.post(
                &client,
                "/v1/index",
                &json!({ "purpose": "support", "queries": queries }),
            );
            assert!(!answer["queries"][0]["values"].as_array().unwrap().is_empty(), "{answer}");
            self.answered.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn post(&self, client: &Client, path: &str, body: &Value) -> Value {
        let asked = client.post(format!("https://{}{path}", self.running.address));
        let answer = asked.bearer_auth(self.key).json(body).send().unwrap();
        let status = answer.status();
        let answer: Value = answer.json().unwrap();
        assert_eq!(status, 200, "{answer}");
        answer
    }
}

/// The certificate that a new connection is shown.
pub(crate) fn shown_certificate(authority: &Authority, address: &str, key: &str) -> Vec<u8> {
    let trusted = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let client = Client::builder().tls_certs_only([trusted]).tls_info(true).build().unwrap();
    let asked = client.get(format!("https://{address}/openapi.json")).bearer_auth(key);
    let answer = asked.send().unwrap();
    answer.extensions().get::<TlsInfo>().unwrap().peer_certificate().unwrap().to_vec()
}

fn record(instance: &Instance) -> Value {
    instance.seal("customers", EVENT).remove(0)
}

/// What changes while the others ask.
fn change(instance: &Instance, load: &Load<'_>) {
    let Load { running, authority, key, .. } = load;
    let (client, config) = (authority.client(None), instance.path("veilstream.toml"));
    for (round, rotated) in ROTATED.into_iter().enumerate() {
        let before = running.report()["policies"].clone();
        instance.write("policies/all.cedar", [REVEALS, MASKS][round % 2]);
        let leaf = authority.server();
        instance.write("server.pem", &leaf.certificate);
        instance.write("server.key", &leaf.key);
        let rotate = [&["keys", "rotate", "--config", &config], rotated].concat();
        done(&mut veilstream(&rotate));
        done(&mut veilstream(&["keys", "rewrap", "--config", &config]));
        // Every other time the interval must do.
        if round % 2 == 0 {
            running.signal(Signal::HUP);
        }
        // Asked for at once: the service has not looked at the store since.
        let newest = record(instance);
        load.records.lock().unwrap()[1] = newest.clone();
        until("the policies are in force", || running.report()["policies"] != before);
        let new = CertificateDer::from_pem_slice(leaf.certificate.as_bytes()).unwrap();
        until("the certificate is shown", || {
            shown_certificate(authority, &running.address, key) == *new
        });
        let queries = json!([{ "field": "customers.email", "value": "ada@example.com" }]);
        let body = json!({ "purpose": "support", "queries": queries });
        until("what is written now is found", || {
            let values = load.post(&client, "/v1/index", &body)["queries"][0]["values"].clone();
            values.as_array().unwrap().contains(&newest["customer"]["email_bidx"])
        });
    }
    let (id, later) = instance.make_key("later");
    // Seldom: anyone who guesses is refused as a whole.
    let status = || {
        std::thread::park_timeout(Duration::from_millis(500));
        running.status(&client, "https", &later)
    };
    until("the new key is known", || status() == StatusCode::OK);
    done(&mut instance.keys(&["revoke", &id]));
    until("the key is refused", || status() == StatusCode::UNAUTHORIZED);
}

#[test]
fn reloads_and_rotations_under_load_cost_no_answer_and_spoil_none() {
    let policy =
        format!("{SUPPORT}[[policy.budgets]]\nsubjects = \"unlimited\"\nvalues = \"unlimited\"\n");
    let instance =
        Instance::of(&Setup { serve: SERVE, policy: &policy, cedar: MASKS, ..Setup::default() });
    let authority = Authority::new();
    let leaf = authority.server();
    instance.write("server.pem", &leaf.certificate);
    instance.write("server.key", &leaf.key);
    let (_, key) = instance.make_key("desk");
    let first = record(&instance);
    let mut running = instance.start();
    let load = Load {
        running: &running,
        authority: &authority,
        records: Mutex::new([first.clone(), first]),
        key: &key,
        answered: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        shown: Mutex::default(),
    };
    std::thread::scope(|scope| {
        let _ends = Ends(&load.is_over);
        let load = &load;
        let asking = [false, false, true].map(|fresh| scope.spawn(move || load.ask(fresh)));
        until("they ask", || load.answered.load(Ordering::SeqCst) > 10);
        change(&instance, load);
        let at_the_end = load.answered.load(Ordering::SeqCst);
        until("they still ask", || load.answered.load(Ordering::SeqCst) > at_the_end + 10);
        assert!(asking.iter().all(|one| !one.is_finished()));
    });
    let answered = load.answered.into_inner();
    println!("{answered} rounds of two requests while everything changed");
    // Each answer is of one snapshot as a whole.
    let shown = load.shown.into_inner().unwrap();
    let numbers: BTreeSet<&str> = shown.iter().map(|(_, number)| number.as_str()).collect();
    assert_eq!(numbers, BTreeSet::from(["********0101", "+1 415 555 0101"]));
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!(running.stop(), 0);
    assert!(instance.verify().status.success());
    let lines = instance.audited();
    let reveals = lines.iter().filter(|line| line["event"] == "reveal").count() as u64;
    assert_eq!(reveals, answered, "one line an answer");
    let changes = lines.iter().filter(|line| line["event"] == "policy").count();
    assert_eq!(changes, 1 + ROTATED.len());
    assert!(!running.log().contains("a request failed"), "{}", running.log());
}
