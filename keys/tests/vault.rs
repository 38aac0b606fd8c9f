//! Provider `vault` on a real OpenBao server, which speaks the API of HashiCorp Vault.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

#[path = "support/ports.rs"]
mod ports;
#[path = "support/provider_suite.rs"]
mod provider_suite;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/servers.rs"]
mod servers;

use std::thread;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use veilstream_keys::provider::{
    Provider, ProviderError, SecretText, VaultAuth, VaultProvider, VaultSettings,
};

use provider_suite::{Sample, conformance, rotated_then_rewrapped, with_layers};
use proxy::{Mode, Proxy};
use servers::{Bao, bao, wait_until};

fn given(text: &str) -> SecretText {
    SecretText::Given(text.to_owned().into())
}

fn settings(address: &str, key: &str) -> VaultSettings {
    VaultSettings {
        address: address.to_owned(),
        mount: "transit".to_owned(),
        key: key.to_owned(),
        namespace: None,
        ca_file: None,
        timeout: Duration::from_secs(5),
        batch: 200,
        auth: VaultAuth::Token(given("root")),
    }
}

fn provider(key: &str) -> VaultProvider {
    bao().key(key);
    VaultProvider::new(settings(&bao().address(), key)).unwrap()
}

/// Behind a proxy of its own.
fn proxied(key: &str) -> (Proxy, VaultProvider) {
    bao().key(key);
    let proxy = Proxy::before(&format!("127.0.0.1:{}", bao().port));
    let provider = VaultProvider::new(settings(&proxy.address, key)).unwrap();
    (proxy, provider)
}

#[test]
fn keeps_the_promises_of_a_provider() {
    let provider = provider("conformance");
    conformance(&provider);
    assert_eq!(provider.describe().unwrap().uri, "vault:transit/conformance");
}

#[test]
fn rotates_rewraps_and_says_when_the_old_version_is_retired_or_destroyed() {
    let provider = provider("rotates");
    let (sample, old) = rotated_then_rewrapped(&provider);
    assert!(provider.describe().unwrap().since.is_some());
    let config = |least: u32| {
        bao().api(
            Method::POST,
            "transit/keys/rotates/config",
            &json!({ "min_decryption_version": least }),
        )
    };
    config(2);
    let retired = provider.unwrap(&old, &sample.context()).unwrap_err();
    assert!(matches!(retired, ProviderError::Disabled { .. }), "{retired}");
    assert!(retired.to_string().contains("min_decryption_version"), "{retired}");
    config(1);
    sample.opens(&provider, &old);
    bao().api(
        Method::POST,
        "transit/keys/rotates/config",
        &json!({ "min_decryption_version": 2, "min_encryption_version": 2 }),
    );
    bao().api(Method::POST, "transit/keys/rotates/trim", &json!({ "min_available_version": 2 }));
    assert!(matches!(
        provider.unwrap(&old, &sample.context()),
        Err(ProviderError::Disabled { .. })
    ));
}

#[test]
fn a_disabled_key_is_no_wrong_key() {
    let provider = provider("disabled");
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    bao().api(Method::DELETE, "transit/keys/disabled/soft-delete", &json!({}));
    for error in [
        provider.unwrap(&wrap, &sample.context()).err(),
        provider.wrap(&sample.secret, &sample.context()).err(),
        provider.health().err(),
    ] {
        assert!(matches!(error, Some(ProviderError::Disabled { .. })), "{error:?}");
    }
    bao().api(Method::POST, "transit/keys/disabled/soft-delete-restore", &json!({}));
    sample.opens(&provider, &wrap);
}

#[test]
fn a_key_that_is_not_there_or_not_derived_says_how_to_make_one() {
    let missing = VaultProvider::new(settings(&bao().address(), "nowhere")).unwrap();
    let error = missing.describe().unwrap_err().to_string();
    assert!(error.contains("vault write -f transit/keys/nowhere derived=true"), "{error}");
    bao().api(Method::POST, "transit/keys/plain", &json!({}));
    let error = VaultProvider::new(settings(&bao().address(), "plain"))
        .unwrap()
        .describe()
        .unwrap_err()
        .to_string();
    assert!(error.contains("is not derived"), "{error}");
    let elsewhere =
        VaultSettings { mount: "no-mount".to_owned(), ..settings(&bao().address(), "x") };
    let error = VaultProvider::new(elsewhere).unwrap().describe().unwrap_err();
    assert!(matches!(error, ProviderError::Unusable { .. }), "{error}");
}

