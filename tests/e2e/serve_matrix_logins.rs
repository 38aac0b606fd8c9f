//! Credentials that are refused by the running service: the same answer to each, its cause in the
//! audit log, and nobody else held up.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};
use veilstream_keys::credential::ApiKey;

use crate::instance::{Instance, Setup, done};
use crate::keys::now;
use crate::serve_matrix_world::World;
use crate::testing::{Authority, Behaviour, TestIssuer, claims, sign, until};

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

/// JWTs that nobody may get in with, and why.
fn tokens(issuer: &TestIssuer) -> Vec<(String, &'static str)> {
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let good = issuer.token(|_| ());
    let payload = good.split('.').nth(1).unwrap();
    let unsigned =
        |header: Value| format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header.to_string()));
    let mut symmetric = Header::new(Algorithm::HS256);
    symmetric.kid = Some("one".to_owned());
    let public = EncodingKey::from_secret(issuer.key().public_key_pem().as_bytes());
    let confused = jsonwebtoken::encode(&symmetric, &claims(), &public.unwrap()).unwrap();
    let (past, soon) = (now() - 120, now() + 600);
    vec![
        (sign(&other, Some("one"), &claims()), "token_signature"),
        (issuer.token(|claims| claims["exp"] = past.into()), "token_expired"),
        (issuer.token(|claims| claims["nbf"] = soon.into()), "token_early"),
        (issuer.token(|claims| claims["aud"] = "other".into()), "token_audience"),
        (issuer.token(|claims| claims["iss"] = "https://evil".into()), "token_issuer"),
        (unsigned(json!({ "alg": "none", "kid": "one" })), "token_algorithm"),
        (confused, "token_algorithm"),
        (sign(issuer.key(), Some("two"), &claims()), "token_key"),
        (
            issuer.token(|claims| drop(claims.as_object_mut().unwrap().remove("exp"))),
            "token_claims",
        ),
        (format!("{good}.more"), "malformed"),
    ]
}

/// Status, headers but the date, and body.
fn told(asked: RequestBuilder) -> (u16, Vec<String>, String) {
    let answer = asked.send().unwrap();
    let headers = answer.headers().iter().filter(|(name, _)| *name != "date");
    let headers = headers.map(|(name, value)| format!("{name}: {value:?}")).collect();
    (answer.status().as_u16(), headers, answer.text().unwrap())
}

#[test]
fn every_refused_credential_has_the_same_answer_and_its_line() {
    let world = World::new(&["support", "gone"]);
    world.ship_policies();
    done(&mut world.instance.keys(&["revoke", "--name", "gone"]));
    let running = world.instance.start();
    let plain = world.servers.client(None);
    let with = |names| world.servers.client(Some(&world.clients.leaf(names, 7, false)));
    let fraud = with(vec![uri("spiffe://corp/fraud")]);
    let url = format!("https://{}/v1/reveal", running.address);
    let body = json!({ "purpose": "support", "items": [] });
    let (good, key) = (world.issuer.token(|_| ()), &world.keys["support"]);
    let of_service = world.issuer.token(|claims| claims["iss"] = "batch".into());
    let expired = world.issuer.token(|claims| claims["exp"] = (now() - 120).into());
    let unknown = ApiKey::generate().unwrap().expose().to_owned();
    let ask = |client: &Client, bearer: Option<&str>, person: Option<&str>| {
        let mut asked = client.post(&url).json(&body);
        if let Some(token) = bearer {
            asked = asked.bearer_auth(token);
        }
        match person {
            Some(token) => asked.header("veilstream-on-behalf-of", token),
            None => asked,
        }
    };
    let mut refused: Vec<(RequestBuilder, &str)> = tokens(&world.issuer)
        .iter()
        .map(|(token, cause)| (ask(&plain, Some(token), None), *cause))
        .collect();
    refused.extend([
        (ask(&plain, None, None), "no_credential"),
        (ask(&plain, Some(&format!("{key}0")), None), "key_mistyped"),
        (ask(&plain, Some(&unknown), None), "key_unknown"),
        (ask(&plain, Some(&world.keys["gone"]), None), "key_revoked"),
        (ask(&fraud, Some(&good), None), "several_credentials"),
        (ask(&fraud, Some(key), None), "several_credentials"),
        (ask(&with(vec![uri("spiffe://corp/other")]), None, None), "certificate_unknown"),
        (ask(&with(vec![]), None, None), "certificate_name"),
        (
            ask(&with(vec![uri("spiffe://corp/fraud"), uri("spiffe://corp/export")]), None, None),
            "certificate_name",
        ),
        // A person who is not proved refuses the request of a service that would get in.
        (ask(&fraud, None, Some(&expired)), "token_expired"),
        (ask(&fraud, None, Some(&of_service)), "no_person"),
        (ask(&plain, Some(key), Some("ana@corp")), "malformed"),
    ]);
    let mut causes = BTreeMap::new();
    let mut answers = Vec::new();
    for (n, (asked, cause)) in refused.into_iter().enumerate() {
        // From an address each, or the first ones' refusals would be the others' limit.
        let address = format!("203.0.113.{}", n + 1);
        answers.push((cause, told(asked.header("x-forwarded-for", &address))));
        causes.insert(address, cause);
    }
    let (_, first) = &answers[0];
    assert_eq!(first.0, 401, "{first:?}");
    assert!(answers.iter().all(|(_, answer)| answer == first), "{answers:?}");
    // Those who are let in, each by one credential.
    for asked in [
        ask(&plain, Some(&good), None),
        ask(&plain, Some(key), Some(&good)),
        ask(&fraud, None, None),
        ask(&fraud, None, Some(&good)),
    ] {
        assert_eq!(told(asked.header("x-forwarded-for", "203.0.113.200")).0, 200);
    }
    // No handshake: there is no request to answer.
    let strangers = Authority::new().leaf(vec![uri("spiffe://corp/fraud")], 7, false);
    let old = world.clients.leaf(vec![uri("spiffe://corp/fraud")], 8, true);
    for leaf in [&strangers, &old] {
        assert!(ask(&world.servers.client(Some(leaf)), None, None).send().is_err());
    }
    causes.insert("127.0.0.1".to_owned(), "certificate_invalid");
    let lines = || -> BTreeMap<String, Value> {
        let lines = world.instance.audited().into_iter();
        let refused = lines.filter(|line| line["event"] == "login_refused");
        refused.map(|line| (line["ip"].as_str().unwrap().to_owned(), line)).collect()
    };
    until("each has its line", || lines().len() == causes.len());
    for (address, line) in lines() {
        assert_eq!(line["reason"], causes[&address], "{line}");
        assert_eq!((&line["outcome"], &line["actor"]), (&"denied".into(), &"unknown".into()));
    }
    assert!(world.instance.verify().status.success());
}

