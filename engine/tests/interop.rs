//! Fields in the form of other systems: sealed, opened, decided, and what documents may not ask.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]

mod support;

use std::sync::Arc;

use support::{Bench, NOW, document, keyring_of, schemas, value_record};
use veilstream_engine::compile::{Grants, compile};
use veilstream_engine::error::{OpenError, Severity};
use veilstream_engine::interop::fernet::FernetKey;
use veilstream_engine::interop::{
    FernetKeys, Interop, InteropForm, InteropKeySet, InteropKeys, Passphrases,
};
use veilstream_engine::record::Record;
use veilstream_engine::reveal::{BareToken, Decision, FetchedKeys, HeldKeys, Revealer, Status};
use veilstream_engine::transform::Outcome;
use veilstream_engine::{Keyring, RejectCode, kdf};
use zeroize::Zeroizing;

const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
const FIELDS: &str = r#""fields":[
    {"id":"email","path":"$.email","type":"string","format":"fernet","mask":{"keep_last":4},
     "index":{"normalize":"email"}},
    {"id":"phone","path":"$.phone","type":"string","format":"pgcrypto"},
    {"id":"age","path":"$.age","type":"integer","format":"fernet","null":"encrypt"},
    {"id":"tags","path":"$.tags","type":"array","format":"pgcrypto"},
    {"id":"any","path":"$.any","format":"fernet"},
    {"id":"plain","path":"$.plain"}]"#;

fn fernet() -> InteropKeySet {
    let key = FernetKey::parse(KEY.as_bytes()).unwrap();
    InteropKeySet::Fernet(FernetKeys::new(vec![key]).unwrap())
}

fn pgcrypto(of: &str) -> InteropKeySet {
    let passphrases = Passphrases::new(vec![Zeroizing::new(of.as_bytes().to_vec())]);
    InteropKeySet::Pgcrypto(passphrases.unwrap())
}

fn interop_keys() -> InteropKeys {
    let of = |form| Interop { form, file: None };
    InteropKeys::new([
        (of(InteropForm::Fernet), Arc::new(fernet())),
        (of(InteropForm::Pgcrypto), Arc::new(pgcrypto("pw"))),
    ])
}

fn keys(ours: bool) -> Arc<Keyring> {
    let data = support::key(veilstream_engine::KeyKind::Data, "schema:t");
    let keyring = keyring_of(if ours { vec![data] } else { Vec::new() });
    let keyring = Arc::try_unwrap(keyring).unwrap();
    Arc::new(keyring.with_interop(Arc::new(interop_keys())))
}

fn bench() -> Bench {
    Bench::with(&[&document(FIELDS)], keys(true))
}

fn member<'a>(json: &'a str, name: &str) -> &'a str {
    let start = json.find(&format!("\"{name}\":\"")).unwrap() + name.len() + 4;
    &json[start..start + json[start..].find('"').unwrap()]
}

