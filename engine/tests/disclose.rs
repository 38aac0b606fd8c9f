//! Reading under decisions: what is withheld is null, what is masked is short, no key is looked for
//! that is not needed, and each place has its status.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;

use support::{Bench, OsRandom, TENANT, key, keyring_of};
use veilstream_engine::key::{Key, KeyKind, KeyState, Scope};
use veilstream_engine::mask::ReadMask;
use veilstream_engine::reveal::{
    BareToken, Decision, Disclosed, Disclosure, DisclosureOptions, FetchedKeys, HeldKeys,
    ReadStatus, Revealer, Status,
};
use veilstream_engine::seal::{NoncePool, PayloadKind, Sealer, append_bound};
use veilstream_engine::token::{Decoded, Suite};
use veilstream_engine::transform::Outcome;
use veilstream_engine::{Keyring, OpenError, RejectCode, kdf};

use Decision::{Mask, Reveal, Withhold};

const FIELDS: &str = r#""fields":[
    {"id":"card","path":"$.card","mask":{"keep_last":4},"index":{"normalize":"digits"}},
    {"id":"mail","path":"$.mails[*]","index":{"normalize":"email","into":"found"}},
    {"id":"zip","path":"$.zip","protect":"mask","keep_last":1}]"#;
const VALUE: &str =
    r#"{ "id":1, "card":"4111-1111-1111-1234", "mails":["ada@x.org",null], "zip":"12345" }"#;

fn statuses(report: &Disclosure) -> Vec<&'static str> {
    report.fields.iter().map(|status| status.as_str()).collect()
}

fn exact(report: &Disclosure) -> Vec<(usize, Status)> {
    report.places.iter().map(|place| (place.field, place.status)).collect()
}

