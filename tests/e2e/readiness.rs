//! Ready means that records move. Each test takes away what one step needs, asks what `/readyz`,
//! the metrics and the log say, and gives it back.

use std::time::Duration;

use krafka::admin::{AclOperation as Op, AclResourceType as Kind};

use crate::acls::{allow_routes, limited};
use crate::feed::{Feeder, person};
use crate::kafka::{Kafka, kafka, wait_for};
use crate::operator::{
    CURED, SAID, SecondRoute, await_blocked, await_flowing, await_lag, await_unready, lags,
    partitions,
};
use crate::proxy::{Hold, Proxy};
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::Instance;

const LONG: Duration = Duration::from_secs(60);

fn soon(instance: Instance) -> Instance {
    instance.set("PIPELINE__STALL_AFTER", "2s")
}

#[test]
fn lag_is_there_from_the_assignment_on() {
    let sandbox = Sandbox::new(kafka(), "lag", 4);
    let instance = sandbox.instance(0);
    let mut running = instance.start();
    running.ready();
    let all = |lag: i64| (0..4).map(|partition| (partition, lag)).collect();
    running
        .wait_for(SAID, "the lag of partitions without records", |r| lags(r, "lag.raw") == all(0));
    sandbox.feed(0..400, person);
    running.wait_for(LONG, "the records", |_| sandbox.clean().len() == 400);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    // Nothing to read after a restart: the lag is there all the same.
    let mut running = instance.start();
    running.ready();
    running.wait_for(SAID, "the lag of partitions that are read", |r| lags(r, "lag.raw") == all(0));
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
}