#[test]
fn moves_wraps_in_batches_that_the_server_takes() {
    let (proxy, provider) = proxied("batches");
    let samples: Vec<Sample> = (0..450).map(|_| Sample::new()).collect();
    let wraps: Vec<_> = samples.iter().map(|sample| sample.wrap(&provider)).collect();
    provider.rotate(0).unwrap();
    proxy.requests();
    let asked: Vec<_> =
        wraps.iter().zip(&samples).map(|(wrap, sample)| (wrap, sample.context())).collect();
    let moved = provider.rewrap(&asked).unwrap();
    assert_eq!(proxy.requests().len(), 3, "200, 200 and 50");
    for (moved, sample) in moved.iter().zip(&samples) {
        assert_eq!(moved.as_ref().unwrap().kek_version, "2");
        sample.opens(&provider, moved.as_ref().unwrap());
    }
}

#[test]
fn denied_names_what_to_grant_and_a_token_that_is_replaced_in_its_file_is_taken_up() {
    bao().key("granted");
    bao().key("other");
    let token = |policy: &str| {
        let made = bao().api(Method::POST, "auth/token/create", &json!({ "policies": [policy] }));
        made["auth"]["client_token"].as_str().unwrap().to_owned()
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{}\n", token("other"))).unwrap();
    let auth = VaultAuth::Token(SecretText::File(file.clone()));
    let provider =
        VaultProvider::new(VaultSettings { auth, ..settings(&bao().address(), "granted") })
            .unwrap();
    let error = provider.describe().unwrap_err();
    assert!(matches!(error, ProviderError::Denied { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("allow read on transit/keys/granted and update on transit/encrypt/granted"),
        "{error}"
    );
    std::fs::write(&file, token("granted")).unwrap();
    conformance(&provider);
    std::fs::remove_file(&file).unwrap();
    provider.health().unwrap();
}

/// Real time passes: the server counts leases in seconds.
#[test]
fn an_approle_token_is_renewed_and_had_again_when_the_lease_is_capped() {
    bao().key("approle");
    bao().api(Method::POST, "sys/auth/approle", &json!({ "type": "approle" }));
    let role = json!({ "token_policies": ["approle"], "token_ttl": "3s", "token_max_ttl": "7s" });
    bao().api(Method::POST, "auth/approle/role/sidecar", &role);
    let role_id =
        bao().api(Method::GET, "auth/approle/role/sidecar/role-id", &json!({}))["data"]["role_id"]
            .as_str()
            .unwrap()
            .to_owned();
    let secret_id = bao().api(Method::POST, "auth/approle/role/sidecar/secret-id", &json!({}))["data"]["secret_id"].as_str().unwrap().to_owned();
    let proxy = Proxy::before(&format!("127.0.0.1:{}", bao().port));
    let auth = VaultAuth::AppRole {
        mount: "approle".to_owned(),
        role_id: role_id.clone(),
        secret_id: given(&secret_id),
    };
    let provider =
        VaultProvider::new(VaultSettings { auth, ..settings(&proxy.address, "approle") }).unwrap();
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(12) {
        sample.opens(&provider, &wrap);
        thread::sleep(Duration::from_millis(100));
    }
    let requests = proxy.requests();
    let count = |path: &str| requests.iter().filter(|line| line.contains(path)).count();
    assert!(count("auth/token/renew-self") >= 2, "{}", count("auth/token/renew-self"));
    assert!((2..=4).contains(&count("auth/approle/login")), "{}", count("auth/approle/login"));
    // Revoked by somebody: had again at once.
    let accessors =
        bao().api(Method::from_bytes(b"LIST").unwrap(), "auth/token/accessors", &json!({}));
    for accessor in accessors["data"]["keys"].as_array().unwrap() {
        let found =
            bao().api(Method::POST, "auth/token/lookup-accessor", &json!({ "accessor": accessor }));
        if found["data"]["policies"].as_array().unwrap().contains(&json!("approle")) {
            bao().api(Method::POST, "auth/token/revoke-accessor", &json!({ "accessor": accessor }));
        }
    }
    sample.opens(&provider, &wrap);
    let wrong = VaultAuth::AppRole {
        mount: "approle".to_owned(),
        role_id,
        secret_id: given("not-the-secret"),
    };
    let error =
        VaultProvider::new(VaultSettings { auth: wrong, ..settings(&bao().address(), "approle") })
            .unwrap()
            .health()
            .unwrap_err();
    assert!(matches!(error, ProviderError::Denied { .. }), "{error}");
    assert!(!error.to_string().contains("not-the-secret"), "{error}");
}

#[test]
fn logs_in_with_a_signed_token_of_the_platform() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use ed25519_dalek::{Signer as _, SigningKey};

    bao().key("jwt");
    let signing = SigningKey::from_bytes(&[7; 32]);
    // RFC 8410: what stands before a raw Ed25519 key in a SubjectPublicKeyInfo.
    let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    let info = [&prefix[..], signing.verifying_key().as_bytes()].concat();
    let pem = format!(
        "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
        STANDARD.encode(info)
    );
    bao().api(Method::POST, "sys/auth/jwt", &json!({ "type": "jwt" }));
    bao().api(
        Method::POST,
        "auth/jwt/config",
        &json!({ "jwt_validation_pubkeys": [pem], "jwt_supported_algs": ["EdDSA"] }),
    );
    let role = json!({ "role_type": "jwt", "user_claim": "sub", "bound_audiences": ["veilstream"], "token_policies": ["jwt"], "token_ttl": "60s" });
    bao().api(Method::POST, "auth/jwt/role/sidecar", &role);
    let token = |audience: &str| {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let claims = json!({ "sub": "pod", "aud": audience, "iat": now, "exp": now + 600 });
        let text = [json!({ "alg": "EdDSA", "typ": "JWT" }), claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
            .join(".");
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(signing.sign(text.as_bytes()).to_bytes()))
    };
    let provider = |audience: &str| {
        let auth = VaultAuth::Jwt {
            mount: "jwt".to_owned(),
            role: "sidecar".to_owned(),
            token: given(&token(audience)),
        };
        VaultProvider::new(VaultSettings { auth, ..settings(&bao().address(), "jwt") }).unwrap()
    };
    conformance(&provider("veilstream"));
    assert!(matches!(provider("somebody-else").health(), Err(ProviderError::Denied { .. })));
}

/// The server's own Kubernetes method; what the cluster answers it is played by this test.
#[test]
fn logs_in_with_the_service_account_of_a_pod() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    bao().key("kubernetes");
    let cluster = Proxy::before("127.0.0.1:1");
    let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": {
        "authenticated": true, "audiences": ["vault"],
        "user": { "username": "system:serviceaccount:data:veilstream", "uid": "1", "groups": ["system:serviceaccounts", "system:serviceaccounts:data"] } } });
    cluster.set(Mode::Answer(201, "Content-Type: application/json\r\n", review.to_string()));
    bao().api(Method::POST, "sys/auth/kubernetes", &json!({ "type": "kubernetes" }));
    // Asked for, and not used without TLS.
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let make = [
        "req",
        "-x509",
        "-newkey",
        "ed25519",
        "-nodes",
        "-subj",
        "/CN=cluster",
        "-keyout",
        "/dev/null",
        "-out",
    ];
    assert!(
        std::process::Command::new("openssl")
            .args(make)
            .arg(&ca)
            .output()
            .unwrap()
            .status
            .success()
    );
    let ca = std::fs::read_to_string(ca).unwrap();
    let config = json!({
        "kubernetes_host": cluster.address, "token_reviewer_jwt": "reviewer", "disable_local_ca_jwt": true, "kubernetes_ca_cert": ca
    });
    bao().api(Method::POST, "auth/kubernetes/config", &config);
    let role = json!({
        "bound_service_account_names": ["veilstream"], "bound_service_account_namespaces": ["data"], "token_policies": ["kubernetes"], "token_ttl": "60s"
    });
    bao().api(Method::POST, "auth/kubernetes/role/sidecar", &role);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = json!({ "sub": "system:serviceaccount:data:veilstream", "aud": ["vault"], "iat": now, "nbf": now, "exp": now + 600, "iss": "https://kubernetes",
        "kubernetes.io": { "namespace": "data", "serviceaccount": { "name": "veilstream", "uid": "1" } } });
    let jwt = [json!({ "alg": "RS256", "typ": "JWT" }), claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part.to_string()))
        .join(".");
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{jwt}.{}", URL_SAFE_NO_PAD.encode("signature"))).unwrap();
    let auth = VaultAuth::Jwt {
        mount: "kubernetes".to_owned(),
        role: "sidecar".to_owned(),
        token: SecretText::File(file),
    };
    conformance(
        &VaultProvider::new(VaultSettings { auth, ..settings(&bao().address(), "kubernetes") })
            .unwrap(),
    );
    assert!(
        cluster
            .requests()
            .iter()
            .any(|line| line.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews"))
    );
}