/// An issuer whose keys do not come lets nobody in, and holds up nobody but its own.
#[test]
fn keys_of_an_issuer_that_do_not_come_let_nobody_in() {
    let behaviours = [
        ("down", Behaviour::Close),
        ("slow", Behaviour::Hang),
        ("html", Behaviour::Answer("<html>not found</html>".to_owned())),
        ("none", Behaviour::Answer("{\"keys\":[]}".to_owned())),
        ("elsewhere", Behaviour::Redirect("https://127.0.0.1:1/keys".to_owned())),
    ];
    let issuers: Vec<(&str, TestIssuer)> = behaviours
        .into_iter()
        .map(|(name, behaviour)| {
            let issuer = TestIssuer::start();
            issuer.behave(behaviour);
            (name, issuer)
        })
        .collect();
    let good = TestIssuer::start();
    let section = |name: &str, issuer: &TestIssuer| {
        format!(
            "[serve.jwt.{name}]\nissuer = \"{name}\"\naudience = \"veilstream\"\njwks = \
            \"{}\"\nca_file = \"{}\"\n",
            issuer.url,
            issuer.ca().display()
        )
    };
    let mut serve = "insecure = true\nprincipals = [\"jwt\", \"key\"]\n".to_owned();
    serve += &section("good", &good);
    issuers.iter().for_each(|(name, issuer)| serve += &section(name, issuer));
    let instance = Instance::of(&Setup { serve: &serve, ..Setup::default() });
    let (_, key) = instance.make_key("desk");
    let running = instance.start();
    let client = Client::new();
    let of = |issuer: &TestIssuer, name: &str| issuer.token(|claims| claims["iss"] = name.into());
    std::thread::scope(|scope| {
        let (_, slow) = issuers.iter().find(|(name, _)| *name == "slow").unwrap();
        let (token, own) = (of(slow, "slow"), Client::new());
        let running = &running;
        let waits = scope.spawn(move || running.status(&own, "http", &token));
        until("the slow issuer is asked", || slow.asked() > 0);
        assert_eq!(running.status(&client, "http", &key), 200);
        assert_eq!(running.status(&client, "http", &of(&good, "good")), 200);
        for (name, issuer) in issuers.iter().filter(|(name, _)| *name != "slow") {
            assert_eq!(running.status(&client, "http", &of(issuer, name)), 401, "{name}");
        }
        assert!(!waits.is_finished(), "others were answered only when the slow issuer gave up");
        assert_eq!(waits.join().unwrap(), 401);
    });
    let told = |name: &str| running.report().get(format!("issuer {name}")).is_some();
    until("each is told of", || issuers.iter().all(|(name, _)| told(name)));
}