#[test]
fn values_go_there_and_back() {
    let mut bench = bench();
    let input = concat!(
        r#"{"email":"Ada@example.com","phone":"+1 555 \"x\" \u00e4","age":42,"tags":[1, "a"],"#,
        r#""any":"","plain":"p"}"#
    );
    let protected = bench.protect(input);
    assert!(member(&protected, "email").starts_with("gAAAA"), "{protected}");
    assert!(member(&protected, "phone").starts_with('w'), "{protected}");
    assert!(member(&protected, "email_bidx").starts_with("1~"), "{protected}");
    assert!(member(&protected, "plain").starts_with("vs1."), "{protected}");
    for clear in ["Ada@", "ada@", "555 ", ":42"] {
        assert!(!protected.contains(clear), "{protected}");
    }
    // Escapes are not kept: the text is.
    let (revealed, report) = bench.reveal(&protected);
    assert_eq!(revealed, input.replace("\\u00e4", "ä"));
    assert!(report.fields.iter().all(|(_, status)| *status == Status::Revealed), "{report:?}");
    // Null stays, but where it is encrypted.
    let protected = bench.protect(r#"{"email":null,"age":null}"#);
    assert!(protected.starts_with(r#"{"email":null,"#), "{protected}");
    assert!(member(&protected, "age").starts_with("gAAAA"), "{protected}");
    assert!(bench.reveal(&protected).0.ends_with(r#""age":null}"#));
    // What is no string comes back as one where no type is declared.
    let protected = bench.protect(r#"{"any":1.50}"#);
    assert_eq!(bench.reveal(&protected).0, r#"{"any":"1.50"}"#);
}

#[test]
fn the_record_s_time_stands_in_the_token() {
    use base64::Engine as _;
    let mut bench = bench();
    for (time, expected) in [(Some(499_162_800), 499_162_800), (None, NOW)] {
        let record = Record { time, ..value_record(br#"{"email":"a"}"#) };
        assert!(matches!(bench.record(&record), Outcome::Protected(0)));
        let protected = String::from_utf8(bench.out.value.clone()).unwrap();
        let raw = base64::engine::general_purpose::URL_SAFE.decode(member(&protected, "email"));
        assert_eq!(raw.unwrap()[1..9], u64::to_be_bytes(expected));
    }
}

#[test]
fn a_schema_of_such_fields_alone_needs_no_key_of_ours() {
    let members = r#""fields":[{"id":"email","path":"$.email","type":"string","format":"fernet"}]"#;
    let mut bench = Bench::with(&[&document(members)], keys(false));
    assert!(!bench.schemas.schemas()[0].encrypts());
    bench.there_and_back(r#"{"email":"ada@example.com"}"#);
    // Without the other system's key nothing is passed in clear.
    bench.keys = keyring_of(Vec::new());
    assert_eq!(bench.rejected(r#"{"email":"ada@example.com"}"#), RejectCode::Internal);
}

#[test]
fn what_has_no_text_there_is_rejected() {
    let mut bench = bench();
    for value in [r#"{"email":"\ud800"}"#, r#"{"phone":"\ud800"}"#, r#"{"phone":"a\u0000b"}"#] {
        assert_eq!(bench.rejected(value), RejectCode::UnsupportedValue, "{value}");
    }
    bench.there_and_back(r#"{"email":"a\u0000b"}"#);
}

#[test]
fn what_does_not_open_stays_and_says_why() {
    let mut bench = bench();
    let sealed = bench.protect(r#"{"email":"ada@example.com","phone":"5551234","age":7}"#);
    let email = member(&sealed, "email").to_owned();
    let phone = member(&sealed, "phone").to_owned();
    let broken = format!("{}A{}", &email[..40], &email[41..]);
    let of = |bench: &Bench, name: &str, value: &str| {
        let (_, report) = bench.reveal(&format!(r#"{{"{name}":"{value}"}}"#));
        report.fields[0].1
    };
    assert_eq!(of(&bench, "email", &broken), Status::Failed(OpenError::Corrupt));
    assert_eq!(of(&bench, "email", "ada@example.com"), Status::Clear);
    assert_eq!(of(&bench, "email", &phone), Status::Clear);
    assert_eq!(of(&bench, "phone", "wealthy"), Status::Clear);
    // Base64 in JSON may have escapes, as PostgreSQL's line feeds and a slash.
    let lines = format!("{}\\n{}", &phone[..76], phone[76..].replace('/', "\\/"));
    assert_eq!(of(&bench, "phone", &lines), Status::Revealed);
    // A text that is no integer is none, under any key.
    assert_eq!(of(&bench, "age", &email), Status::Failed(OpenError::Corrupt));
    bench.keys = keyring_of(Vec::new());
    assert_eq!(of(&bench, "email", &email), Status::Failed(OpenError::KeyUnavailable));
}

#[test]
fn readers_get_what_is_decided() {
    let mut bench = bench();
    let sealed = bench.protect(r#"{"email":"ada@example.com","phone":"5551234"}"#);
    let (shown, _) = bench.disclose(&sealed, &[Decision::Mask, Decision::Withhold]);
    assert_eq!(shown, r#"{"email":"********.com","phone":null}"#);
    let (shown, _) = bench.disclose(&sealed, &[Decision::Reveal, Decision::Mask]);
    assert_eq!(shown, r#"{"email":"ada@example.com","phone":null}"#);
    // Bare, and then without a row that it could be tied to.
    let set = schemas(&[&document(FIELDS)]);
    let (fetched, mut out) = (FetchedKeys::default(), Vec::new());
    let held = HeldKeys { keyring: &bench.keys, fetched: &fetched };
    let field = set.schemas()[0].field("email").unwrap();
    let item = BareToken {
        fid: kdf::field_id("t.email"),
        mask: field.mask(),
        interop: Some(field),
        token: member(&sealed, "email").as_bytes(),
        decoded: None,
        bind: &[],
        subject: None,
        subject_domain: None,
    };
    let mut of = |item: &BareToken<'_>, decision| {
        let (_, place, _) = Revealer::default().disclose_token(held, item, decision, &mut out);
        (place.status, String::from_utf8(out.clone()).unwrap())
    };
    assert_eq!(of(&item, Decision::Reveal), (Status::Revealed, "\"ada@example.com\"".to_owned()));
    assert_eq!(of(&item, Decision::Mask), (Status::Masked, "\"********.com\"".to_owned()));
    assert_eq!(of(&item, Decision::Withhold), (Status::Withheld, String::new()));
    let tied = BareToken { subject: Some(b"42"), ..item };
    assert_eq!(of(&tied, Decision::Reveal).0, Status::Failed(OpenError::Binding));
    let clear = BareToken { token: b"ada@example.com", ..item };
    assert_eq!(of(&clear, Decision::Reveal).0, Status::Clear);
}

/// Passphrases are derived for each value: a record of many draws on its budget of work.
#[test]
fn a_record_of_very_many_messages_is_too_complex() {
    let members = r#""fields":[{"id":"x","path":"$.x[*]","type":"string","format":"pgcrypto"}]"#;
    let mut bench = Bench::with(&[&document(members)], keys(false));
    let many = format!(r#"{{"x":[{}]}}"#, vec!["\"a\""; 9000].join(","));
    assert_eq!(bench.rejected(&many), RejectCode::TooComplex);
}

#[test]
fn documents_may_not_ask_for_what_the_form_cannot_promise() {
    let field = |more: &str| {
        format!(r#""fields":[{{"id":"a","path":"$.a","type":"string","format":"fernet"{more}}}]"#)
    };
    let faults = |members: &str| {
        let faults = compile(document(members).as_bytes(), &Grants::local()).unwrap_err();
        let errors = faults.iter().filter(|fault| fault.severity == Severity::Error);
        errors.map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect::<Vec<_>>()
    };
    for (members, pointer, why) in [
        (format!(r#""subject":"$.id",{}"#, field("")), "/fields/0/format", "no erasure reaches"),
        (field(r#","bind":[{"name":"n","path":"$.n"}]"#), "/fields/0/format", "cannot be tied"),
        (format!(r#""residue":"reject",{}"#, field("")), "/fields/0/format", "residue"),
        (field(r#","domain":"cards""#), "/fields/0/format", "does not tell fields apart"),
        (field(r#","pad":32"#), "/fields/0/format", "a length of its own"),
        (field(r#","null":"encrypt""#), "/fields/0/format", "one text for null"),
        (field(r#","passphrases_file":"a""#), "/fields/0/passphrases_file", "pgcrypto"),
        (field(r#","keys_file":"/etc/passwd""#), "/fields/0/keys_file", "starts in the folder"),
        (field(r#","keys_file":"a/../../b""#), "/fields/0/keys_file", "without \"..\""),
        (field(r#","keys_file":"""#), "/fields/0/keys_file", "must be a path"),
        (
            field(r#","protect":"hash","index":{"normalize":"exact"}"#),
            "/fields/0/format",
            "belongs",
        ),
        (field("").replace("fernet", "vault"), "/fields/0/format", "migrate postgres --from vault"),
        (field("").replace("fernet", "aws-kms"), "/fields/0/format", "--from aws-kms"),
    ] {
        let found = faults(&members);
        assert!(found.len() == 1 && found[0].starts_with(pointer), "{members}: {found:?}");
        assert!(found[0].contains(why), "{members}: {found:?}");
    }
    // No type is a warning: numbers would come back as strings.
    let untyped = field("").replace(r#""type":"string","#, "");
    let warnings = compile(document(&untyped).as_bytes(), &Grants::local()).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].message.contains("type"), "{warnings:?}");
    // A field that leaves our tokens protects less.
    let before = schemas(&[&document(&field("").replace(r#","format":"fernet""#, ""))]);
    let weaker = schemas(&[&document(&field(""))]).weaker_than(&before);
    assert!(weaker.len() == 1 && weaker[0].message.contains("same keys"), "{weaker:?}");
}