#[test]
fn namespaces_keep_keys_of_one_name_apart() {
    for namespace in ["one", "two"] {
        bao().api(Method::POST, &format!("sys/namespaces/{namespace}"), &json!({}));
        bao().api_in(namespace, Method::POST, "sys/mounts/transit", &json!({ "type": "transit" }));
        bao().api_in(
            namespace,
            Method::POST,
            "transit/keys/veilstream",
            &json!({ "derived": true }),
        );
    }
    let provider = |namespace: &str| {
        VaultProvider::new(VaultSettings {
            namespace: Some(namespace.to_owned()),
            ..settings(&bao().address(), "veilstream")
        })
        .unwrap()
    };
    let (one, two) = (provider("one"), provider("two"));
    conformance(&one);
    let sample = Sample::new();
    let wrap = sample.wrap(&one);
    assert_eq!(wrap.kek_uri, "vault:one/transit/veilstream");
    assert!(!two.opens(&wrap.kek_uri));
    assert!(matches!(two.unwrap(&wrap, &sample.context()), Err(ProviderError::Refused { .. })));
}

#[test]
fn a_private_authority_counts_and_no_other() {
    let server = Bao::start("bao-tls", true);
    server.key("tls");
    let with = |ca_file| {
        VaultProvider::new(VaultSettings { ca_file, ..settings(&server.address(), "tls") }).unwrap()
    };
    conformance(&with(server.ca.clone()));
    let error = with(None).describe().unwrap_err();
    assert!(
        matches!(error, ProviderError::Unavailable { .. })
            && error.to_string().contains("certificate"),
        "{error}"
    );
    let clear = VaultProvider::new(settings("http://vault.internal:8200", "tls"))
        .err()
        .unwrap()
        .to_string();
    assert!(clear.contains("would send keys in the clear"), "{clear}");
}

