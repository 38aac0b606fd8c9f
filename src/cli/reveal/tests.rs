use super::*;

/// What `work` writes.
fn written<T>(work: impl FnOnce(&mut Outlet<'_, &mut Vec<u8>>) -> T) -> (Vec<u8>, T) {
    let (trail, mut out) = (Trail::none(), Vec::new());
    let mut outlet = Outlet::new(&mut out, &trail);
    let done = work(&mut outlet);
    outlet.release().unwrap();
    drop(outlet);
    (out, done)
}
use crate::cli::transform::tests::{EVENTS, people_and_rest, run as protect};
use crate::ephemeral::EphemeralKeys;

fn open(
    keys: &EphemeralKeys,
    options: &RevealOptions<'_>,
    status: bool,
    input: &str,
) -> (String, String, bool) {
    let mut errors = Vec::new();
    let told = Told { status, allow_clear: false };
    let (set, mut keys) = (people_and_rest(), RevealKeys::new(keys));
    let (out, whole) = written(|out| {
        reveal(&set, &mut keys, options, told, input.as_bytes(), out, &mut errors).unwrap()
    });
    (String::from_utf8(out).unwrap(), String::from_utf8(errors).unwrap(), whole)
}

#[test]
fn what_was_protected_opens_to_its_bytes() {
    let keys = EphemeralKeys::default();
    let (safe, ..) = protect(&people_and_rest(), &keys, EVENTS);
    let (out, errors, whole) = open(&keys, &RevealOptions::default(), false, &safe);
    assert_eq!((out, errors.as_str(), whole), (EVENTS.replace("\n\n", "\n") + "\n", "", true));
}

#[test]
fn only_the_fields_asked_for_are_opened() {
    let keys = EphemeralKeys::default();
    let (safe, ..) = protect(&people_and_rest(), &keys, EVENTS);
    let options = RevealOptions { fields: Some(&["email".to_owned()]), keep_indexes: true };
    let (out, errors, whole) = open(&keys, &options, true, &safe);
    assert_eq!((errors.as_str(), whole), ("", true));
    let line: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!(line["event"]["email"], "ada@example.com");
    assert!(
        line["event"]["email_bidx"].is_string()
            && line["event"]["ssn"].as_str().unwrap().starts_with("vs1."),
        "{line}"
    );
    assert_eq!(
        line["fields"],
        json!([{ "field": "ssn", "status": "skipped" }, { "field": "email", "status": "revealed" }])
    );
}

#[test]
fn what_does_not_open_stays_and_is_told() {
    let (safe, ..) = protect(&people_and_rest(), &EphemeralKeys::default(), EVENTS);
    let third = safe.lines().nth(1).unwrap();
    let keys = EphemeralKeys::default();
    let (out, errors, whole) =
        open(&keys, &RevealOptions::default(), false, &format!("{third}\nno json\n"));
    assert_eq!((out, whole), (format!("{third}\nno json\n"), false));
    let told = r#"{"fields":[{"field":"note","status":"key_unavailable"}],"line":1,"reason":"not_revealed","schema":"rest/1"}"#;
    assert_eq!(errors.lines().collect::<Vec<_>>(), [told, r#"{"line":2,"reason":"not_json"}"#]);
    let (out, ..) = open(&keys, &RevealOptions::default(), true, "no json\n");
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["event"], Value::Null);
}

#[test]
fn a_value_in_clear_is_told_unless_it_is_allowed() {
    let keys = EphemeralKeys::default();
    let input = "{\"type\":\"person\",\"id\":1,\"email\":\"ada@example.com\"}\n";
    let (out, errors, whole) = open(&keys, &RevealOptions::default(), false, input);
    assert_eq!((out.as_str(), whole), (input, false), "it stays as it is");
    assert_eq!(
        errors,
        "{\"fields\":[{\"field\":\"email\",\"status\":\"clear\"}],\"line\":1,\"reason\":\"not_revealed\",\"schema\":\"people/1\"}\n"
    );
    let mut errors = Vec::new();
    let told = Told { status: true, allow_clear: true };
    let (set, mut keys) = (people_and_rest(), RevealKeys::new(&keys));
    let (out, whole) = written(|out| {
        let options = RevealOptions::default();
        reveal(&set, &mut keys, &options, told, input.as_bytes(), out, &mut errors).unwrap()
    });
    assert!(whole);
    assert!(
        String::from_utf8(out).unwrap().contains(r#"{"field":"email","status":"clear"}"#),
        "told, not refused"
    );
    assert!(errors.is_empty());
}

#[test]
fn bare_tokens_open_as_the_field_named() {
    let keys = EphemeralKeys::default();
    let (safe, ..) = protect(&people_and_rest(), &keys, "{\"note\":{\"a\":\r1}}\n");
    let token = safe.split('"').nth(3).unwrap();
    let input = format!("{token}\r\n\"{token}\"\nvs1.x\n");
    let mut errors = Vec::new();
    let mut keys = RevealKeys::new(&keys);
    let (out, whole) = written(|out| {
        open_tokens(&mut keys, ("rest.note", None), input.as_bytes(), out, &mut errors).unwrap()
    });
    assert!(!whole);
    assert_eq!(String::from_utf8(out).unwrap(), "{\"a\": 1}\n{\"a\": 1}\nvs1.x\n");
    assert_eq!(String::from_utf8(errors).unwrap(), "{\"line\":3,\"reason\":\"malformed\"}\n");
}

#[test]
fn unknown_fields_are_refused_with_the_known_ones() {
    let error =
        known_fields(&people_and_rest(), &["email".to_owned(), "mail".to_owned()]).unwrap_err();
    assert_eq!(
        (Exit::of(&error), error.to_string()),
        (Exit::Usage, "--fields: no field mail; there are email, ssn, note".to_owned())
    );
}
