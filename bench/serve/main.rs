//! The reading service under load, beside OpenBao Transit that decrypts as many values. `make
//! bench-serve` runs it.
//!
//! Arguments: seconds of each measurement (10).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a bench prints and ends where it fails"
)]

mod connection;
mod denied;
mod keys {
    pub(crate) use veilstream::keys::{CredentialSource, KeyFault, now};
}
#[allow(dead_code, reason = "the service of the tests")]
#[path = "../../tests/e2e/serve_instance.rs"]
mod instance;
mod load;
#[path = "../../keys/tests/support/ports.rs"]
mod ports;
#[path = "../../keys/tests/support/servers.rs"]
mod servers;
#[allow(dead_code, reason = "shared with the tests of the service")]
#[path = "../../src/serve/testing.rs"]
mod testing;

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde_json::{Value, json};

use connection::Request;
use instance::{Instance, ServeProcess, Setup, done, veilstream};
use load::{Measured, closed, open};
use servers::Bao;

/// Values of a batch.
const BATCH: usize = 100;
/// Connections of batches, and of single requests.
const CONNECTIONS: usize = 4;
const SINGLES: usize = 32;
/// Single requests a second and core that it is held to.
const GOAL: f64 = 5000.0;
/// A person who is erased, for denied answers.
const ERASED: u64 = 999_999;

const PURPOSE: &str = "[[policy.purposes]]\nname = \"support\"\nreason_required = false\n\
    [[policy.budgets]]\nsubjects = \"unlimited\"\nvalues = \"unlimited\"\n";
const POLICY: &str = r#"
permit(principal in Role::"reader", action in [Action::"reveal", Action::"mask"],
  resource in Tag::"contact") when { context.purpose == "support" };
forbid(principal, action, resource in Tag::"government-id");
forbid(principal in Role::"reader", action, resource) when { context.subjects > 1000 };
"#;

fn main() {
    let seconds: u64 = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(10);
    let time = Duration::from_secs(seconds);
    let serve = "insecure = true\nitems_per_second = 10000000\n";
    let setup = Setup { serve, policy: PURPOSE, cedar: POLICY, ..Setup::default() };
    let instance = Instance::of(&setup);
    let (_, key) = instance.make_key_of("reader", "reader");
    let (_, nobody) = instance.make_key_of("nobody", "nobody");
    let one = instance.seal("customers", &records(&[42; BATCH]));
    let people: Vec<u64> = (1000..).take(BATCH).chain([ERASED]).collect();
    let many = instance.seal("customers", &records(&people));
    let (config, who) = (instance.path("veilstream.toml"), ERASED.to_string());
    done(&mut veilstream(&[
        "shred",
        "--config",
        &config,
        "--subject",
        &who,
        "--reason",
        "a bench",
    ]));
    let running = instance.start();
    let pid = running.child.id();
    let post = |body: &Value| {
        let header = format!("Authorization: Bearer {key}");
        let request = Request::post(&running.address, "/v1/reveal", &header, &body.to_string());
        let answer: Value = serde_json::from_slice(request.connect().ask(&request)).unwrap();
        let count = body["items"].as_array().unwrap().len();
        assert_eq!(answer["summary"], json!({ "revealed": count }), "{answer}");
        request
    };
    let of_one = post(&tokens(&one, &[42; BATCH]));
    let of_many = post(&tokens(&many[..BATCH], &people[..BATCH]));
    let as_records = post(&whole(&many[..BATCH]));
    let single = post(&tokens(&one[..1], &[42]));

    // First: the batches leave gigabytes of log that the system still writes.
    let found = closed(pid, "audit", std::slice::from_ref(&single), SINGLES, time);
    println!("single requests per CPU-second: {:.0}", found.per_cpu_second());
    println!("single requests per second, closed loop of {SINGLES}: {:.0}", found.rate());
    for rate in [GOAL / 2.0, found.rate().min(found.per_cpu_second()) / 2.0] {
        let found = open(pid, &single, rate, 2 * SINGLES, time);
        println!(
            "at {rate:.0} requests/s, open loop: median {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, {:.2} cores",
            found.quantile(0.5),
            found.quantile(0.95),
            found.quantile(0.99),
            found.cpu.all / found.seconds
        );
    }

    println!(
        "\n| {BATCH} values a request | values/CPU-second | values/s | of it the audit's thread |"
    );
    println!("|---|---|---|---|");
    let batch = |name: &str, request: &Request| {
        let found = closed(pid, "audit", std::slice::from_ref(request), CONNECTIONS, time);
        row(name, &found);
        found.per_cpu_second() * BATCH as f64
    };
    let own = batch("tokens of one subject", &of_one);
    batch("tokens of 100 subjects", &of_many);
    batch("records of 100 subjects", &as_records);
    let (plain, audited) = (openbao(time, None), openbao(time, Some(&instance.path("bao"))));
    println!("\nvalues per CPU-second of one subject, of OpenBao's: {:.1}", own / plain);
    println!("the same, of OpenBao's with its audit: {:.1}", own / audited);
    if seconds > 1 {
        denied::compare(&running.address, &nobody, &many[0], &many[BATCH]);
    }
    ended(&instance, running);
}

