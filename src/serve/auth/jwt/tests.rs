use std::time::{Duration, Instant};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::json;

use super::*;
use crate::config::PrincipalKind;
use crate::serve::testing::{Behaviour, TestIssuer, claims, jwk, set, sign};

fn settings(name: &str, issuer: &str, of: &TestIssuer) -> JwtIssuer {
    JwtIssuer {
        name: name.to_owned(),
        issuer: issuer.to_owned(),
        audience: "veilstream".to_owned(),
        jwks: of.url.clone(),
        ca_file: Some(of.ca().to_owned()),
        roles_claim: "roles".to_owned(),
        kind: PrincipalKind::User,
    }
}

fn issuers(of: &TestIssuer, times: JwksTimes) -> Issuers {
    Issuers::new(&[settings("corp", "https://login.corp", of)], times).unwrap()
}

/// No pause between two fetches.
fn eager() -> JwksTimes {
    JwksTimes { pause: Duration::ZERO, ..JwksTimes::default() }
}

async fn cause(issuers: &Issuers, token: &str) -> Cause {
    issuers.check(token, crate::keys::now()).await.unwrap_err().cause
}

fn encoded(part: &Value) -> String {
    URL_SAFE_NO_PAD.encode(part.to_string())
}

#[tokio::test]
async fn a_good_token_says_who_it_is() {
    let issuer = TestIssuer::start();
    let issuers = issuers(&issuer, JwksTimes::default());
    let token = issuer.token(|_| ());
    let principal = issuers.check(&token, crate::keys::now()).await.unwrap();
    assert_eq!((&*principal.id, principal.kind), ("jwt:corp:ana", PrincipalKind::User));
    assert_eq!((principal.auth, &*principal.credential), ("jwt", "one"));
    assert!(principal.roles.iter().eq(["support", "x"]));
    // An audience among others, no `nbf`, and a time within the leeway.
    let now = crate::keys::now();
    let other = issuer.token(|claims| {
        claims["aud"] = json!(["other", "veilstream"]);
        claims["exp"] = (now - 30).into();
        claims.as_object_mut().unwrap().remove("nbf");
    });
    issuers.check(&other, now).await.unwrap();
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn whatever_is_wrong_with_a_token_refuses_it() {
    let issuer = TestIssuer::start();
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let issuers = issuers(&issuer, JwksTimes::default());
    let now = crate::keys::now();
    let with = |change: fn(&mut Value)| issuer.token(change);
    let good = issuer.token(|_| ());
    let [header, payload, signature]: [&str; 3] =
        good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let unsigned = |header: Value| format!("{}.{payload}.", encoded(&header));
    let mut symmetric = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    symmetric.kid = Some("one".to_owned());
    let public = jsonwebtoken::EncodingKey::from_secret(issuer.key().public_key_pem().as_bytes());
    let confused = jsonwebtoken::encode(&symmetric, &claims(), &public.unwrap()).unwrap();
    let admin = URL_SAFE_NO_PAD.encode(
        String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap().replace("ana", "bob"),
    );
    let cases = [
        (sign(&other, Some("one"), &claims()), Cause::TokenSignature),
        (format!("{header}.{admin}.{signature}"), Cause::TokenSignature),
        (format!("{header}.{payload}."), Cause::TokenSignature),
        (issuer.token(|claims| claims["exp"] = (now - 120).into()), Cause::TokenExpired),
        (issuer.token(|claims| claims["nbf"] = (now + 600).into()), Cause::TokenEarly),
        (with(|claims| claims["aud"] = "other".into()), Cause::TokenAudience),
        (with(|claims| claims["iss"] = "https://evil".into()), Cause::TokenIssuer),
        (unsigned(json!({"alg":"none","kid":"one"})), Cause::TokenAlgorithm),
        (unsigned(json!({"alg":"nOnE","kid":"one"})), Cause::TokenAlgorithm),
        (confused, Cause::TokenAlgorithm),
        (sign(issuer.key(), Some("two"), &claims()), Cause::TokenKey),
        (with(|claims| drop(claims.as_object_mut().unwrap().remove("exp"))), Cause::TokenClaims),
        (with(|claims| drop(claims.as_object_mut().unwrap().remove("aud"))), Cause::TokenClaims),
        (with(|claims| drop(claims.as_object_mut().unwrap().remove("sub"))), Cause::TokenClaims),
        (with(|claims| claims["sub"] = "".into()), Cause::TokenClaims),
        (with(|claims| claims["sub"] = "a\nb".into()), Cause::TokenClaims),
        (with(|claims| claims["sub"] = "a".repeat(257).into()), Cause::TokenClaims),
        (with(|claims| claims["iss"] = json!(["https://login.corp"])), Cause::Malformed),
        (unsigned(json!({"alg":"ES256","kid":"one","crit":["b64"]})), Cause::Malformed),
        (unsigned(json!({"alg":"ES256","kid":"one","typ":"logout+jwt"})), Cause::Malformed),
        (format!("{good}.more"), Cause::Malformed),
        ("a.b.c".to_owned(), Cause::Malformed),
        ("..".to_owned(), Cause::Malformed),
        (String::new(), Cause::Malformed),
    ];
    for (token, expected) in cases {
        assert_eq!(cause(&issuers, &token).await, expected, "{token}");
    }
    // One fetch for them all: none of them made another.
    assert_eq!(issuer.asked(), 1);
}

/// A header that says where its key is, is not listened to.
#[tokio::test]
async fn keys_of_the_header_are_not_read() {
    let issuer = TestIssuer::start();
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let issuers = issuers(&issuer, JwksTimes::default());
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    header.kid = Some("one".to_owned());
    header.jku = Some("https://127.0.0.1:1/keys".to_owned());
    header.jwk = Some(serde_json::from_value(jwk(&other, "one")).unwrap());
    let key = jsonwebtoken::EncodingKey::from_ec_der(other.serialized_der());
    let token = jsonwebtoken::encode(&header, &claims(), &key).unwrap();
    assert_eq!(cause(&issuers, &token).await, Cause::TokenSignature);
}

#[tokio::test]
async fn two_issuers_with_one_subject_are_two_principals() {
    let (first, second) = (TestIssuer::start(), TestIssuer::start());
    let both = [
        settings("corp", "https://login.corp", &first),
        JwtIssuer { kind: PrincipalKind::Service, ..settings("batch", "batch", &second) },
    ];
    let issuers = Issuers::new(&both, JwksTimes::default()).unwrap();
    let now = crate::keys::now();
    let one = issuers.check(&first.token(|_| ()), now).await.unwrap();
    let of_batch = |claims: &mut Value| claims["iss"] = "batch".into();
    let two = issuers.check(&second.token(of_batch), now).await.unwrap();
    assert_eq!((&*one.id, &*two.id), ("jwt:corp:ana", "jwt:batch:ana"));
    assert_eq!((one.kind, two.kind), (PrincipalKind::User, PrincipalKind::Service));
    // Each signs for itself alone.
    assert_eq!(cause(&issuers, &first.token(of_batch)).await, Cause::TokenSignature);
}

#[tokio::test]
async fn a_token_without_a_key_id_needs_an_issuer_with_one_key() {
    let issuer = TestIssuer::start();
    let issuers = issuers(&issuer, eager());
    let token = sign(issuer.key(), None, &claims());
    issuers.check(&token, crate::keys::now()).await.unwrap();
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    issuer.behave(Behaviour::Answer(set(&[jwk(issuer.key(), "one"), jwk(&other, "two")])));
    // An unknown key fetches.
    issuers.check(&sign(&other, Some("two"), &claims()), crate::keys::now()).await.unwrap();
    let mut later = claims();
    later["jti"] = "not remembered".into();
    assert_eq!(cause(&issuers, &sign(issuer.key(), None, &later)).await, Cause::TokenKey);
}

#[tokio::test]
async fn an_unknown_key_fetches_once_a_minute_at_most() {
    let issuer = TestIssuer::start();
    let issuers = issuers(&issuer, JwksTimes::default());
    issuers.check(&issuer.token(|_| ()), crate::keys::now()).await.unwrap();
    for n in 0..50 {
        let token = sign(issuer.key(), Some(&format!("k{n}")), &claims());
        assert_eq!(cause(&issuers, &token).await, Cause::TokenKey);
    }
    assert_eq!(issuer.asked(), 1);
}

/// Requests do not queue up behind a server that does not answer, and ask it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_issuer_is_asked_once_and_holds_nobody_up() {
    let issuer = TestIssuer::start();
    issuer.behave(Behaviour::Hang);
    let times = JwksTimes { request: Duration::from_secs(2), ..JwksTimes::default() };
    let issuers = Arc::new(issuers(&issuer, times));
    let began = Instant::now();
    let asked = (0..100).map(|n| {
        let token = sign(issuer.key(), Some(&format!("k{n}")), &claims());
        let issuers = issuers.clone();
        tokio::spawn(async move {
            let cause = cause(&issuers, &token).await;
            (cause, began.elapsed())
        })
    });
    let asked: Vec<_> = asked.collect();
    let mut at_once = 0;
    for one in asked {
        let (cause, took) = one.await.unwrap();
        assert_eq!(cause, Cause::TokenKeysOld);
        at_once += usize::from(took < times.request);
    }
    assert!(at_once >= 80, "{at_once} of 100 did not wait");
    assert_eq!(issuer.asked(), 1);
}