#[test]
fn a_sealed_server_is_away_and_not_wrong() {
    let server = Bao::start("bao-sealed", false);
    server.key("sealed");
    let provider = VaultProvider::new(settings(&server.address(), "sealed")).unwrap();
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    let unseal_key = || {
        server
            .process
            .log()
            .lines()
            .find_map(|line| line.strip_prefix("Unseal Key: ").map(|key| key.trim().to_owned()))
    };
    wait_until(&server.process, "no unseal key in the log", || unseal_key().is_some());
    let unseal = unseal_key().unwrap();
    server.api(Method::PUT, "sys/seal", &json!({}));
    let error = provider.unwrap(&wrap, &sample.context()).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("sealed"), "{error}");
    server.api(Method::PUT, "sys/unseal", &json!({ "key": unseal }));
    wait_until(&server.process, "still sealed", || {
        provider.unwrap(&wrap, &sample.context()).is_ok()
    });
}

#[test]
fn too_many_requests_are_refused_by_the_server_and_tried_again() {
    bao().key("limited");
    // Its own mount: the quota is the mount's.
    bao().api(Method::POST, "sys/mounts/limited", &json!({ "type": "transit" }));
    bao().api(Method::POST, "limited/keys/limited", &json!({ "derived": true }));
    bao().api(
        Method::POST,
        "sys/quotas/rate-limit/limited",
        &json!({ "path": "limited/", "rate": 2, "interval": "1s" }),
    );
    let plain = VaultProvider::new(VaultSettings {
        mount: "limited".to_owned(),
        ..settings(&bao().address(), "limited")
    })
    .unwrap();
    let sample = Sample::new();
    let refused =
        (0..20).find_map(|_| plain.wrap(&sample.secret, &sample.context()).err()).unwrap();
    assert!(
        refused.is_retryable() && refused.to_string().contains("too many requests"),
        "{refused}"
    );
    let patient = with_layers(plain);
    for _ in 0..6 {
        sample.opens(&*patient, &sample.wrap(&*patient));
    }
}