#[test]
fn each_field_is_shown_as_it_is_decided() {
    let mut bench = Bench::new(FIELDS);
    let out = bench.protect(VALUE);
    let expected = |card: &str, mail: &str, zip: &str| {
        format!(r#"{{ "id":1, "card":{card}, "mails":[{mail},null], "zip":{zip} }}"#)
    };
    let (card, mail, zip) = (r#""4111-1111-1111-1234""#, r#""ada@x.org""#, r#""****5""#);
    for (decisions, shown, status) in [
        (&[Reveal; 3][..], expected(card, mail, zip), ["revealed", "revealed", "absent"]),
        (&[Mask; 3], expected(r#""********1234""#, "null", "null"), ["masked", "denied", "denied"]),
        (&[Withhold; 3], expected("null", "null", "null"), ["denied"; 3]),
        (
            &[Withhold, Reveal, Reveal],
            expected("null", mail, zip),
            ["denied", "revealed", "absent"],
        ),
        // What nobody decided is withheld.
        (&[Reveal], expected(card, "null", "null"), ["revealed", "denied", "denied"]),
        (&[], expected("null", "null", "null"), ["denied"; 3]),
    ] {
        let (disclosed, report) = bench.disclose(&out, decisions);
        assert_eq!(disclosed, shown, "{decisions:?}");
        assert_eq!(statuses(&report), status, "{decisions:?}");
    }
}

/// Whatever is there, a denied caller sees the same and no key is looked for.
#[test]
fn a_denied_caller_learns_nothing() {
    let mut bench =
        Bench::new(r#""fields":[{"id":"a","path":"$.a","index":{"normalize":"exact"}}]"#);
    let sealed = bench.protect(r#"{"a":"SECRET-CANARY"}"#);
    let token = sealed.split('"').nth(3).unwrap();
    let foreign = Bench::new(r#""fields":[{"id":"b","path":"$.a"}]"#).protect(r#"{"a":"x"}"#);
    // No keys at all: whoever looked for one would need it.
    bench.keys = Arc::new(Keyring::new(TENANT, []));
    let there = [
        sealed.clone(),
        format!(r#"{{"a":"{token}"}}"#),
        format!(r#"{{"a":"{}"}}"#, token.replace("vs1.AQ", "vs1.AA")),
        foreign,
        r#"{"a":null}"#.to_owned(),
        r#"{"a":"SECRET-CANARY"}"#.to_owned(),
        r#"{"a":{"deep":["SECRET-CANARY"]}}"#.to_owned(),
    ];
    for value in &there {
        for decisions in [&[Withhold][..], &[Mask], &[]] {
            let (disclosed, report) = bench.disclose(value, decisions);
            assert_eq!(disclosed, r#"{"a":null}"#, "{value}");
            assert_eq!(statuses(&report), ["denied"]);
            assert_eq!(exact(&report), [(0, Status::Withheld)]);
            assert!(report.places[0].kid.is_none() && report.places[0].path.is_none());
        }
    }
    let (disclosed, report) = bench.disclose(r#"{"b":1}"#, &[Withhold]);
    assert_eq!((disclosed.as_str(), statuses(&report)), (r#"{"b":1}"#, vec!["denied"]));
}

#[test]
fn every_class_has_its_status() {
    let gone = |state| Key { state, secret: None, ..key(KeyKind::Data, "schema:t") };
    let with = |change: fn(&mut Key)| {
        let mut changed = key(KeyKind::Data, "schema:t");
        change(&mut changed);
        changed
    };
    for (keys, class, status) in [
        (vec![gone(KeyState::Shredded)], OpenError::Erased, "erased"),
        (vec![gone(KeyState::Retired)], OpenError::KeyUnavailable, "key_unavailable"),
        (
            vec![with(|k| k.state = KeyState::Compromised)],
            OpenError::KeyUnavailable,
            "key_unavailable",
        ),
        (vec![with(|k| k.tenant = "other".into())], OpenError::Corrupt, "corrupt"),
        (vec![with(|k| k.kcv[31] ^= 1)], OpenError::Corrupt, "corrupt"),
        (
            vec![with(|k| k.kind = KeyKind::DeadLetter)],
            OpenError::KeyUnavailable,
            "key_unavailable",
        ),
    ] {
        let mut bench = Bench::new(FIELDS);
        let out = bench.protect(r#"{"card":"4111-1111-1111-1234"}"#);
        bench.keys = keyring_of(keys);
        for decision in [Reveal, Mask] {
            let (disclosed, report) = bench.disclose(&out, &[decision]);
            assert_eq!(disclosed, r#"{"card":null}"#, "{class:?}");
            assert_eq!(statuses(&report)[0], status, "{class:?}");
            assert_eq!(exact(&report), [(0, Status::Failed(class))]);
            assert_eq!(report.places[0].kid, Some(key(KeyKind::Data, "schema:t").id));
        }
    }
}

#[test]
fn tokens_that_are_not_the_fields_are_corrupt() {
    let mut bench = Bench::new(
        r#""fields":[{"id":"a","path":"$.a","bind":[{"name":"k","path":"$.k"}]},{"id":"b","path":"$.b"}]"#,
    );
    let out = bench.protect(r#"{"k":1,"a":"x","b":"y"}"#);
    let tokens: Vec<&str> = out.split('"').filter(|t| t.starts_with("vs1.")).collect();
    for (value, class) in [
        (out.replace(r#""k":1"#, r#""k":2"#), OpenError::Corrupt),
        (out.replace(r#""k":1"#, r#""k":{}"#), OpenError::Binding),
        (out.replace(tokens[0], tokens[1]), OpenError::FieldMismatch),
        (out.replace(tokens[0], &tokens[0][..40]), OpenError::Malformed),
        (out.replace(tokens[0], &tokens[0].replace("vs1.AQ", "vs1.CQ")), OpenError::Unsupported),
    ] {
        let (disclosed, report) = bench.disclose(&value, &[Reveal, Reveal]);
        assert!(disclosed.ends_with(r#""a":null,"b":"y"}"#), "{class:?}: {disclosed}");
        assert_eq!(statuses(&report), ["corrupt", "revealed"], "{class:?}");
        assert_eq!(exact(&report)[0], (0, Status::Failed(class)));
    }
}

/// Raw bytes are never spliced into JSON.
#[test]
fn a_token_of_raw_bytes_is_corrupt_in_a_document() {
    let bench = Bench::new(FIELDS);
    let token = sealed(&bench, PayloadKind::Bytes, "t.card", br#""4111-1111-1111-1234""#, None);
    let (disclosed, report) = bench.disclose(&format!(r#"{{"card":"{token}"}}"#), &[Reveal]);
    assert_eq!((disclosed.as_str(), statuses(&report)[0]), (r#"{"card":null}"#, "corrupt"));
}

#[test]
fn a_mask_is_of_strings() {
    let mut bench = Bench::new(FIELDS);
    for (value, shown, class) in [
        (r#""12345678""#, r#""********5678""#, Status::Masked),
        (r#""123456\"8""#, r#""********56\"8""#, Status::Masked),
        (r#""1234567""#, r#""********""#, Status::Masked),
        (r#""12345678\ud800""#, "null", Status::NotText),
        ("1234567812345678", "null", Status::NotText),
        ("true", "null", Status::NotText),
        (r#"["12345678"]"#, "null", Status::NotText),
        (r#"{"n":"12345678"}"#, "null", Status::NotText),
    ] {
        let out = bench.protect(&format!(r#"{{"card":{value}}}"#));
        let (disclosed, report) = bench.disclose(&out, &[Mask]);
        assert_eq!(disclosed, format!(r#"{{"card":{shown}}}"#), "{value}");
        assert_eq!(exact(&report), [(0, class)]);
        let status = if class == Status::Masked { "masked" } else { "denied" };
        assert_eq!(statuses(&report)[0], status, "{value}");
    }
}

#[test]
fn a_value_in_clear_is_shown_to_nobody_but_where_it_is_taken() {
    let bench = Bench::new(FIELDS);
    let value = r#"{"card":"4111-1111-1111-1234"}"#;
    for (strict, decision, shown, status) in [
        (true, Reveal, r#"{"card":null}"#, "clear"),
        (true, Mask, r#"{"card":null}"#, "clear"),
        (true, Withhold, r#"{"card":null}"#, "denied"),
        (false, Reveal, value, "clear"),
        (false, Mask, r#"{"card":"********1234"}"#, "clear"),
        (false, Withhold, r#"{"card":null}"#, "denied"),
    ] {
        let options = DisclosureOptions { decisions: &[decision], strict };
        let (disclosed, report) = bench.disclose_with(value, &options);
        assert_eq!(disclosed, shown, "{strict} {decision:?}");
        assert_eq!(statuses(&report)[0], status);
    }
    let options = DisclosureOptions { decisions: &[Mask], strict: false };
    assert_eq!(bench.disclose_with(r#"{"card":4111}"#, &options).0, r#"{"card":null}"#);
}

#[test]
fn places_that_differ_are_told_apart() {
    let mut bench = Bench::new(r#""fields":[{"id":"m","path":"$..m"},{"id":"n","path":"$.n[*]"}]"#);
    let out = bench.protect(r#"{"m":"one","a b":[{"m":"two"}],"it's":{"m":null},"n":["x","y"]}"#);
    let token = out.split('"').rfind(|t| t.starts_with("vs1.")).unwrap();
    let second = out.replace(r#""m":null"#, r#""m":"clear""#);
    let first = second.find("vs1.").unwrap();
    let mixed = format!("{}{token}{}", &second[..first], &second[first + token.len()..]);
    let (disclosed, report) = bench.disclose(&mixed, &[Reveal, Reveal]);
    assert_eq!(disclosed, r#"{"m":null,"a b":[{"m":"two"}],"it's":{"m":null},"n":["x","y"]}"#);
    assert_eq!(statuses(&report), ["revealed", "revealed"], "the one that discloses most");
    let told: Vec<_> = report
        .places
        .iter()
        .map(|place| (place.path.as_deref(), ReadStatus::from(place.status).as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (Some("$['m']"), "corrupt"),
            (Some("$['a b'][0]['m']"), "revealed"),
            (Some(r"$['it\'s']['m']"), "clear"),
            (None, "revealed"),
            (None, "revealed"),
        ]
    );
}

/// One long name above many places would make their paths longer than any memory.
#[test]
fn paths_have_the_room_that_their_document_gives() {
    const PLACES: usize = 2000;
    let mut bench = Bench::new(r#""fields":[{"id":"m","path":"$..m"}]"#);
    let out = bench.protect(r#"{"m":"one"}"#);
    let token = out.split('"').find(|text| text.starts_with("vs1.")).unwrap();
    let below = |name: &str, place: &str, other: &str| {
        let places: Vec<&str> = (0..PLACES).map(|n| [place, other][n % 2]).collect();
        format!(r#"{{"{name}":[{}]}}"#, places.join(","))
    };
    let (place, clear) = (format!(r#"{{"m":"{token}"}}"#), r#"{"m":"clear"}"#);
    let (_, report) = bench.disclose(&below("a", &place, clear), &[Reveal]);
    let last = format!("$['a'][{}]['m']", PLACES - 1);
    assert_eq!(report.places.last().unwrap().path.as_deref(), Some(&*last));
    assert!(report.places.iter().all(|place| place.path.is_some()));
    let long = "n".repeat(100_000);
    let mut revealer = Revealer::default();
    let keys = HeldKeys { keyring: &bench.keys, fetched: &FetchedKeys::default() };
    let schema = &bench.schemas.schemas()[0];
    let options = DisclosureOptions { decisions: &[Reveal], strict: true };
    let (mut shown, mut report) = (Vec::new(), Disclosure::default());
    let doc = below(&long, &place, clear);
    let refused =
        revealer.disclose(schema, keys, doc.as_bytes(), &options, &mut shown, &mut report);
    assert_eq!(refused.unwrap_err().code, RejectCode::TooComplex);
    // For the audit: what was opened all the same.
    assert_eq!((shown.len(), report.places.len()), (0, PLACES));
    assert!(report.places.iter().all(|place| place.path.is_none()));
    assert!(report.places[0].kid.is_some());
    // Of tokens elsewhere as many are named as have room.
    let elsewhere = format!("\"{token}\"");
    let (_, report) = bench.disclose(&below("a", &elsewhere, "1"), &[Reveal]);
    assert_eq!(report.unexpected_tokens.len(), PLACES / 2);
    assert_eq!(report.unexpected_tokens[1], "$['a'][2]");
    let (_, report) = bench.disclose(&below(&long, &elsewhere, "1"), &[Reveal]);
    assert_eq!(report.unexpected_tokens.len(), 1);
}

/// From least to most disclosed: the order of the statuses is what the field gets.
#[test]
fn the_status_that_discloses_most_wins() {
    assert!(ReadStatus::ALL.is_sorted());
    let names: Vec<&str> = ReadStatus::ALL.iter().map(|status| status.as_str()).collect();
    assert_eq!(
        names,
        [
            "denied",
            "absent",
            "unexpected_token",
            "corrupt",
            "key_unavailable",
            "erased",
            "clear",
            "masked",
            "revealed"
        ]
    );
}

#[test]
fn tokens_elsewhere_are_left_and_named() {
    let mut bench = Bench::new(FIELDS);
    let out = bench.protect(r#"{"card":"4111-1111-1111-1234"}"#);
    let token = out.split('"').nth(3).unwrap();
    let moved = format!(r#"{{"x":["{token}"],"\n":"{token}","card":"{token}"}}"#);
    for decision in [Reveal, Withhold] {
        let (disclosed, report) = bench.disclose(&moved, &[decision]);
        assert!(disclosed.starts_with(&format!(r#"{{"x":["{token}"],"\n":"{token}","card":"#)));
        assert_eq!(report.unexpected_tokens, ["$['x'][0]", r"$['\n']"]);
    }
}

const SUBJECT: &str = r#""subject":"$.id","fields":[{"id":"a","path":"$.a","mask":{"keep_first":2}},{"id":"b","path":"$.b"}]"#;

/// A bench whose subject 7 has a key, a protected record of it, and that key.
fn of_subject() -> (Bench, String, Arc<Key>) {
    let mut bench = Bench::new(SUBJECT);
    let Outcome::NeedKeys(needed) = bench.outcome(br#"{"id":7,"a":"first one","b":"second"}"#)
    else {
        panic!("the subject's key is not here")
    };
    let key = Arc::new(key(KeyKind::Data, &needed[0].scope.to_string()));
    bench.transformer.add_subject_keys([key.clone()]);
    let out = bench.protect(r#"{"id":7,"a":"first one","b":"second"}"#);
    (bench, out, key)
}

#[test]
fn keys_that_are_not_here_are_a_result() {
    let (bench, out, key) = of_subject();
    let mut revealer = Revealer::default();
    let (mut disclosed, mut report) = (Vec::new(), Disclosure::default());
    let mut disclose = |fetched: &FetchedKeys, decisions: &[Decision]| {
        let keys = HeldKeys { keyring: &bench.keys, fetched };
        let options = DisclosureOptions { decisions, strict: true };
        let done = revealer.disclose(
            &bench.schemas.schemas()[0],
            keys,
            out.as_bytes(),
            &options,
            &mut disclosed,
            &mut report,
        );
        let text = String::from_utf8(disclosed.clone()).unwrap();
        let told: Vec<_> = report.places.iter().map(|p| (p.status, p.kid, p.subject)).collect();
        (done.unwrap(), text, told)
    };
    let none = FetchedKeys::default();
    assert_eq!(
        disclose(&none, &[Reveal, Reveal]),
        (Disclosed::NeedKeys(vec![key.id]), String::new(), vec![]),
        "once, and nothing is told before"
    );
    assert_eq!(
        disclose(&none, &[Withhold, Mask]),
        (
            Disclosed::Whole,
            r#"{"id":7,"a":null,"b":null}"#.to_owned(),
            vec![(Status::Withheld, None, None); 2]
        ),
        "who gets nothing causes no look-up"
    );
    let Scope::Subject(subject) = key.scope else { panic!() };
    let fetched = FetchedKeys::from_iter([(key.id, Some(key.clone()))]);
    assert_eq!(
        disclose(&fetched, &[Mask, Reveal]),
        (
            Disclosed::Whole,
            r#"{"id":7,"a":"fi********","b":"second"}"#.to_owned(),
            vec![
                (Status::Masked, Some(key.id), Some(subject)),
                (Status::Revealed, Some(key.id), Some(subject))
            ]
        )
    );
    let absent = FetchedKeys::from_iter([(key.id, None)]);
    let unavailable = Status::Failed(OpenError::KeyUnavailable);
    assert_eq!(
        disclose(&absent, &[Reveal, Withhold]),
        (
            Disclosed::Whole,
            r#"{"id":7,"a":null,"b":null}"#.to_owned(),
            vec![(unavailable, Some(key.id), None), (Status::Withheld, None, None)]
        )
    );
}

#[test]
fn tokens_tell_their_keys_without_a_look_up() {
    let (bench, out, key) = of_subject();
    let mut found = Vec::new();
    let value = out.replace(r#""id":7"#, r#""id":7,"x":"vs1.no-token""#);
    Revealer::default().tokens(&bench.schemas.schemas()[0], value.as_bytes(), &mut found).unwrap();
    let told: Vec<_> =
        found.iter().map(|token| (token.field, token.header.suite, token.header.kid)).collect();
    assert_eq!(told, [(0, Suite::XaesGcm, key.id), (1, Suite::XaesGcm, key.id)]);
}

/// A token of the bench's schema key.
fn sealed(
    bench: &Bench,
    kind: PayloadKind,
    field: &str,
    payload: &[u8],
    binding: Option<&[u8]>,
) -> String {
    let key = bench.keys.sealing(KeyKind::Data, &"schema:t".parse().unwrap()).unwrap();
    let mut sealer = Sealer::new(key.clone(), Suite::AesGcm, kdf::field_id(field)).unwrap();
    let (mut nonces, mut token) = (NoncePool::new(Box::new(OsRandom)), Vec::new());
    sealer.seal(kind, payload, 16, binding, &mut nonces, &mut token).unwrap();
    String::from_utf8(token).unwrap()
}

#[test]
fn honey_withholds_all_of_its_field() {
    let mut bench = Bench::new(
        r#""fields":[{"id":"card","path":"$.cards[*]","mask":{"keep_last":4}},{"id":"b","path":"$.b"}]"#,
    );
    let out = bench.protect(r#"{"cards":["4111-1111-1111-1234","4222-2222-2222-2345"],"b":"y"}"#);
    let bait = sealed(&bench, PayloadKind::Honey, "t.card", br#""4000-0000-0000-0002""#, None);
    let baited = out.replacen("],", &format!(r#","{bait}"],"#), 1);
    let (revealed, report) = bench.disclose(&out, &[Reveal, Reveal]);
    assert!(report.honey.is_empty() && revealed.contains("4222"));
    for decision in [Reveal, Mask] {
        let (disclosed, report) = bench.disclose(&baited, &[decision, Reveal]);
        assert_eq!(disclosed, r#"{"cards":[null,null,null],"b":"y"}"#);
        assert_eq!(statuses(&report), ["denied", "revealed"]);
        assert_eq!(report.honey, [0]);
        // The audit knows which it was, and that the others were opened by their key.
        assert_eq!(
            exact(&report),
            [
                (0, Status::Withheld),
                (0, Status::Withheld),
                (0, Status::Honey),
                (1, Status::Revealed)
            ]
        );
        assert!(report.places.iter().all(|place| place.kid.is_some() && place.path.is_none()));
    }
    let (disclosed, report) = bench.disclose(&baited, &[Withhold, Withhold]);
    assert_eq!(disclosed, r#"{"cards":[null,null,null],"b":null}"#);
    assert!(report.honey.is_empty(), "nobody opened it");
}

#[test]
fn documents_that_cannot_be_read_disclose_nothing() {
    let bench = Bench::new(FIELDS);
    for text in ["", "{", r#"{"card":1,"card":2}"#] {
        let (mut out, mut report) = (b"left over".to_vec(), Disclosure::default());
        let keys = HeldKeys { keyring: &bench.keys, fetched: &FetchedKeys::default() };
        let options = DisclosureOptions { decisions: &[Reveal; 3], strict: true };
        let schema = &bench.schemas.schemas()[0];
        let result = Revealer::default().disclose(
            schema,
            keys,
            text.as_bytes(),
            &options,
            &mut out,
            &mut report,
        );
        assert!(result.is_err() && out.is_empty() && report.places.is_empty(), "{text}");
    }
}

fn bare<'a>(field: &'a str, token: &'a str) -> BareToken<'a> {
    BareToken {
        interop: None,
        fid: kdf::field_id(field),
        mask: Some(ReadMask { keep_first: 0, keep_last: 4 }),
        token: token.as_bytes(),
        decoded: None,
        bind: &[],
        subject: None,
        subject_domain: None,
    }
}

/// What becomes of a bare token under the keys of a bench.
fn read(bench: &Bench, item: &BareToken<'_>, decision: Decision) -> (String, Status) {
    let keys = HeldKeys { keyring: &bench.keys, fetched: &FetchedKeys::default() };
    let mut out = b"left over".to_vec();
    let (done, place, _) = Revealer::default().disclose_token(keys, item, decision, &mut out);
    assert_eq!(done, Disclosed::Whole);
    // Decoded by its caller, it is read no differently.
    let (decoded, mut again) = (Decoded::new(item.token).ok(), Vec::new());
    let item = BareToken { decoded: decoded.as_ref(), ..*item };
    for _ in 0..2 {
        let read = Revealer::default().disclose_token(keys, &item, decision, &mut again);
        assert_eq!((read.1.status, &again), (place.status, &out));
    }
    (String::from_utf8(out).unwrap(), place.status)
}

#[test]
fn bare_tokens_are_read_as_they_are_decided() {
    let bench = Bench::new(FIELDS);
    let seal = |kind, payload: &[u8]| sealed(&bench, kind, "t.card", payload, None);
    let text = seal(PayloadKind::Json, br#""4111-1111-1111-1234""#);
    let number = seal(PayloadKind::Json, b"4111111111111234");
    let bytes = seal(PayloadKind::Bytes, b"\"4111-1111-1111-1234\"");
    let honey = seal(PayloadKind::Honey, br#""4000-0000-0000-0002""#);
    let none = String::new;
    for (token, decision, shown, status) in [
        (&text, Reveal, r#""4111-1111-1111-1234""#.to_owned(), Status::Revealed),
        (&text, Mask, r#""********1234""#.to_owned(), Status::Masked),
        (&text, Withhold, none(), Status::Withheld),
        (&number, Reveal, "4111111111111234".to_owned(), Status::Revealed),
        (&number, Mask, none(), Status::NotText),
        (&bytes, Reveal, "\"4111-1111-1111-1234\"".to_owned(), Status::Revealed),
        (&bytes, Mask, none(), Status::NotText),
        (&honey, Reveal, none(), Status::Honey),
        (&honey, Mask, none(), Status::Honey),
        (&honey, Withhold, none(), Status::Withheld),
        (&"4111-1111-1111-1234".to_owned(), Reveal, none(), Status::Clear),
        (&"vs1.x".to_owned(), Reveal, none(), Status::Failed(OpenError::Malformed)),
        (&"vs1.x".to_owned(), Withhold, none(), Status::Withheld),
    ] {
        assert_eq!(read(&bench, &bare("t.card", token), decision), (shown, status), "{token}");
    }
    let unmasked = BareToken { mask: None, ..bare("t.card", &text) };
    assert_eq!(read(&bench, &unmasked, Mask), (none(), Status::Withheld), "it has no mask");
    assert_eq!(
        read(&bench, &bare("t.mail", &text), Reveal),
        (none(), Status::Failed(OpenError::FieldMismatch))
    );
}

#[test]
fn a_bare_token_is_tied_to_what_it_is_bound_to() {
    let bench = Bench::new(FIELDS);
    let mut binding = Vec::new();
    append_bound("a", b"x", &mut binding);
    append_bound("k", b"42", &mut binding);
    let bound = sealed(&bench, PayloadKind::Json, "t.card", b"1", Some(&binding));
    let free = sealed(&bench, PayloadKind::Json, "t.card", b"1", None);
    type Bind<'a> = &'a [(&'a str, &'a [u8])];
    let good: Bind<'_> = &[("k", b"42"), ("a", b"\"x\"")];
    let opened = Status::Revealed;
    let (refused, corrupt) =
        (Status::Failed(OpenError::Binding), Status::Failed(OpenError::Corrupt));
    let cases: [(&str, Bind<'_>, Status); 8] = [
        (&bound, good, opened),
        (&bound, &[("a", b"\"\\u0078\""), ("k", b"\"42\"")], opened),
        (&bound, &[], refused),
        (&bound, &[("k", b"42")], corrupt),
        (&bound, &[("k", b"43"), ("a", b"\"x\"")], corrupt),
        (&bound, &[("k", b"42"), ("a", b"\"x\""), ("a", b"\"x\"")], refused),
        (&bound, &[("k", b"42.0"), ("a", b"\"x\"")], refused),
        (&free, good, refused),
    ];
    for (token, bind, status) in cases {
        let shown = if status == opened { "1" } else { "" };
        let found = read(&bench, &BareToken { bind, ..bare("t.card", token) }, Reveal);
        assert_eq!(found, (shown.to_owned(), status), "{bind:?}");
    }
}

/// A stolen token planted in another row does not open there.
#[test]
fn a_bare_token_is_tied_to_whose_row_it_stands_in() {
    let (bench, out, key) = of_subject();
    let token = out.split('"').find(|t| t.starts_with("vs1.")).unwrap();
    let fetched = FetchedKeys::from_iter([(key.id, Some(key.clone()))]);
    let mut revealer = Revealer::default();
    let mut read = |fetched: &_, subject, subject_domain, decision| {
        let keys = HeldKeys { keyring: &bench.keys, fetched };
        let item = BareToken { subject, subject_domain, ..bare("t.a", token) };
        let mut text = Vec::new();
        let (done, place, _) = revealer.disclose_token(keys, &item, decision, &mut text);
        (done, place.status, String::from_utf8(text).unwrap())
    };
    let whole = |status, text: &str| (Disclosed::Whole, status, text.to_owned());
    let opened = whole(Status::Revealed, r#""first one""#);
    for subject in [None, Some(&b"7"[..]), Some(b"\"7\"")] {
        assert_eq!(read(&fetched, subject, None, Reveal), opened, "{subject:?}");
    }
    let refused = whole(Status::Failed(OpenError::Binding), "");
    for subject in [&b"8"[..], b"7.0", b"null", b"\"\"", b"{}"] {
        assert_eq!(read(&fetched, Some(subject), None, Reveal), refused);
    }
    assert_eq!(read(&fetched, Some(b"7"), Some("staff"), Reveal), refused);
    let none = FetchedKeys::default();
    assert_eq!(read(&none, Some(b"7"), None, Reveal).0, Disclosed::NeedKeys(vec![key.id]));
    assert_eq!(read(&none, Some(b"7"), None, Withhold), whole(Status::Withheld, ""));
    // A token under the schema's own key is nobody's.
    let shared = sealed(&Bench::new(FIELDS), PayloadKind::Json, "t.a", b"1", None);
    let keys = keyring_of(vec![support::key(KeyKind::Data, "schema:t")]);
    let held = HeldKeys { keyring: &keys, fetched: &none };
    let item = BareToken { subject: Some(b"7"), ..bare("t.a", &shared) };
    let place = revealer.disclose_token(held, &item, Reveal, &mut Vec::new()).1;
    assert_eq!(place.status, Status::Failed(OpenError::Binding));
}
