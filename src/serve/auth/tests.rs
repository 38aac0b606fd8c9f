use std::collections::BTreeSet;
use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::config::{JwtIssuer, ServeLimits};
use crate::serve::testing::{Keys, TestIssuer, claims, sign};

fn authenticator(
    principals: &[CredentialKind],
    keys: Arc<Keys>,
    issuer: &TestIssuer,
) -> Authenticator {
    let one = |name: &str, issuer_: &str, kind| JwtIssuer {
        name: name.to_owned(),
        issuer: issuer_.to_owned(),
        audience: "veilstream".to_owned(),
        jwks: issuer.url.clone(),
        ca_file: Some(issuer.ca().to_owned()),
        roles_claim: "roles".to_owned(),
        kind,
    };
    let settings = Serve {
        listen: ([127, 0, 0, 1], 0).into(),
        principals: principals.iter().copied().collect(),
        insecure: true,
        certificate: None,
        client_ca_file: None,
        client_crl_file: None,
        clients: BTreeMap::new(),
        issuers: vec![
            one("corp", "https://login.corp", PrincipalKind::User),
            one("batch", "batch", PrincipalKind::Service),
        ],
        proxies: Vec::new(),
        instances: 1,
        reveal: true,
        honey_suspends: false,
        limits: ServeLimits { items_per_second: 1000, requests: 8, bytes: 8 << 20, connections: 8 },
    };
    let issuers = Issuers::new(&settings.issuers, JwksTimes::default()).unwrap();
    let api_keys = ApiKeys::new(keys);
    api_keys.look(crate::keys::now()).unwrap();
    Authenticator::new(&settings, issuers, api_keys)
}

fn peer() -> Peer {
    Peer::new(([192, 0, 2, 1], 5).into(), None)
}

async fn ask(
    authenticator: &Authenticator,
    headers: &[(&'static str, &str)],
) -> Result<Principal, (Cause, bool)> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, HeaderValue::from_str(value).unwrap());
    }
    authenticator.authenticate(&map, &peer(), crate::keys::now()).await.map_err(|denied| {
        match denied {
            Denied::Refused(refusal) => (refusal.cause, refusal.of_person),
            Denied::Unavailable => panic!("the keys are there"),
        }
    })
}

#[tokio::test]
async fn one_credential_of_a_kind_that_is_taken() {
    let (keys, issuer) = (Arc::new(Keys::default()), TestIssuer::start());
    let key = keys.make("reports");
    let with_key = format!("Bearer {}", key.expose());
    let with_token = format!("bearer  {}", issuer.token(|_| ()));
    let both = authenticator(&[CredentialKind::Key, CredentialKind::Jwt], keys.clone(), &issuer);
    let id = |found: Result<Principal, _>| found.map(|principal| principal.id);
    assert_eq!(id(ask(&both, &[("authorization", &with_key)]).await), Ok("key:reports".into()));
    assert_eq!(id(ask(&both, &[("authorization", &with_token)]).await), Ok("jwt:corp:ana".into()));
    let refused = |cause| Err((cause, false));
    assert_eq!(id(ask(&both, &[]).await), refused(Cause::Nothing));
    let twice = [("authorization", &*with_key), ("authorization", &*with_token)];
    assert_eq!(id(ask(&both, &twice).await), refused(Cause::Several));
    let joined = format!("{with_key}, {with_token}");
    for wrong in ["Basic abc", "Bearer", "Bearer ", key.expose(), &joined, "Bearer a b"] {
        assert_eq!(
            id(ask(&both, &[("authorization", wrong)]).await),
            refused(Cause::Malformed),
            "{wrong}"
        );
    }
    let only_jwt = authenticator(&[CredentialKind::Jwt], keys.clone(), &issuer);
    assert_eq!(id(ask(&only_jwt, &[("authorization", &with_key)]).await), refused(Cause::Kind));
    let only_key = authenticator(&[CredentialKind::Key], keys, &issuer);
    assert_eq!(id(ask(&only_key, &[("authorization", &with_token)]).await), refused(Cause::Kind));
}

#[tokio::test]
async fn a_person_is_proved_by_a_token_of_a_person() {
    const PERSON: &str = "veilstream-on-behalf-of";
    let (keys, issuer) = (Arc::new(Keys::default()), TestIssuer::start());
    let key = format!("Bearer {}", keys.make("portal").expose());
    let authenticator = authenticator(&[CredentialKind::Key], keys, &issuer);
    let token = issuer.token(|_| ());
    let found = ask(&authenticator, &[("authorization", &key), (PERSON, &token)]).await.unwrap();
    assert_eq!((&*found.id, found.auth), ("key:portal", "key+jwt"));
    let person = found.proved_person.as_deref().unwrap();
    assert_eq!(person.id, "jwt:corp:ana");
    assert!(person.roles.contains("x"));
    let mut fewer = found.clone();
    fewer.retain_roles(|role| role == "support");
    assert!(fewer.proved_person.unwrap().roles.iter().eq(["support"]));
    let now = crate::keys::now();
    let robot = issuer.token(|claims| claims["iss"] = "batch".into());
    let expired = issuer.token(|claims| claims["exp"] = (now - 120).into());
    let unknown = sign(issuer.key(), Some("two"), &claims());
    // What does not prove a person refuses the request.
    for (proof, cause) in [
        (&robot, Cause::NoPerson),
        (&expired, Cause::TokenExpired),
        (&unknown, Cause::TokenKey),
        (&"ana@corp".to_owned(), Cause::Malformed),
    ] {
        let asked = ask(&authenticator, &[("authorization", &key), (PERSON, proof)]).await;
        assert_eq!(asked.unwrap_err(), (cause, true));
    }
    let twice = [("authorization", &*key), (PERSON, &*token), (PERSON, &*token)];
    assert_eq!(ask(&authenticator, &twice).await.unwrap_err(), (Cause::Several, true));
    // A proof alone is no credential.
    assert_eq!(
        ask(&authenticator, &[(PERSON, &token)]).await.unwrap_err(),
        (Cause::Nothing, false)
    );
}

