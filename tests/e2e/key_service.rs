//! The key service, a real OpenBao server behind a proxy that counts requests, goes away under a
//! running sidecar.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::feed::{Feeder, person};
use crate::kafka::kafka;
use crate::operator::await_unready;
use crate::proxy_http::{Mode, Proxy};
use crate::reader;
use crate::sandbox::Sandbox;
use crate::servers::bao;
use crate::sidecar::text;

const SUBJECTS: &str = r#"{"veilstream":1,"name":"subjects","version":1,"topics":{"from":"outage-subjects.raw","to":"outage-subjects.clean"},
  "subject":"$.id","fields":[{"id":"email","path":"$.email"},{"id":"ssn","path":"$.ssn"}]}"#;

/// With the service away a sidecar goes on with the keys it holds; when it needs a key that only
/// the service gives, it waits, stays in the group, says why, loses nothing and goes on by itself.
#[test]
fn without_its_key_service_it_goes_on_with_what_it_holds_and_waits_for_the_rest() {
    bao().key("pipeline");
    let proxy = Proxy::before(&format!("127.0.0.1:{}", bao().port));
    let sandbox = Sandbox::new(kafka(), "key-service", 2);
    kafka().create_topic("outage-subjects.raw", 2);
    sandbox.document("subjects", SUBJECTS);
    let made = bao().api(Method::POST, "auth/token/create", &json!({ "policies": ["pipeline"] }));
    std::fs::write(
        sandbox.dir.path().join("token"),
        made["auth"]["client_token"].as_str().unwrap(),
    )
    .unwrap();
    let instance = sandbox
        .instance(0)
        .set("KEYS__PROVIDER", "vault")
        .set("KEYS__STORE", "sqlite:vault.db")
        .set("KEYS__VAULT__ADDRESS", &proxy.address)
        .set("KEYS__VAULT__KEY", "pipeline")
        .set("KEYS__VAULT__TOKEN_FILE", "token")
        .set("KEYS__VAULT__TIMEOUT", "1s");
    let init = instance.run(&["keys", "init"]);
    assert!(init.status.success(), "{}", text(&init));
    let mut running = instance.start();
    running.ready();
    sandbox.feed(0..1000, person);
    running
        .wait_for(Duration::from_secs(60), "the first records", |_| sandbox.clean().len() == 1000);

    // The steady state: not one request, however many records, but a look now and then at how old
    // the key-encrypting key is; the first may fall into this.
    let asked = |r: &crate::sidecar::Running<'_>| r.metric("veilstream_key_requests_total", "");
    proxy.requests();
    let before = asked(&running);
    assert!(before > 0.0, "the start asks");
    sandbox.feed(1000..21_000, person);
    running.wait_for(Duration::from_secs(60), "many records", |r| {
        r.metric("veilstream_records_produced_total", "key-service.clean") == 21_000.0
    });
    let requests = proxy.requests();
    assert!(
        requests.len() <= 1
            && requests.iter().all(|r| r.starts_with("GET /v1/transit/keys/pipeline ")),
        "{requests:?} for 20,000 records"
    );
    assert!(asked(&running) - before <= 1.0, "not all requests pass the proxy");

    proxy.set(Mode::Down);
    sandbox.feed(21_000..22_000, person);
    running.wait_for(Duration::from_secs(60), "records without the service", |r| {
        r.metric("veilstream_records_produced_total", "key-service.clean") == 22_000.0
    });
    assert_eq!(running.get("/readyz").unwrap().0, 200, "nothing is wrong yet");

    // The first data subject needs the first wrapping key.
    let rebalances = running.metric("veilstream_rebalances_total", "");
    let feeder = Feeder::new(kafka());
    for i in 0..500 {
        feeder.number("outage-subjects.raw", 2, i, person(i % 50).as_bytes());
    }
    feeder.finish();
    await_unready(&mut running, &["key provider vault is not available"]);
    assert_eq!(running.get("/livez").unwrap(), (200, "ok\n".to_owned()));
    // Longer than the session, so that a member that did not answer would be out.
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(
        running.metric("veilstream_rebalances_total", ""),
        rebalances,
        "it stays in the group"
    );
    let sealed = || reader::committed(&kafka().bootstrap, "outage-subjects.clean", 2);
    assert_eq!(sealed().len(), 0, "nothing passes unprotected");

    proxy.set(Mode::Pass);
    running.ready();
    running.wait_for(Duration::from_secs(60), "what waited", |_| sealed().len() == 500);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert!(reader::times(&sealed(), 500).iter().all(|times| *times == 1), "each once");
    sandbox.assert_each_once(22_000);
    assert_eq!(sandbox.dead().len(), 0);
    let log = instance.log();
    let token = std::fs::read_to_string(sandbox.dir.path().join("token")).unwrap();
    assert!(!log.contains(&token) && !log.contains("@example.com"), "{}", instance.tail());
}
