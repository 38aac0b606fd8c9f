//! A lane whose transaction cannot go on needs a new producer. Where it gets none, again and again,
//! it says what to grant or look at, and goes on by itself once it is cured.

use std::time::Duration;

use krafka::admin::{AclOperation as Op, AclResourceType as Kind};

use crate::acls::{allow_routes, limited};
use crate::feed::person;
use crate::kafka::{Kafka, kafka};
use crate::operator::{CURED, SAID, await_flowing, await_lag, await_unready};
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, Running, text};

const LONG: Duration = Duration::from_secs(60);

/// One lane, with records through it.
fn started<'a>(sandbox: &Sandbox<'_>, instance: &'a Instance) -> Running<'a> {
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    running.ready();
    running.wait_for(LONG, "the records", |_| sandbox.clean().len() == 100);
    running
}

fn one_lane(instance: Instance) -> Instance {
    instance.set("PIPELINE__LANES", "1").set("PIPELINE__STALL_AFTER", "2s")
}

/// Waits for what `/readyz` says while no producer comes through, for the lag that grows, and for
/// more than one try.
fn await_failing(
    sandbox: &Sandbox<'_>,
    running: &mut Running<'_>,
    instance: &Instance,
    says: &[&str],
) {
    let raw = format!("{}.raw", sandbox.name);
    await_unready(running, says);
    await_lag(running, &raw, 100);
    let tries = |text: &str| text.matches("no producer: ").count();
    let before = tries(&instance.log());
    running.wait_for(SAID, "more tries", |_| tries(&instance.log()) >= before + 2);
    sandbox.feed(200..300, person);
    await_lag(running, &raw, 200);
    await_unready(running, says);
    assert!(!is_ready(running));
    assert_eq!((running.get("/livez").unwrap().0, running.ended()), (200, None));
}

fn await_cured(sandbox: &Sandbox<'_>, mut running: Running<'_>, instance: &Instance) {
    running.wait_for(CURED, "the rest", |_| sandbox.clean().len() >= 300);
    await_flowing(&mut running, &format!("{}.raw", sandbox.name));
    assert!(is_ready(&running));
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(300);
}

fn is_ready(running: &Running<'_>) -> bool {
    let (_, status) = running.get("/status").unwrap();
    serde_json::from_str::<serde_json::Value>(&status).unwrap()["ready"].as_bool().unwrap()
}

#[test]
fn a_transactional_id_that_may_not_be_used_any_more_is_named_and_waited_for() {
    let sandbox = Sandbox::new(kafka(), "no-id", 2);
    allow_routes(&sandbox, &["no-id"]);
    let instance = one_lane(limited(&sandbox));
    let mut running = started(&sandbox, &instance);
    let id = "veilstream-no-id-0-0";
    sandbox.broker.deny(Kind::TransactionalId, Op::Write, id);
    sandbox.feed(100..200, person);
    await_failing(&sandbox, &mut running, &instance, &[id, "grant Write and Describe"]);
    let (_, why) = running.get("/readyz").unwrap();
    assert!(
        !why.contains("group no-id") && !why.contains("topics"),
        "what may be used is blamed: {why}"
    );
    sandbox.broker.undo_deny(Kind::TransactionalId, id);
    await_cured(&sandbox, running, &instance);
}

/// The coordinator is there and refuses: its own log takes no record.
#[test]
fn a_coordinator_that_gives_no_producer_is_told_and_waited_for() {
    let broker = Kafka::start("refusing", 1);
    let sandbox = Sandbox::new(&broker, "refusing", 2);
    let instance = one_lane(sandbox.instance(0));
    let mut running = started(&sandbox, &instance);
    broker.alter_topic("__transaction_state", "max.message.bytes", "10");
    sandbox.feed(100..200, person);
    await_failing(
        &sandbox,
        &mut running,
        &instance,
        &["producer (lane 0): veilstream-refusing-refusing-0-", "__transaction_state"],
    );
    let (_, why) = running.get("/readyz").unwrap();
    assert!(!why.contains("no broker answers") && !why.contains("grant"), "{why}");
    broker.alter_topic("__transaction_state", "max.message.bytes", "1048588");
    await_cured(&sandbox, running, &instance);
}

/// The committed offsets that a recovery begins with cannot be read.
#[test]
fn a_group_whose_offsets_may_not_be_read_again_is_named_and_waited_for() {
    let sandbox = Sandbox::new(kafka(), "unread-group", 2);
    allow_routes(&sandbox, &["unread-group"]);
    let instance = one_lane(limited(&sandbox));
    let mut running = started(&sandbox, &instance);
    sandbox.broker.deny(Kind::Group, Op::Read, "unread-group");
    sandbox.broker.deny(Kind::TransactionalId, Op::Write, "veilstream-unread-group-0-0");
    sandbox.feed(100..200, person);
    await_unready(
        &mut running,
        &["veilstream-unread-group-0-0", "group unread-group", "grant Read"],
    );
    sandbox.broker.undo_deny(Kind::TransactionalId, "veilstream-unread-group-0-0");
    running.wait_for(SAID, "the producer's reason to go", |r| {
        r.get("/readyz").is_some_and(|(_, why)| !why.contains("producer (lane"))
    });
    await_unready(&mut running, &["group unread-group", "grant Read"]);
    assert!(!is_ready(&running));
    sandbox.feed(200..300, person);
    sandbox.broker.undo_deny(Kind::Group, "unread-group");
    // The group rebalances first.
    running.wait_for(LONG, "the rest", |_| sandbox.clean().len() >= 300);
    await_flowing(&mut running, "unread-group.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(300);
}

/// Nobody needs to be asked for a permission, or waited for: the setting is wrong.
#[test]
fn a_transaction_timeout_that_the_broker_refuses_is_named() {
    let sandbox = Sandbox::new(kafka(), "too-long", 1);
    let instance = sandbox.instance(0).set("KAFKA__PRODUCER__TRANSACTION.TIMEOUT.MS", "1000000");
    let output = instance.run(&["run", "--create-topics"]);
    assert_eq!(output.status.code(), Some(5), "{}", text(&output));
    assert!(text(&output).contains("lower transaction.timeout.ms"), "{}", text(&output));
    assert!(!text(&output).contains("did not answer"), "{}", text(&output));
}