/// What was measured counts only when its trace holds.
fn ended(instance: &Instance, mut running: ServeProcess) {
    assert_eq!(running.stop(), 0);
    let verified = instance.verify();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

fn row(name: &str, found: &Measured) {
    let (per_cpu, rate) = (found.per_cpu_second() * BATCH as f64, found.rate() * BATCH as f64);
    let share = found.cpu.named / found.cpu.all * 100.0;
    println!("| {name} | {per_cpu:.0} | {rate:.0} | {share:.0} % |");
}

/// One record for each of these people.
fn records(people: &[u64]) -> String {
    let record = |(n, id): (usize, &u64)| {
        let email = format!("somebody.{n:03}@example.com");
        let ssn = format!("{:03}-05-1120", n + 100);
        let customer = json!({ "id": id, "email": email, "ssn": ssn });
        json!({ "type": "customer.updated", "customer": customer }).to_string() + "\n"
    };
    people.iter().enumerate().map(record).collect()
}

fn tokens(records: &[Value], people: &[u64]) -> Value {
    let item = |(record, id): (&Value, &u64)| {
        let token = &record["customer"]["email"];
        json!({ "id": id, "field": "customers.email", "token": token, "subject": id })
    };
    let items: Vec<Value> = records.iter().zip(people).map(item).collect();
    json!({ "purpose": "support", "items": items })
}

fn whole(records: &[Value]) -> Value {
    let item =
        |record: &Value| json!({ "schema": "customers", "fields": ["email"], "record": record });
    json!({ "purpose": "support", "items": records.iter().map(item).collect::<Vec<_>>() })
}

/// The usual alternative: as many values of as many bytes, decrypted as a batch; with its audit in
/// a file, which it does not sync, where `audit` says so. Values for each second of its processor
/// time.
fn openbao(time: Duration, audit: Option<&str>) -> f64 {
    let bao = match audit {
        None => Bao::start("bench-bao", false),
        Some(path) => {
            let settings = format!(
                "audit \"file\" \"trace\" {{ options {{ file_path = \"{path}.log\" }} }}\n"
            );
            let file = PathBuf::from(format!("{path}.hcl"));
            std::fs::write(&file, settings).unwrap();
            Bao::configured("bench-bao-audited", false, Some(&file))
        }
    };
    bao.api(Method::POST, "transit/keys/bench", &json!({}));
    let value = |n| STANDARD.encode(format!("\"somebody.{n:03}@example.com\""));
    let input: Vec<Value> = (0..BATCH).map(|n| json!({ "plaintext": value(n) })).collect();
    let sealed = bao.api(Method::POST, "transit/encrypt/bench", &json!({ "batch_input": input }));
    let input: Vec<Value> = sealed["data"]["batch_results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|result| json!({ "ciphertext": result["ciphertext"] }))
        .collect();
    let body = json!({ "batch_input": input }).to_string();
    let address = format!("127.0.0.1:{}", bao.port);
    let path = "/v1/transit/decrypt/bench";
    let request = Request::post(&address, path, "X-Vault-Token: root", &body);
    let mut connection = request.connect();
    let answer = String::from_utf8_lossy(connection.ask(&request)).into_owned();
    assert_eq!(answer.matches("\"plaintext\"").count(), BATCH, "{answer}");
    let found = closed(bao.process.pid, "", std::slice::from_ref(&request), CONNECTIONS, time);
    let trace = if audit.is_some() { "its audit in a file" } else { "no audit" };
    row(&format!("OpenBao Transit, `batch_input`, {trace}"), &found);
    found.per_cpu_second() * BATCH as f64
}