#[test]
fn errors_of_tired_servers_pass_and_are_told_apart() {
    let (proxy, provider) = proxied("tired");
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    for status in [500, 502, 503, 429, 412, 472, 473, 307] {
        proxy.set(Mode::Answer(
            status,
            "Retry-After: 3\r\n",
            r#"{"errors":["internal error: canary-4f9c"]}"#.to_owned(),
        ));
        let error = provider.unwrap(&wrap, &sample.context()).unwrap_err();
        assert!(
            matches!(&error, ProviderError::Unavailable { retry_after: Some(pause), .. } if pause.as_secs() == 3),
            "{status}: {error}"
        );
        assert!(!error.to_string().contains("canary"), "{error}");
    }
    let patient = with_layers(VaultProvider::new(settings(&proxy.address, "tired")).unwrap());
    proxy.set(Mode::Times(3, Box::new(Mode::Answer(500, "", String::new()))));
    sample.opens(&*patient, &wrap);
}

#[test]
fn answers_that_make_no_sense_are_no_keys_and_are_not_repeated() {
    let (proxy, provider) = proxied("nonsense");
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    let short = json!({ "data": { "plaintext": "Y2FuYXJ5LTRmOWM=", "ciphertext": "canary-4f9c" } })
        .to_string();
    let bodies = [
        "",
        "canary-4f9c",
        "{",
        "[]",
        "null",
        r#"{"data":{}}"#,
        r#"{"data":{"plaintext":42}}"#,
        "<html>canary-4f9c</html>",
        &short,
    ];
    for body in bodies {
        proxy.set(Mode::Answer(200, "", body.to_owned()));
        let errors = [
            provider.unwrap(&wrap, &sample.context()).unwrap_err(),
            provider.wrap(&sample.secret, &sample.context()).unwrap_err(),
            provider.describe().unwrap_err(),
            provider.rewrap(&[(&wrap, sample.context())]).unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(error, ProviderError::Malformed { .. }), "{body}: {error}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{body}: {error}");
        }
    }
    // Fewer results than wraps; an answer that ends early.
    proxy.set(Mode::Answer(200, "", json!({ "data": { "batch_results": [] } }).to_string()));
    assert!(matches!(
        provider.rewrap(&[(&wrap, sample.context())]),
        Err(ProviderError::Malformed { .. })
    ));
    proxy.set(Mode::Answer(418, "", r#"{"errors":["canary-4f9c"]}"#.to_owned()));
    let error = provider.describe().unwrap_err();
    assert!(
        matches!(error, ProviderError::Malformed { .. }) && !error.to_string().contains("canary"),
        "{error}"
    );
}

#[test]
fn a_slow_server_is_waited_for_as_long_as_is_configured() {
    let (proxy, provider) = proxied("slow");
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    proxy.set(Mode::Slow(Duration::from_secs(2)));
    sample.opens(&provider, &wrap);
    let hasty = VaultProvider::new(VaultSettings {
        timeout: Duration::from_millis(500),
        ..settings(&proxy.address, "slow")
    })
    .unwrap();
    let error = hasty.unwrap(&wrap, &sample.context()).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("within 500ms"), "{error}");
}

#[test]
fn with_the_server_down_for_half_a_minute_known_keys_open_and_the_rest_comes_back_by_itself() {
    let (proxy, provider) = proxied("down");
    let (known, new) = (Sample::new(), Sample::new());
    let (known_wrap, new_wrap) = (known.wrap(&provider), new.wrap(&provider));
    let layered = with_layers(provider);
    known.opens(&*layered, &known_wrap);
    proxy.set(Mode::Down);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        known.opens(&*layered, &known_wrap);
        let asked = Instant::now();
        let error = layered.unwrap(&new_wrap, &new.context()).unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert!(asked.elapsed() < Duration::from_secs(12), "within the deadline");
    }
    proxy.set(Mode::Pass);
    // No failure that may pass is remembered.
    new.opens(&*layered, &new_wrap);
}

#[test]
fn a_server_that_hangs_is_one_that_is_away() {
    let server = Bao::start("bao-stopped", false);
    server.key("stopped");
    let provider = VaultProvider::new(VaultSettings {
        timeout: Duration::from_secs(1),
        ..settings(&server.address(), "stopped")
    })
    .unwrap();
    let sample = Sample::new();
    let wrap = sample.wrap(&provider);
    server.process.freeze();
    let error = provider.unwrap(&wrap, &sample.context()).unwrap_err();
    server.process.thaw();
    assert!(error.is_retryable(), "{error}");
    sample.opens(&provider, &wrap);
}
