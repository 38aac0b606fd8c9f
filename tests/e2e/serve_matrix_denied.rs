//! Who is denied learns nothing of what there is, and nobody is answered without a line.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::test_runner::{RngAlgorithm, TestRng};
use reqwest::blocking::Client;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::instance::{Instance, SUPPORT, Setup, done, veilstream};
use crate::serve_matrix_roles::seed;
use crate::testing::until;

fn customer(instance: &Instance, id: u64) -> Value {
    let customer = json!({ "id": id, "email": format!("c{id}@example.com"), "ssn": "078-05-1120" });
    let record = json!({ "type": "customer.updated", "customer": customer });
    instance.seal("customers", &record.to_string()).remove(0)
}

/// The times of the same answers: `make bench-serve`.
#[test]
fn present_erased_corrupt_and_absent_are_denied_in_the_same_bytes() {
    let cedar =
        r#"permit(principal in Role::"reader", action, resource == Field::"customers.email");"#;
    let instance = Instance::of(&Setup { cedar, ..Setup::default() });
    let (_, nobody) = instance.make_key_of("nobody", "nobody");
    let (_, reader) = instance.make_key_of("reader", "reader");
    let (present, erased) = (customer(&instance, 17), customer(&instance, 18));
    let config = instance.path("veilstream.toml");
    done(&mut veilstream(&["shred", "--config", &config, "--subject", "18", "--reason", "a test"]));
    let token = present["customer"]["email"].as_str().unwrap();
    let (mut corrupt, mut absent, mut clear) = (present.clone(), present.clone(), present.clone());
    corrupt["customer"]["email"] = format!("{}A", &token[..token.len() - 1]).into();
    absent["customer"]["email"] = Value::Null;
    clear["customer"]["email"] = "c17@example.com".into();
    let unknown = token.replacen(&token[8..12], "AAAA", 1);
    let mut of_nobody = present.clone();
    of_nobody["customer"]["email"] = unknown.as_str().into();
    let records = [&present, &erased, &corrupt, &absent, &clear, &of_nobody];
    let tokens = [token, erased["customer"]["email"].as_str().unwrap(), &unknown, "vs1.x", ""];
    let mut bodies: Vec<Value> = records
        .iter()
        .map(|record| json!([{ "id": 1, "schema": "customers", "fields": ["email"], "record": record }]))
        .collect();
    let of_records = bodies.len();
    bodies.extend(tokens.iter().map(
        |token| json!([{ "id": 1, "field": "customers.email", "token": token, "subject": 17 }]),
    ));
    bodies.push(json!([{ "id": 1, "field": "nowhere.email", "token": token, "subject": 17 }]));
    let running = instance.start();
    let client = Client::new();
    let ask = |key: &str, path: &str, items: &Value| {
        let asked = client.post(format!("http://{}{path}", running.address)).bearer_auth(key);
        let answer = asked.json(&json!({ "purpose": "support", "items": items })).send().unwrap();
        let mut headers = answer.headers().clone();
        headers.remove("date");
        (answer.status(), format!("{headers:?}"), answer.text().unwrap())
    };
    for path in ["/v1/reveal", "/v1/explain"] {
        for bodies in [&bodies[..of_records], &bodies[of_records..]] {
            let answers: HashSet<_> =
                bodies.iter().map(|items| ask(&nobody, path, items)).collect();
            assert_eq!(answers.len(), 1, "{path}: {answers:?}");
        }
    }
    // No field is named: a schema looks like none, and counts like none.
    let whole = |schema: &str, named: usize| {
        let named: Vec<String> = (0..named).map(|n| format!("f{n}")).collect();
        json!([{ "id": 1, "schema": schema, "record": present },
            { "id": 2, "schema": "nowhere", "fields": named, "record": present }])
    };
    for path in ["/v1/reveal", "/v1/explain"] {
        for (named, status) in [(1, 200), (199, 200), (200, 400)] {
            let [there, nowhere] =
                ["customers", "no-such-one"].map(|of| ask(&nobody, path, &whole(of, named)));
            assert_eq!(there, nowhere, "{path}");
            assert_eq!(there.0, status, "{path} {named}: {}", there.2);
        }
    }
    // A caller that may read some is told of those.
    let (status, _, answer) = ask(&reader, "/v1/reveal", &whole("customers", 1));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let told = json!({ "email": { "status": "revealed" } });
    assert_eq!((status.as_u16(), &answer["items"][0]["fields"]), (200, &told), "{answer}");
    assert_eq!(answer["summary"], json!({ "denied": 1, "revealed": 1 }));
    // Anyone who may read is told what it is.
    let told: HashSet<String> =
        bodies.iter().map(|items| ask(&reader, "/v1/reveal", items).2).collect();
    assert!(told.len() > 5, "{told:?}");
    // The audit says it of neither: what is denied is not looked up.
    let lines = instance.audited();
    let denied = lines.iter().filter(|l| l["actor"] == "key:nobody" && l["event"] == "reveal");
    for line in denied {
        assert_eq!((line.get("subject"), line.get("kids")), (None, None), "{line}");
    }
}

