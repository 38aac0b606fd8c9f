//! Provider `aws-kms` on LocalStack's KMS. It knows neither IAM nor throttling, which a proxy
//! plays, and does not tell the material of a key: wraps keep the version `1` over a rotation,
//! where AWS tells a new one.
#![cfg(feature = "aws-kms")]
#![allow(clippy::unwrap_used, reason = "a test ends here")]

#[path = "support/ports.rs"]
mod ports;
#[path = "support/provider_suite.rs"]
mod provider_suite;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/servers.rs"]
mod servers;

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use veilstream_keys::provider::{
    AwsKmsProvider, AwsKmsSettings, Provider, ProviderError, Rotation,
};

use provider_suite::{Sample, conformance, with_layers};
use proxy::{Mode, Proxy};
use servers::kms;

const HERE: &str = "eu-central-1";

/// Credentials come from the environment, which a test may not change: the tests below run in a
/// child.
#[test]
fn on_localstack() {
    let child = Command::new(std::env::current_exe().unwrap())
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "canary-secret-4f9c")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .arg("--ignored")
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&child.stdout),
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(child.status.success(), "{said}");
    assert!(said.contains("8 passed"), "{said}");
    assert!(!said.contains("canary-secret"), "{said}");
}

#[test]
fn without_credentials_it_says_what_to_give() {
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "asks_without_credentials"])
        .env("HOME", dir.path())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("NO_CREDENTIALS", "1")
        .env_remove("AWS_ACCESS_KEY_ID")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}

#[test]
#[ignore = "run by without_credentials_it_says_what_to_give"]
fn asks_without_credentials() {
    if std::env::var_os("NO_CREDENTIALS").is_some() {
        let error = provider(
            "http://127.0.0.1:9",
            &["arn:aws:kms:eu-central-1:111122223333:key/x".to_owned()],
        )
        .health()
        .unwrap_err();
        assert!(
            matches!(error, ProviderError::Denied { .. })
                && error.to_string().contains("there are no AWS credentials"),
            "{error}"
        );
    }
}

fn provider(endpoint: &str, arns: &[String]) -> AwsKmsProvider {
    let endpoint = Some(endpoint.to_owned());
    AwsKmsProvider::new(&AwsKmsSettings {
        key_arns: arns.to_vec(),
        endpoint,
        profile: None,
        timeout: Duration::from_secs(5),
    })
    .unwrap()
}

/// A new key, behind a proxy of its own.
fn proxied() -> (Proxy, String, AwsKmsProvider) {
    let proxy = Proxy::before(&format!("127.0.0.1:{}", kms().port));
    let arn = kms().key(HERE);
    let provider = provider(&proxy.address, std::slice::from_ref(&arn));
    (proxy, arn, provider)
}

#[test]
#[ignore = "run by on_localstack"]
fn keeps_the_promises_of_a_provider() {
    let (_proxy, arn, provider) = proxied();
    conformance(&provider);
    let kek = provider.describe().unwrap();
    assert_eq!((kek.uri, kek.rotation), (format!("aws-kms:{arn}"), Rotation::Elsewhere));
}

#[test]
#[ignore = "run by on_localstack"]
fn rotates_and_rewraps() {
    let (proxy, _, provider) = proxied();
    let sample = Sample::new();
    let old = sample.wrap(&provider);
    provider.rotate(0).unwrap();
    sample.opens(&provider, &old);
    proxy.requests();
    let moved = provider.rewrap(&[(&old, sample.context())]).unwrap().pop().unwrap().unwrap();
    assert_eq!(proxy.requests().len(), 2, "described and re-encrypted: the key does not leave KMS");
    assert_ne!(moved.wrapped, old.wrapped);
    sample.opens(&provider, &moved);
}

#[test]
#[ignore = "run by on_localstack"]
fn a_disabled_or_dying_key_is_no_wrong_key() {
    let (_proxy, arn, provider) = proxied();
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    let all_disabled = || {
        for error in [
            provider.unwrap(&wrap, &sample.context()).err(),
            provider.wrap(&sample.secret, &sample.context()).err(),
            provider.health().err(),
        ] {
            assert!(matches!(error, Some(ProviderError::Disabled { .. })), "{error:?}");
        }
    };
    kms().api(HERE, "DisableKey", &json!({ "KeyId": arn }));
    all_disabled();
    kms().api(HERE, "EnableKey", &json!({ "KeyId": arn }));
    sample.opens(&provider, &wrap);
    kms().api(HERE, "ScheduleKeyDeletion", &json!({ "KeyId": arn, "PendingWindowInDays": 7 }));
    all_disabled();
    kms().api(HERE, "CancelKeyDeletion", &json!({ "KeyId": arn }));
    kms().api(HERE, "EnableKey", &json!({ "KeyId": arn }));
    sample.opens(&provider, &wrap);
}