#[test]
fn a_raw_topic_that_may_not_be_read_is_said_and_its_lag_grows() {
    let sandbox = Sandbox::new(kafka(), "unread", 2);
    let mut second = SecondRoute::new(&sandbox, 2);
    allow_routes(&sandbox, &["unread", &second.name]);
    let instance = soon(limited(&sandbox));
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    running.ready();
    running.wait_for(LONG, "the records", |_| sandbox.clean().len() == 100);
    sandbox.broker.deny(Kind::Topic, Op::Read, "unread.raw");
    await_unready(&mut running, &["unread.raw", "grant Read"]);
    sandbox.feed(100..200, person);
    for partition in 0..2 {
        await_blocked(
            &mut running,
            &instance,
            ("unread.raw", partition),
            "not_authorized",
            "grant Read",
        );
    }
    await_lag(&mut running, "unread.raw", 100);
    second.flows(&mut running, 50);
    let (_, why) = running.get("/readyz").unwrap();
    assert!(
        !why.contains(&second.name) && !why.contains("group unread"),
        "what may be read is blamed: {why}"
    );
    sandbox.broker.undo_deny(Kind::Topic, "unread.raw");
    running.wait_for(CURED, "the rest", |_| sandbox.clean().len() == 200);
    await_flowing(&mut running, "unread.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(200);
    second.assert_each_once();
}

#[test]
fn a_group_that_may_not_be_read_is_named_and_waited_for() {
    group_lost("refused", &|instance| instance);
}

#[test]
fn a_group_that_may_not_be_read_is_waited_for_in_the_consumer_protocol() {
    group_lost("refused-848", &Instance::consumer_protocol);
}

/// The permission to read the group is taken away while it runs, and given back.
fn group_lost(name: &str, with: &dyn Fn(Instance) -> Instance) {
    let sandbox = Sandbox::new(kafka(), name, 2);
    allow_routes(&sandbox, &[name]);
    let instance = soon(with(limited(&sandbox)));
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    running.ready();
    running.wait_for(LONG, "the records", |_| sandbox.clean().len() == 100);
    sandbox.broker.deny(Kind::Group, Op::Read, name);
    sandbox.feed(100..200, person);
    await_unready(&mut running, &[&format!("group {name}"), "grant Read"]);
    let (_, why) = running.get("/readyz").unwrap();
    assert!(!why.contains("on the raw topics"), "the topics may be read: {why}");
    assert_eq!(running.get("/livez").unwrap().0, 200);
    assert_eq!(running.ended(), None);
    sandbox.broker.undo_deny(Kind::Group, name);
    running.wait_for(LONG, "the rest", |_| sandbox.clean().len() >= 200);
    await_flowing(&mut running, &format!("{name}.raw"));
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(200);
}

/// Records behind somebody's open transaction are not there yet. That is no lag, but it is said.
#[test]
fn waiting_behind_a_transaction_of_somebody_else_is_a_reason_of_its_own() {
    let sandbox = Sandbox::new(kafka(), "behind", 2);
    let instance = soon(sandbox.instance(0));
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    running.ready();
    running.wait_for(LONG, "the records", |_| sandbox.clean().len() == 100);
    let upstream = Feeder::transactional(sandbox.broker, "behind-upstream");
    upstream.begin();
    upstream.number("behind.raw", 2, 100, person(100).as_bytes());
    upstream.finish();
    sandbox.feed(101..200, person);
    await_unready(&mut running, &["behind.raw [0]", "transaction"]);
    running.wait_for(SAID, "the other partition", |_| sandbox.clean().len() == 150);
    let (_, why) = running.get("/readyz").unwrap();
    assert!(!why.contains("behind.raw [1]"), "{why}");
    await_lag(&mut running, "behind.raw", 0);
    upstream.abort();
    running.wait_for(CURED, "what waited", |_| sandbox.clean().len() == 199);
    await_flowing(&mut running, "behind.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    let times = reader::times(&sandbox.clean(), 200);
    assert!(times.iter().enumerate().all(|(i, n)| *n == u32::from(i != 100)), "{times:?}");
}

/// Two members with one `group.instance.id`: Kafka fences the first for good.
#[test]
fn a_static_member_that_was_fenced_ends_with_3() {
    let sandbox = Sandbox::new(kafka(), "fenced", 2);
    let member =
        |number| sandbox.instance(number).set("KAFKA__CONSUMER__GROUP.INSTANCE.ID", "the-only-one");
    let (one, two) = (member(0), member(1));
    let mut first = one.start();
    first.ready();
    let mut second = two.start();
    wait_for(LONG, "the first to end", || first.ended().is_some());
    assert_eq!(first.ended(), Some(3), "{}", one.tail());
    assert!(
        one.tail().contains("give each its own group.instance.id"),
        "what to change is not said\n{}",
        one.tail()
    );
    sandbox.feed(0..100, person);
    second.ready();
    second.wait_for(LONG, "the records", |_| sandbox.clean().len() == 100);
    assert_eq!(second.stop(), Some(0), "{}", two.tail());
    sandbox.assert_each_once(100);
}

/// In the consumer protocol Kafka refuses the second, as long as the first one's session lasts.
#[test]
fn a_static_member_whose_name_is_taken_ends_with_3_in_the_consumer_protocol() {
    let sandbox = Sandbox::new(kafka(), "taken-848", 2);
    let member = |number| {
        sandbox
            .instance(number)
            .consumer_protocol()
            .set("KAFKA__CONSUMER__GROUP.INSTANCE.ID", "the-only-one")
    };
    let (one, two) = (member(0), member(1));
    let mut first = one.start();
    first.ready();
    let mut second = two.start();
    await_unready(&mut second, &["static member the-only-one", "group.instance.id"]);
    sandbox.feed(0..100, person);
    first.wait_for(LONG, "the records", |_| sandbox.clean().len() == 100);
    wait_for(2 * LONG, "the second to end", || second.ended().is_some());
    assert_eq!(second.ended(), Some(3), "{}", two.tail());
    assert!(two.tail().contains("give each its own group.instance.id"), "{}", two.tail());
    assert_eq!(first.stop(), Some(0), "{}", one.tail());
    sandbox.assert_each_once(100);
}

/// A process that was killed comes back before its session is over: nobody else has its name.
#[test]
fn a_static_member_that_was_killed_comes_back_in_the_consumer_protocol() {
    let sandbox = Sandbox::new(kafka(), "back-848", 2);
    let instance = sandbox
        .instance(0)
        .consumer_protocol()
        .set("KAFKA__CONSUMER__GROUP.INSTANCE.ID", "the-only-one");
    let mut running = instance.start();
    running.wait_for(LONG, "its partitions", |r| partitions(r) == 2);
    running.kill();
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    await_unready(&mut running, &["static member the-only-one"]);
    running.wait_for(LONG, "the records", |_| sandbox.clean().len() == 100);
    running.ready();
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(100);
}

/// The first is stopped for longer than its session lasts, and goes on when another one is the
/// member.
#[test]
fn a_static_member_that_was_fenced_ends_with_3_in_the_consumer_protocol() {
    let sandbox = Sandbox::new(kafka(), "fenced-848", 2);
    let member = |number| {
        sandbox
            .instance(number)
            .consumer_protocol()
            .set("KAFKA__CONSUMER__GROUP.INSTANCE.ID", "the-only-one")
    };
    let (one, two) = (member(0), member(1));
    let mut first = one.start();
    first.wait_for(LONG, "its partitions", |r| partitions(r) == 2);
    first.pause();
    let mut second = two.start();
    second.wait_for(LONG, "the second to be the member", |r| partitions(r) == 2);
    sandbox.feed(0..100, person);
    second.wait_for(LONG, "the records", |_| sandbox.clean().len() == 100);
    first.resume();
    wait_for(2 * LONG, "the first to end", || first.ended().is_some());
    assert_eq!(first.ended(), Some(3), "{}", one.tail());
    assert!(one.tail().contains("give each its own group.instance.id"), "{}", one.tail());
    sandbox.feed(100..200, person);
    second.wait_for(LONG, "the rest", |_| sandbox.clean().len() == 200);
    assert_eq!(second.stop(), Some(0), "{}", two.tail());
    sandbox.assert_each_once(200);
}

/// One request to commit gets no answer and its repetition does: the transaction is committed, and
/// the producer cannot be used again.
#[test]
fn a_commit_whose_producer_is_replaced_counts_as_committed() {
    let broker = Kafka::start("tainted", 1);
    let proxy = Proxy::start(&broker.proxied);
    let sandbox = Sandbox::new(&broker, "tainted", 1);
    let address = format!("127.0.0.1:{}", proxy.port());
    let instance = sandbox
        .instance(0)
        .set("KAFKA__BOOTSTRAP_SERVERS", &address)
        .set("PIPELINE__LANES", "1")
        .set("PIPELINE__COMMIT_INTERVAL", "2s");
    let mut running = instance.start();
    running.ready();
    sandbox.feed(0..50, person);
    running.wait_for(LONG, "the first records", |r| {
        sandbox.clean().len() == 50 && r.metric("veilstream_transactions_total", "committed") >= 1.0
    });
    let before = running.metric("veilstream_transactions_total", "committed");
    proxy.arm();
    sandbox.feed(50..60, person);
    wait_for(LONG, "a request to hold", || proxy.hold() != Hold::Armed);
    running.wait_for(LONG, "the records of the held request", |_| sandbox.clean().len() == 60);
    running.wait_for(LONG, "the producer to be replaced", |r| {
        r.metric("veilstream_producer_recycles_total", "unanswered_request") == 1.0
    });
    running.await_metric("veilstream_transactions_total", "committed", before + 1.0);
    assert_eq!(running.metric("veilstream_transactions_total", "aborted"), 0.0);
    running.await_metric("veilstream_records_produced_total", "tainted.clean", 60.0);
    running.await_metric("veilstream_records_consumed_total", "tainted.raw", 60.0);
    await_flowing(&mut running, "tainted.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(60);
}