/// Or anyone could keep new keys out: with a token of an unknown key, a minute for each.
#[tokio::test]
async fn a_fetch_goes_on_when_its_caller_hangs_up() {
    let issuer = TestIssuer::start();
    let issuers = issuers(&issuer, JwksTimes::default());
    let (token, now) = (issuer.token(|_| ()), crate::keys::now());
    // Polled once, and dropped.
    let asked = tokio::time::timeout(Duration::ZERO, issuers.check(&token, now));
    assert!(asked.await.is_err());
    let since = Instant::now();
    while issuers.check(&token, now).await.is_err() {
        assert!(since.elapsed() < Duration::from_secs(30), "nobody fetches the keys");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn each_fetch_is_told_no_matter_who_caused_it() {
    let (first, second) = (TestIssuer::start(), TestIssuer::start());
    second.behave(Behaviour::Hang);
    let both = [
        settings("corp", "https://login.corp", &first),
        settings("slow", "https://login.slow", &second),
    ];
    let issuers = Arc::new(Issuers::new(&both, eager()).unwrap());
    let (send, mut told) = tokio::sync::mpsc::unbounded_channel();
    let kept = issuers.clone();
    let keeping = tokio::spawn(async move {
        let heard = |name: &str, outcome: Result<(), JwksFault>| {
            send.send((name.to_owned(), outcome.is_ok())).unwrap();
        };
        kept.keep_fresh(Duration::from_secs(3600), heard).await;
    });
    assert_eq!(told.recv().await, Some(("corp".to_owned(), true)), "it waits for nobody");
    first.behave(Behaviour::Close);
    let token = sign(first.key(), Some("two"), &claims());
    assert_eq!(cause(&issuers, &token).await, Cause::TokenKey);
    assert_eq!(told.recv().await, Some(("corp".to_owned(), false)));
    keeping.abort();
}

#[tokio::test]
async fn an_issuer_that_fails_leaves_its_last_good_keys() {
    let issuer = TestIssuer::start();
    let times = JwksTimes { refresh: Duration::ZERO, request: Duration::from_secs(1), ..eager() };
    let issuers = issuers(&issuer, times);
    let keys = &issuers.issuers[0].keys;
    keys.refresh().await;
    keys.take_untold().unwrap().unwrap();
    let none = set(&[json!({"kty":"oct","k":"AAAA","kid":"one"})]);
    let behaviours = [
        Behaviour::Close,
        Behaviour::Hang,
        Behaviour::Redirect(issuer.url.clone()),
        Behaviour::Answer("<html>".to_owned()),
        Behaviour::Answer(none),
        Behaviour::Answer(format!("{{\"keys\":[],\"x\":\"{}\"}}", "a".repeat(2 << 20))),
    ];
    for (n, behaviour) in behaviours.into_iter().enumerate() {
        issuer.behave(behaviour);
        keys.refresh().await;
        let fault = keys.take_untold().unwrap().unwrap_err();
        assert!(!fault.to_string().contains("127.0.0.1"), "{fault}");
        let token = issuer.token(|claims| claims["jti"] = n.into());
        issuers.check(&token, crate::keys::now()).await.unwrap();
    }
}

#[tokio::test]
async fn old_keys_are_of_no_use() {
    let issuer = TestIssuer::start();
    let times = JwksTimes { oldest: Duration::from_millis(100), ..JwksTimes::default() };
    let issuers = issuers(&issuer, times);
    issuers.issuers[0].keys.refresh().await;
    issuers.issuers[0].keys.take_untold().unwrap().unwrap();
    issuer.behave(Behaviour::Close);
    let since = Instant::now();
    let token = |n: u32| {
        sign(issuer.key(), Some("one"), &{
            let mut claims = claims();
            claims["jti"] = n.into();
            claims
        })
    };
    let mut n = 0;
    loop {
        n += 1;
        match issuers.check(&token(n), crate::keys::now()).await {
            Err(refusal) => break assert_eq!(refusal.cause, Cause::TokenKeysOld),
            Ok(_) => assert!(since.elapsed() < Duration::from_secs(60)),
        }
    }
}

/// A private authority counts for the issuer's address, and the system's do not.
#[tokio::test]
async fn keys_come_from_whom_the_configured_authority_vouches_for() {
    let (issuer, other) = (TestIssuer::start(), TestIssuer::start());
    for ca_file in [None, Some(other.ca().to_owned())] {
        let settings = JwtIssuer { ca_file, ..settings("corp", "https://login.corp", &issuer) };
        let issuers = Issuers::new(&[settings], eager()).unwrap();
        assert_eq!(cause(&issuers, &issuer.token(|_| ())).await, Cause::TokenKeysOld);
    }
    assert_eq!(issuer.asked(), 0);
}

#[tokio::test]
async fn a_verified_token_is_remembered_but_not_beyond_its_end() {
    let issuer = TestIssuer::start();
    let issuers = issuers(&issuer, JwksTimes::default());
    let now = crate::keys::now();
    let long = issuer.token(|_| ());
    let short = issuer.token(|claims| claims["exp"] = (now + 20).into());
    let known =
        |token: &str, at: u64| issuers.remembered(&Sha256::digest(token).into(), at).is_some();
    issuers.check(&long, now).await.unwrap();
    issuers.check(&short, now).await.unwrap();
    assert!(known(&long, now + REMEMBERED - 1) && known(&short, now + 19));
    assert!(!known(&long, now - 1), "a clock that went back");
    issuers.check(&long, now).await.unwrap();
    assert!(!known(&short, now + 20) && !known(&long, now + REMEMBERED));
    assert!(issuers.lock().is_empty());
    // Where the leeway alone lets it in, it is not remembered.
    let late = issuer.token(|claims| claims["exp"] = (now - 10).into());
    issuers.check(&late, now).await.unwrap();
    assert!(issuers.lock().is_empty());
}

#[test]
fn roles_come_from_any_claim() {
    let claims = json!({"roles":["a","b",5,""],"scope":"a  b","realm":{"roles":["c"]},"a.b":["d"]});
    let found = |name: &str| roles(&claims, name).into_iter().collect::<Vec<_>>().join(",");
    assert_eq!(found("roles"), "a,b");
    assert_eq!(found("scope"), "a,b");
    assert_eq!(found("realm.roles"), "c");
    assert_eq!(found("a.b"), "d");
    assert_eq!(found("nothing"), "");
    let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(roles(&json!({ "roles": many }), "roles").len(), ROLES_MAX);
}