#[test]
#[ignore = "run by on_localstack"]
fn another_key_opens_nothing_and_one_that_is_not_there_says_so() {
    let (proxy, _, first) = proxied();
    let second = provider(&proxy.address, &[kms().key(HERE)]);
    let sample = Sample::new();
    let wrap = sample.wrap(&first);
    assert!(!second.opens(&wrap.kek_uri));
    // Renamed by somebody with access to the rows.
    let renamed = veilstream_keys::store::Wrap { kek_uri: second.describe().unwrap().uri, ..wrap };
    let error = second.unwrap(&renamed, &sample.context()).unwrap_err();
    assert!(matches!(error, ProviderError::Refused { .. }), "{error}");
    let missing = provider(
        &proxy.address,
        &[format!("arn:aws:kms:{HERE}:000000000000:key/11111111-2222-3333-4444-555555555555")],
    );
    let error = missing.health().unwrap_err();
    assert!(
        matches!(error, ProviderError::Unusable { .. })
            && error.to_string().contains("correct keys.aws-kms.key_arns"),
        "{error}"
    );
}

#[test]
#[ignore = "run by on_localstack"]
fn the_next_key_takes_over_while_the_first_cannot_be_reached() {
    let proxy = Proxy::before(&format!("127.0.0.1:{}", kms().port));
    let (first, second) = (kms().key(HERE), kms().key("eu-west-1"));
    let both = provider(&proxy.address, &[first.clone(), second.clone()]);
    let sample = Sample::new();
    assert_eq!(sample.wrap(&both).kek_uri, format!("aws-kms:{first}"));
    proxy.set(Mode::AnswerIf(first.clone(), 503, String::new()));
    let fallback = sample.wrap(&both);
    assert_eq!(fallback.kek_uri, format!("aws-kms:{second}"));
    sample.opens(&both, &fallback);
    both.health().unwrap();
    proxy.set(Mode::Pass);
    // Home again, across regions.
    let moved = both.rewrap(&[(&fallback, sample.context())]).unwrap().pop().unwrap().unwrap();
    assert_eq!(moved.kek_uri, format!("aws-kms:{first}"));
    sample.opens(&both, &moved);
    // What only the first opens is away while it is, and not wrong.
    proxy.set(Mode::AnswerIf(first, 503, String::new()));
    assert!(both.unwrap(&moved, &sample.context()).unwrap_err().is_retryable());
}

#[test]
#[ignore = "run by on_localstack"]
fn errors_are_told_apart_and_hold_nothing_of_the_answer() {
    let (proxy, _, provider) = proxied();
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    let error = |status: u16, code: &str| {
        proxy.set(Mode::Answer(
            status,
            "Content-Type: application/x-amz-json-1.1\r\n",
            json!({ "__type": code, "message": "canary-4f9c" }).to_string(),
        ));
        let error = provider.unwrap(&wrap, &sample.context()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        error
    };
    for (status, code) in [
        (400, "ThrottlingException"),
        (500, "KMSInternalException"),
        (503, ""),
        (429, ""),
        (500, "KeyUnavailableException"),
    ] {
        let error = error(status, code);
        assert!(error.is_retryable(), "{status} {code}: {error}");
    }
    for code in ["AccessDeniedException", "ExpiredTokenException", "UnrecognizedClientException"] {
        let error = error(400, code);
        assert!(
            matches!(error, ProviderError::Denied { .. })
                && error.to_string().contains("kms:Decrypt"),
            "{code}: {error}"
        );
    }
    assert!(matches!(error(400, "SomethingNew"), ProviderError::Malformed { .. }));
    for body in
        ["", "canary-4f9c", "{}", "[]", r#"{"Plaintext":"Y2FuYXJ5LTRmOWM=","CiphertextBlob":42}"#]
    {
        proxy.set(Mode::Answer(200, "", body.to_owned()));
        for error in [
            provider.unwrap(&wrap, &sample.context()).unwrap_err(),
            provider.wrap(&sample.secret, &sample.context()).unwrap_err(),
        ] {
            assert!(matches!(error, ProviderError::Malformed { .. }), "{body}: {error}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
    }
    let patient = with_layers(provider);
    proxy.set(Mode::Times(2, Box::new(Mode::Answer(500, "", String::new()))));
    sample.opens(&*patient, &wrap);
}

#[test]
#[ignore = "run by on_localstack"]
fn a_slow_or_missing_service_is_away_and_comes_back() {
    let (proxy, arn, provider) = proxied();
    let (known, new) = (Sample::new(), Sample::new());
    let (known_wrap, new_wrap) = (known.wrap(&provider), new.wrap(&provider));
    proxy.set(Mode::Slow(Duration::from_secs(2)));
    known.opens(&provider, &known_wrap);
    let settings = AwsKmsSettings {
        key_arns: vec![arn],
        endpoint: Some(proxy.address.clone()),
        profile: None,
        timeout: Duration::from_millis(500),
    };
    let error =
        AwsKmsProvider::new(&settings).unwrap().unwrap(&known_wrap, &known.context()).unwrap_err();
    assert!(error.is_retryable(), "{error}");
    proxy.set(Mode::Pass);
    let layered = with_layers(provider);
    known.opens(&*layered, &known_wrap);
    proxy.set(Mode::Down);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        known.opens(&*layered, &known_wrap);
        let error = layered.unwrap(&new_wrap, &new.context()).unwrap_err();
        assert!(error.is_retryable(), "{error}");
    }
    proxy.set(Mode::Pass);
    new.opens(&*layered, &new_wrap);
}