#[tokio::test]
async fn a_credential_that_ended_holds_no_more() {
    let (keys, issuer) = (Arc::new(Keys::default()), TestIssuer::start());
    let key = format!("Bearer {}", keys.make("reports").expose());
    let both = authenticator(&[CredentialKind::Key, CredentialKind::Jwt], keys.clone(), &issuer);
    let now = crate::keys::now();
    let principal = ask(&both, &[("authorization", &key)]).await.unwrap();
    assert!(both.holds(&principal, &peer(), now));
    keys.revoke_all();
    both.api_keys().look(now).unwrap();
    assert!(!both.holds(&principal, &peer(), now));
    let token = format!("Bearer {}", issuer.token(|claims| claims["exp"] = (now + 20).into()));
    let principal = ask(&both, &[("authorization", &token)]).await.unwrap();
    // As long as it is let in: clocks may differ by a minute.
    assert!(both.holds(&principal, &peer(), now + 79));
    assert!(!both.holds(&principal, &peer(), now + 80));
}

#[test]
fn every_cause_has_a_code_of_its_own_and_a_row_in_the_document() {
    let causes = [
        Cause::Nothing,
        Cause::Several,
        Cause::Kind,
        Cause::Malformed,
        Cause::Certificate,
        Cause::CertificateName,
        Cause::CertificateUnknown,
        Cause::KeyMistyped,
        Cause::KeyUnknown,
        Cause::KeyWrong,
        Cause::KeyRevoked,
        Cause::KeyExpired,
        Cause::TokenIssuer,
        Cause::TokenKey,
        Cause::TokenKeysOld,
        Cause::TokenAlgorithm,
        Cause::TokenSignature,
        Cause::TokenAudience,
        Cause::TokenExpired,
        Cause::TokenEarly,
        Cause::TokenClaims,
        Cause::NoPerson,
    ];
    let document = include_str!("../../../docs/metrics.md");
    let (_, rows) = document.split_once("### Why a login is refused\n").unwrap();
    let (rows, _) = rows.split_once("\n#").unwrap();
    let known: BTreeSet<&str> =
        rows.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(known, causes.iter().map(|cause| cause.as_str()).collect());
    assert_eq!(known.len(), causes.len());
}

/// Header lines as anybody may send them: nothing makes the service fall, and nobody gets in.
#[test]
fn no_header_opens_the_door_or_breaks_it() {
    let (keys, issuer) = (Arc::new(Keys::default()), TestIssuer::start());
    let key = keys.make("reports").expose().to_owned();
    let token = issuer.token(|_| ());
    let both = authenticator(&[CredentialKind::Key, CredentialKind::Jwt], keys, &issuer);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let names = prop::sample::select(vec![
        "authorization",
        "veilstream-on-behalf-of",
        "x-forwarded-for",
        "content-type",
    ]);
    let damaged =
        (prop::sample::select(vec![key, token]), any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(text, at, byte)| {
                let mut bytes = text.into_bytes();
                let at = at.index(bytes.len());
                // Base64url's last characters may spell the same bytes twice.
                bytes[at.min(at.saturating_sub(1))] = byte;
                bytes.push(b'-');
                [b"Bearer ", &bytes[..]].concat()
            });
    let values = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "Bearer [a-zA-Z0-9._-]{0,80}".prop_map(String::into_bytes),
        "Bearer (vsk_)?[0-9a-f_]{0,120}".prop_map(String::into_bytes),
        "Bearer (e[a-zA-Z0-9]{0,30}\\.){2}[a-zA-Z0-9]{0,30}".prop_map(String::into_bytes),
        damaged,
    ];
    proptest!(ProptestConfig::with_cases(2000), |(lines in prop::collection::vec((names, values), 0..4))| {
        let mut headers = HeaderMap::new();
        for (name, value) in &lines {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(HeaderName::from_static(name), value);
            }
        }
        let proxies = [crate::config::Network::parse("0.0.0.0/0").unwrap()];
        let _ = self::peer().ip(&headers, &proxies);
        let peer = peer();
        let asked = both.authenticate(&headers, &peer, crate::keys::now());
        prop_assert!(runtime.block_on(asked).is_err());
    });
}
