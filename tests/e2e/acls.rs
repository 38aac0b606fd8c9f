//! What the sidecar says when Kafka refuses it something, by the broker's own authorizer.

use std::time::Duration;

use krafka::admin::{AclOperation as Op, AclResourceType as Kind};

use veilstream::kafka::settings::transactional_id;

use crate::feed::person;
use crate::kafka::{LIMITED, kafka, wait_for};
use crate::operator::await_unready;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, text};

#[test]
fn what_is_missing_ends_the_start_with_4_and_is_waited_for_later() {
    let sandbox = Sandbox::new(kafka(), "acl", 1);
    for topic in ["acl.clean", "acl.dead-letter"] {
        sandbox.broker.create_topic(topic, 1);
    }
    let instance = as_limited(&sandbox, sandbox.instance(0));
    let refused = |command: &[&str], what: &str| {
        // What was granted before reaches the broker's authorizer a moment later.
        wait_for(Duration::from_secs(30), what, || {
            let output = instance.run(command);
            let said = text(&output);
            assert_eq!(output.status.code(), Some(4), "{what}: {said}");
            assert!(said.contains("grant") && !said.contains(LIMITED.1), "{said}");
            said.contains(what)
        });
    };
    refused(&["check", "--preflight"], "topic acl.raw: not authorized");
    refused(&["run"], "topic acl.raw: not authorized");
    sandbox.broker.allow(Kind::Topic, Op::Read, &["acl.raw"]);
    sandbox.broker.allow(Kind::Topic, Op::Write, &["acl.clean", "acl.dead-letter"]);
    // The instance's name has a hyphen: digits stand behind it.
    let ids = [0, 1].map(|lane| transactional_id(&instance.config().kafka, lane));
    assert!(
        ids[0].starts_with("veilstream-acl-acl-0-")
            && ids[0].len() == "veilstream-acl-acl-0-".len() + 10,
        "{}",
        ids[0]
    );
    refused(&["run"], &format!("transactional id {}", ids[0]));
    sandbox.broker.allow(Kind::TransactionalId, Op::Write, &ids.each_ref().map(String::as_str));
    refused(&["run"], "group acl");
    sandbox.broker.allow(Kind::Group, Op::Read, &["acl"]);
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(60), "the records", |_| sandbox.clean().len() == 100);
    running.ready();

    // Taken away while it runs: it waits and says so.
    sandbox.broker.deny(Kind::Topic, Op::Write, "acl.clean");
    sandbox.feed(100..200, person);
    await_unready(&mut running, &["grant Write on the sanitized and dead-letter topics"]);
    assert_eq!(running.get("/livez").unwrap().0, 200);
    sandbox.broker.undo_deny(Kind::Topic, "acl.clean");
    running.wait_for(Duration::from_secs(60), "the rest", |_| sandbox.clean().len() == 200);
    running.ready();
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(200);
}

#[test]
fn a_group_that_may_not_be_read_ends_the_start_with_4_in_the_consumer_protocol() {
    let sandbox = Sandbox::new(kafka(), "acl-848", 1);
    allow_routes(&sandbox, &["acl-848"]);
    sandbox.broker.deny(Kind::Group, Op::Read, "acl-848");
    let instance = limited(&sandbox).consumer_protocol();
    let mut running = instance.start();
    wait_for(Duration::from_secs(60), "it to end", || {
        // It has joined nothing: it must not say that it is ready.
        assert!(
            running.get("/readyz").is_none_or(|(status, _)| status == 503),
            "{}",
            instance.tail()
        );
        running.ended().is_some()
    });
    assert_eq!(running.ended(), Some(4), "{}", instance.tail());
    assert!(instance.tail().contains("grant Read on group acl-848"), "{}", instance.tail());
    sandbox.broker.undo_deny(Kind::Group, "acl-848");
    let mut running = instance.start();
    running.ready();
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
}

/// The instance as [`LIMITED`], whose name has no `-`: its transactional ids are
/// `veilstream-<group>-0-<lane>`.
pub(crate) fn limited(sandbox: &Sandbox<'_>) -> Instance {
    as_limited(sandbox, sandbox.instance(0)).set("KAFKA__INSTANCE", "0")
}

/// Makes the topics of routes `<name>.raw` to `<name>.clean`, the dead letters too, and allows
/// [`LIMITED`] what the sandbox's group needs for them.
pub(crate) fn allow_routes(sandbox: &Sandbox<'_>, routes: &[&str]) {
    let (broker, group) = (sandbox.broker, sandbox.name);
    let dead = format!("{group}.dead-letter");
    let (raw, clean): (Vec<_>, Vec<_>) =
        routes.iter().map(|route| (format!("{route}.raw"), format!("{route}.clean"))).unzip();
    for topic in clean.iter().chain([&dead]) {
        broker.create_topic(topic, sandbox.partitions);
    }
    let names = |list: &[String], op| {
        broker.allow(Kind::Topic, op, &list.iter().map(String::as_str).collect::<Vec<_>>())
    };
    names(&raw, Op::Read);
    names(&clean, Op::Write);
    broker.allow(Kind::Topic, Op::Write, &[&dead]);
    broker.allow(
        Kind::TransactionalId,
        Op::Write,
        &[&format!("veilstream-{group}-0-0"), &format!("veilstream-{group}-0-1")],
    );
    broker.allow(Kind::Group, Op::Read, &[group]);
}

fn as_limited(sandbox: &Sandbox<'_>, instance: Instance) -> Instance {
    let (user, password) = LIMITED;
    let client = [
        ("SECURITY.PROTOCOL", "SASL_PLAINTEXT"),
        ("SASL.MECHANISM", "PLAIN"),
        ("SASL.USERNAME", user),
        ("SASL.PASSWORD", password),
    ];
    let instance = instance.set("KAFKA__BOOTSTRAP_SERVERS", &sandbox.broker.limited);
    client.iter().fold(instance, |instance, (name, value)| {
        instance.set(&format!("KAFKA__CLIENT__{name}"), value)
    })
}
