//! Who is denied learns nothing of what there is.

use std::collections::HashSet;

use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::instance::{Instance, Setup, done, veilstream};

pub(crate) fn customer(instance: &Instance, id: u64) -> Value {
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
