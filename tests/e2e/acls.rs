//! What the sidecar says when Kafka refuses it something, by the broker's own authorizer.

use std::time::Duration;

use krafka::Kafka;
use krafka::admin::{
    AclBinding, AclFilter, AclOperation as Op, AclPatternType, AclPermissionType, AclResourceType as Kind, CreateAclsOptions, DeleteAclsOptions,
};

use veilstream::kafka::settings::transactional_id;

use crate::feed::person;
use crate::kafka::{LIMITED, kafka, wait_for};
use crate::sandbox::Sandbox;
use crate::sidecar::text;

#[test]
fn what_is_missing_ends_the_start_with_4_and_is_waited_for_later() {
    let sandbox = Sandbox::new(kafka(), "acl", 1);
    for topic in ["acl.clean", "acl.dead-letter"] {
        sandbox.broker.create_topic(topic, 1);
    }
    let (user, password) = LIMITED;
    let mut instance = sandbox.instance(0).set("KAFKA__BOOTSTRAP_SERVERS", &sandbox.broker.limited);
    for (name, value) in [("SECURITY.PROTOCOL", "SASL_PLAINTEXT"), ("SASL.MECHANISM", "PLAIN"), ("SASL.USERNAME", user), ("SASL.PASSWORD", password)] {
        instance = instance.set(&format!("KAFKA__CLIENT__{name}"), value);
    }
    let refused = |command: &[&str], what: &str| {
        // What was granted before reaches the broker's authorizer a moment later.
        wait_for(Duration::from_secs(30), what, || {
            let output = instance.run(command);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(4), "{what}: {said}");
            assert!(said.contains("grant") && !said.contains(password), "{said}");
            said.contains(what)
        });
    };
    refused(&["check", "--preflight"], "topic acl.raw: not authorized");
    refused(&["run"], "topic acl.raw: not authorized");
    grant(&sandbox, Kind::Topic, Op::Read, &["acl.raw"]);
    grant(&sandbox, Kind::Topic, Op::Write, &["acl.clean", "acl.dead-letter"]);
    // The instance's name has a hyphen: digits stand behind it.
    let ids = [0, 1].map(|lane| transactional_id(&instance.config().kafka, lane));
    assert!(ids[0].starts_with("veilstream-acl-acl-0-") && ids[0].len() == "veilstream-acl-acl-0-".len() + 10, "{}", ids[0]);
    refused(&["run"], &format!("transactional id {}", ids[0]));
    grant(&sandbox, Kind::TransactionalId, Op::Write, &ids.each_ref().map(String::as_str));
    refused(&["run"], "group acl");
    grant(&sandbox, Kind::Group, Op::Read, &["acl"]);
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(60), "the records", |_| sandbox.clean().len() == 100);
    running.ready();

    // Taken away while it runs: it waits and says so.
    create(&sandbox, vec![entry(Kind::Topic, "acl.clean", Op::Write, AclPermissionType::Deny)]);
    sandbox.feed(100..200, person);
    running.wait_for(Duration::from_secs(30), "the sidecar to be unready", |r| r.get("/readyz").unwrap().0 == 503);
    let (_, why) = running.get("/readyz").unwrap();
    assert!(why.contains("grant Write on the sanitized and dead-letter topics"), "{why}");
    assert_eq!(running.get("/livez").unwrap().0, 200);
    runtime().block_on(async {
        let kafka = Kafka::builder(&sandbox.broker.bootstrap).connect().await.unwrap();
        let filter =
            AclFilter::for_resource(Kind::Topic, "acl.clean").pattern_type(AclPatternType::Any).operation(Op::Any).permission_type(AclPermissionType::Deny);
        kafka.admin().delete_acls(vec![filter], DeleteAclsOptions::default()).await.unwrap();
    });
    running.wait_for(Duration::from_secs(60), "the rest", |_| sandbox.clean().len() == 200);
    running.ready();
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(200);
}

/// An entry for one name. krafka 0.28.1 numbers the pattern types one too low: what it calls prefixed, Kafka reads as literal.
fn entry(kind: Kind, name: &str, operation: Op, permission: AclPermissionType) -> AclBinding {
    AclBinding::new(kind, name, format!("User:{}", LIMITED.0), "*", operation, permission).with_pattern_type(AclPatternType::Prefixed)
}

fn grant(sandbox: &Sandbox<'_>, kind: Kind, operation: Op, names: &[&str]) {
    create(sandbox, names.iter().map(|name| entry(kind, name, operation, AclPermissionType::Allow)).collect());
}

fn create(sandbox: &Sandbox<'_>, bindings: Vec<AclBinding>) {
    runtime().block_on(async {
        let kafka = Kafka::builder(&sandbox.broker.bootstrap).connect().await.unwrap();
        for (_, result) in kafka.admin().create_acls(bindings, CreateAclsOptions::default()).await.unwrap() {
            result.unwrap();
        }
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
