//! Fields in the form of Fernet and pgcrypto, sealed and read by the service.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::instance::{Instance, SUPPORT, Setup};

/// `mail` and `twin` are under one key; `pay` has its own.
const LEGACY: &str = r#"{"veilstream":1,"name":"legacy","version":1,"fields":[
    {"id":"mail","path":"$.mail","format":"fernet"},
    {"id":"twin","path":"$.twin","format":"fernet"},
    {"id":"pay","path":"$.pay","format":"fernet","keys_file":"pay.keys"},
    {"id":"note","path":"$.note","format":"pgcrypto"}]}"#;

const CEDAR: &str = r#"
permit(principal in Role::"analyst", action in [Action::"seal", Action::"reveal"], resource);
permit(principal in Role::"clerk", action == Action::"reveal", resource)
  when { resource == Field::"legacy.mail" || resource == Field::"legacy.pay" };
"#;

const INTEROP: &str = "insecure = true\n[interop.fernet]\nkeys_file = \"fernet.keys\"\n\
    [interop.pgcrypto]\npassphrases_file = \"pgcrypto.passphrases\"\n";

fn secret(instance: &Instance, name: &str, text: &str) {
    instance.write(name, text);
    fs::set_permissions(instance.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn texts_of_other_systems_open_as_their_own_field_alone() {
    let instance = Instance::of(&Setup {
        serve: INTEROP,
        schemas: &[],
        policy: SUPPORT,
        cedar: CEDAR,
        ..Setup::default()
    });
    instance.write("schemas/legacy.json", LEGACY);
    secret(&instance, "fernet.keys", &URL_SAFE.encode([1; 32]));
    secret(&instance, "pay.keys", &URL_SAFE.encode([2; 32]));
    secret(&instance, "pgcrypto.passphrases", "correct horse");
    let (_, analyst) = instance.make_key("crm");
    let (_, clerk) = instance.make_key_of("desk", "clerk");
    let mut running = instance.start();
    let client = Client::new();
    let post = |key: &str, path: &str, items: Value| -> Vec<(String, Value)> {
        let body = json!({ "purpose": "support", "items": items });
        let (status, answer) = running.post(&client, key, path, &body);
        assert_eq!(status, 200, "{answer}");
        let items = answer["items"].as_array().unwrap().iter();
        let told = items.map(|item| {
            let shown = item.get("value").or(item.get("token")).or(item.get("fields"));
            let status = item.get("status").and_then(Value::as_str).unwrap_or_default();
            (status.to_owned(), shown.cloned().unwrap_or_default())
        });
        told.collect()
    };
    const FIELDS: [&str; 4] = ["mail", "twin", "pay", "note"];
    let asked =
        FIELDS.map(|f| json!({ "field": format!("legacy.{f}"), "value": format!("of {f}") }));
    let sealed = post(&analyst, "/v1/seal", json!(asked));
    assert!(sealed.iter().all(|(status, _)| status == "sealed"), "{sealed:?}");
    let text = |field: &str| sealed[FIELDS.iter().position(|f| *f == field).unwrap()].1.clone();
    assert!(text("pay").as_str().unwrap().starts_with("gAAAAA"));

    // Each text as each field: under the keys of another system nothing else tells them apart.
    for of in FIELDS {
        for asked in FIELDS {
            let item = json!([{ "field": format!("legacy.{asked}"), "token": text(of) }]);
            let (status, value) = post(&analyst, "/v1/reveal", item).remove(0);
            let same_keys = of == asked || [of, asked].iter().all(|f| ["mail", "twin"].contains(f));
            if same_keys {
                assert_eq!((status.as_str(), &value), ("revealed", &json!(format!("of {of}"))));
            } else {
                assert!(
                    status != "revealed" && value.is_null(),
                    "{of} as {asked}: {status} {value}"
                );
            }
        }
    }
    // So fields of one file are decided as one: who may not read `twin` reads no `mail` either.
    let item = |field: &str| json!([{ "field": format!("legacy.{field}"), "token": text(field) }]);
    let statuses = FIELDS.map(|field| post(&clerk, "/v1/reveal", item(field)).remove(0).0);
    assert_eq!(statuses, ["denied", "denied", "revealed", "denied"]);

    // In a record as bare.
    let record = json!({ "mail": text("mail"), "pay": text("pay"), "note": text("note"), "twin": text("pay") });
    let body = json!({ "purpose": "support", "items": [{ "schema": "legacy", "record": record }] });
    let (status, answer) = running.post(&client, &analyst, "/v1/reveal", &body);
    assert_eq!(status, 200, "{answer}");
    let shown = &answer["items"][0];
    let value = |field: &str| shown["record"][field].clone();
    assert_eq!(
        (value("mail"), value("pay"), value("note"), value("twin")),
        (json!("of mail"), json!("of pay"), json!("of note"), Value::Null),
        "{answer}"
    );
    let (status, answer) = running.post(&client, &clerk, "/v1/reveal", &body);
    assert_eq!(status, 200, "{answer}");
    let shown = &answer["items"][0]["record"];
    assert_eq!((&shown["mail"], &shown["pay"]), (&Value::Null, &json!("of pay")), "{answer}");

    assert_eq!(running.stop(), 0);
    let verified = instance.verify();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let log = instance.read("audit.jsonl");
    for hidden in ["of mail", "of pay", "of note", "correct horse"] {
        assert!(!log.contains(hidden) && !running.log().contains(hidden), "{hidden}");
    }
}