/// Killed at random under load, again and again: each answer that a client has stands in the log.
#[test]
fn no_answer_left_without_its_line() {
    let cedar = r#"permit(principal in Role::"reader", action, resource);"#;
    let policy =
        format!("{SUPPORT}[[policy.budgets]]\nsubjects = \"unlimited\"\nvalues = \"unlimited\"\n");
    let serve = "insecure = true\nitems_per_second = 10000000\n";
    let instance = Instance::of(&Setup { cedar, serve, policy: &policy, ..Setup::default() });
    let (_, key) = instance.make_key_of("reader", "reader");
    let people: Vec<Value> = (1..=8).map(|id| customer(&instance, id)).collect();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed().to_le_bytes());
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let answers: Mutex<Vec<(String, Value)>> = Mutex::default();
    for round in 0..8 {
        let mut running = instance.start();
        let (answered, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
        let target = usize::try_from(rand_below(&mut random, 200)).unwrap() + 1;
        std::thread::scope(|scope| {
            let (address, answers) = (running.address.clone(), &answers);
            for thread in 0..6 {
                let (address, key, people) = (address.clone(), &key, &people);
                let (answered, is_over) = (&answered, &is_over);
                scope.spawn(move || {
                    let client = Client::new();
                    for n in 0.. {
                        let id = format!("{round}-{thread}-{n}");
                        // Of one person and of many: one line and several.
                        let many = if n % 3 == 0 { people.len() } else { 1 };
                        let items: Vec<Value> = people[..many]
                            .iter()
                            .map(|record| json!({ "schema": "customers", "record": record }))
                            .collect();
                        let body =
                            json!({ "purpose": "support", "request_id": id, "items": items });
                        let asked = client.post(format!("http://{address}/v1/reveal"));
                        let answer = asked.bearer_auth(key).json(&body).send();
                        match answer.and_then(|answer| answer.json::<Value>()) {
                            Ok(answer) if answer.get("items").is_some() => {
                                answers.lock().unwrap().push((id, answer["audit"].clone()));
                                answered.fetch_add(1, Ordering::SeqCst);
                            }
                            _ if is_over.load(Ordering::SeqCst) => break,
                            other => panic!("{other:?}"),
                        }
                    }
                });
            }
            until("enough is answered", || answered.load(Ordering::SeqCst) >= target);
            is_over.store(true, Ordering::SeqCst);
            running.signal(Signal::KILL);
            running.child.wait().unwrap();
        });
    }
    instance.start().stop();
    let lines = instance.audited();
    let places: HashSet<(String, u64)> = lines
        .iter()
        .filter(|line| line["event"] == "reveal")
        .map(|line| (line["chain"].as_str().unwrap().to_owned(), line["seq"].as_u64().unwrap()))
        .collect();
    let requests: HashSet<&str> =
        lines.iter().filter_map(|line| line["request_id"].as_str()).collect();
    let answers = answers.into_inner().unwrap();
    for (id, place) in &answers {
        let at = (place["chain"].as_str().unwrap().to_owned(), place["seq"].as_u64().unwrap());
        assert!(places.contains(&at) && requests.contains(id.as_str()), "{id} at {place}");
    }
    println!("{} answers, {} requests in the log, 8 kills", answers.len(), requests.len());
    let verified = instance.verify();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

fn rand_below(random: &mut TestRng, end: u64) -> u64 {
    use proptest::prelude::Rng as _;
    random.next_u64() % end
}
