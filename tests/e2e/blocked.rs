//! What one route, partition or record lacks stops nothing else: its partition waits and says why,
//! and goes on by itself once it is cured.

use std::time::Duration;

use krafka::admin::{AclOperation as Op, AclResourceType as Kind};
use krafka::{ConsumerRecord, Record};

use crate::acls::{allow_routes, limited};
use crate::feed::{Feeder, growing, large, people, person};
use crate::kafka::kafka;
use crate::operator::{
    CURED, SAID, SecondRoute, await_blocked, await_flowing, await_lag, await_unready, lags,
    partitions,
};
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, Running};

const LONG: Duration = Duration::from_secs(60);
/// librdkafka's own is 5 minutes; a test does not wait so long for a partition to be found.
const LOOKS: (&str, &str) = ("KAFKA__CONSUMER__TOPIC.METADATA.REFRESH.INTERVAL.MS", "1000");

/// One lane, so that what stops a lane stops everything.
fn one_lane(instance: Instance) -> Instance {
    instance.set("PIPELINE__LANES", "1").set("PIPELINE__STALL_AFTER", "3s").set(LOOKS.0, LOOKS.1)
}

#[test]
fn a_topic_the_guard_stopped_goes_on_after_rebalances() {
    blocked_through_rebalances("guarded", &|instance, _| instance);
}

/// Five partitions, two members: the guard stops a topic of four, a member comes, takes at least
/// one of them and goes, the schema is mended. `with` sets an instance up, by its number.
pub(crate) fn blocked_through_rebalances(name: &str, with: &dyn Fn(Instance, u32) -> Instance) {
    const ALL: usize = 2000;
    let sandbox = Sandbox::new(kafka(), name, 4);
    let mut second = SecondRoute::new(&sandbox, 1);
    let raw = format!("{name}.raw");
    // Numbers where texts are.
    sandbox.document(
        "people",
        &people(name).replace(r#""path":"$.ssn""#, r#""path":"$.ssn","type":"number""#),
    );
    let instance = |number| {
        let guarded = sandbox
            .instance(number)
            .set("PIPELINE__REJECT_GUARD", "50% of 100")
            .set("PIPELINE__MAX_BATCH_RECORDS", "50");
        with(guarded, number)
    };
    let (first, other) = (instance(0), instance(1));
    sandbox.feed(0..ALL, person);
    let mut running = first.start();
    for partition in 0..4 {
        await_blocked(&mut running, &first, (&raw, partition), "guard", "mend the schema");
    }
    second.flows(&mut running, 100);
    running.wait_for(SAID, "what waits to be lag", |r| {
        lags(r, &raw).len() == 4 && lags(r, &raw).values().all(|lag| *lag > 0)
    });

    let mut joined = other.start();
    joined.wait_for(LONG, "the second member to have partitions", |r| {
        partitions(r) >= 2 && partitions(r) + partitions(&running) == 5
    });
    second.flows(&mut running, 100);
    assert_eq!(joined.stop(), Some(0), "{}", other.tail());
    running.wait_for(LONG, "the first member to have all again", |r| partitions(r) == 5);
    second.flows(&mut running, 100);
    for partition in 0..4 {
        await_blocked(&mut running, &first, (&raw, partition), "guard", "mend the schema");
    }
    let rejected = sandbox.dead().len();
    await_lag(&mut running, &raw, ALL - rejected);

    sandbox.document("people", &people(name).replace(r#""version":1"#, r#""version":2"#));
    running.wait_for(CURED, "what waited", |_| sandbox.clean().len() + sandbox.dead().len() >= ALL);
    await_flowing(&mut running, &raw);
    assert_eq!(running.stop(), Some(0), "{}", first.tail());
    let (clean, dead) = (reader::times(&sandbox.clean(), ALL), sandbox.dead().len());
    assert!(clean.iter().all(|n| *n <= 1));
    assert_eq!(clean.iter().filter(|n| **n == 1).count() + dead, ALL);
    assert!(dead < ALL / 2, "{dead} dead letters: the guard stopped nothing");
    second.assert_each_once();
}

/// Waits until `clean` holds every record of a series: so soon after the cure, by itself.
fn await_cured(sandbox: &Sandbox<'_>, running: &mut Running<'_>, all: usize) {
    running.wait_for(CURED, "what waited", |_| sandbox.clean().len() >= all);
    await_flowing(running, &format!("{}.raw", sandbox.name));
    sandbox.assert_each_once(all);
}

#[test]
fn a_partition_without_its_like_waits_until_the_sanitized_topic_is_grown() {
    let mut sandbox = Sandbox::new(kafka(), "grown", 2);
    let mut second = SecondRoute::new(&sandbox, 2);
    let instance = one_lane(sandbox.instance(0));
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    running.ready();
    second.flows(&mut running, 50);
    sandbox.broker.grow_topic("grown.raw", 3);
    let feeder = Feeder::new(sandbox.broker);
    for i in 100..400 {
        feeder.number("grown.raw", 3, i, person(i).as_bytes());
    }
    feeder.finish();
    await_blocked(&mut running, &instance, ("grown.raw", 2), "sanitized_topic", "grown.clean");
    running.wait_for(SAID, "the other partitions", |_| sandbox.clean().len() == 300);
    second.flows(&mut running, 50);
    await_lag(&mut running, "grown.raw", 100);
    sandbox.broker.grow_topic("grown.clean", 3);
    sandbox.partitions = 3;
    running.wait_for(CURED, "what waited", |_| sandbox.clean().len() == 400);
    await_flowing(&mut running, "grown.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert!(reader::times(&sandbox.clean(), 400).iter().all(|n| *n == 1));
    second.assert_each_once();
}

#[test]
fn a_route_whose_sanitized_topic_is_deleted_waits_alone() {
    let sandbox = Sandbox::new(kafka(), "gone", 2);
    let mut second = SecondRoute::new(&sandbox, 2);
    let instance = one_lane(sandbox.instance(0));
    let mut running = instance.start();
    running.ready();
    second.flows(&mut running, 50);
    sandbox.feed(0..100, person);
    running.wait_for(LONG, "the records", |_| sandbox.clean().len() == 100);
    sandbox.broker.delete_topic("gone.clean");
    sandbox.feed(100..200, person);
    for partition in 0..2 {
        await_blocked(
            &mut running,
            &instance,
            ("gone.raw", partition),
            "sanitized_topic",
            "gone.clean",
        );
    }
    second.flows(&mut running, 50);
    await_lag(&mut running, "gone.raw", 100);
    sandbox.broker.create_topic("gone.clean", 2);
    running.wait_for(CURED, "what waited", |_| sandbox.clean().len() == 100);
    await_flowing(&mut running, "gone.raw");
    second.flows(&mut running, 50);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert!(reader::times(&sandbox.clean(), 200)[100..].iter().all(|n| *n == 1));
    second.assert_each_once();
}

#[test]
fn a_route_that_may_not_be_written_waits_alone() {
    let sandbox = Sandbox::new(kafka(), "forbidden", 2);
    let mut second = SecondRoute::new(&sandbox, 2);
    allow_routes(&sandbox, &["forbidden", &second.name]);
    let instance = one_lane(limited(&sandbox));
    let mut running = instance.start();
    running.ready();
    second.flows(&mut running, 50);
    sandbox.broker.deny(Kind::Topic, Op::Write, "forbidden.clean");
    sandbox.feed(0..100, person);
    for partition in 0..2 {
        await_blocked(
            &mut running,
            &instance,
            ("forbidden.raw", partition),
            "not_authorized",
            "grant Write",
        );
    }
    await_unready(&mut running, &["forbidden.clean"]);
    second.flows(&mut running, 50);
    sandbox.broker.undo_deny(Kind::Topic, "forbidden.clean");
    await_cured(&sandbox, &mut running, 100);
    second.flows(&mut running, 50);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    second.assert_each_once();
}

/// A start with one route that cannot run is a start of the others. What it lacks is taken away
/// while nothing runs, and given back while all runs.
#[test]
fn a_restart_without_what_one_route_needs_runs_the_others() {
    let sandbox = Sandbox::new(kafka(), "without", 2);
    let mut second = SecondRoute::new(&sandbox, 2);
    allow_routes(&sandbox, &["without", &second.name]);
    let instance = limited(&sandbox).set("PIPELINE__LANES", "1").set("PIPELINE__STALL_AFTER", "3s");
    let (raw, clean) = ("without.raw", "without.clean");
    let (mut fed, mut kept) = (0, 0);
    let mut round = |take: &dyn Fn(), give: &dyn Fn(), told: &dyn Fn(&mut Running<'_>)| {
        take();
        sandbox.feed(fed..fed + 100, person);
        let mut running = instance.start();
        second.flows(&mut running, 50);
        told(&mut running);
        assert_eq!(running.ended(), None);
        give();
        // What stood in a topic that was deleted is gone.
        kept = kept.min(sandbox.clean().len());
        running.wait_for(CURED, "what waited", |_| sandbox.clean().len() == kept + 100);
        await_flowing(&mut running, raw);
        second.flows(&mut running, 50);
        assert_eq!(running.stop(), Some(0), "{}", instance.tail());
        let times = reader::times(&sandbox.clean(), fed + 100);
        assert!(times[fed - kept..].iter().all(|n| *n == 1), "{times:?}");
        (fed, kept) = (fed + 100, kept + 100);
    };
    let blocked = |reason: &'static str, remedy: &'static str| {
        let instance = &instance;
        move |running: &mut Running<'_>| {
            (0..2).for_each(|partition| {
                await_blocked(running, instance, (raw, partition), reason, remedy)
            })
        }
    };
    let broker = sandbox.broker;
    round(&|| (), &|| (), &|running| running.ready());
    round(
        &|| broker.delete_topic(clean),
        &|| broker.create_topic(clean, 2),
        &blocked("sanitized_topic", clean),
    );
    for (operation, topic, remedy) in [
        (Op::Write, clean, "grant Write"),
        (Op::All, clean, "grant Describe"),
        (Op::Read, raw, "grant Read"),
    ] {
        round(
            &|| broker.deny(Kind::Topic, operation, topic),
            &|| broker.undo_deny(Kind::Topic, topic),
            &blocked("not_authorized", remedy),
        );
    }
    // What may not be described has no partition that could say so.
    let told = |running: &mut Running<'_>| {
        await_unready(running, &["topic without.raw: not authorized; grant Describe"])
    };
    round(
        &|| broker.deny(Kind::Topic, Op::All, raw),
        &|| broker.undo_deny(Kind::Topic, raw),
        &told,
    );
    second.assert_each_once();
}

#[test]
fn a_record_that_even_the_dead_letters_refuse_stops_its_partition_only() {
    let sandbox = Sandbox::new(kafka(), "unfit", 2);
    let instance = one_lane(sandbox.instance(0));
    let mut running = instance.start();
    running.ready();
    // Smaller than a stub.
    sandbox.broker.alter_topic("unfit.dead-letter", "max.message.bytes", "100");
    sandbox.feed(0..200, |i| if i == 20 { "no json".to_owned() } else { person(i) });
    await_blocked(&mut running, &instance, ("unfit.raw", 0), "record_refused", "max.message.bytes");
    running.wait_for(SAID, "the other partition", |_| {
        sandbox.clean().iter().filter(|r| r.partition == 1).count() == 100
    });
    // What comes before the record is through, what comes after waits: order.
    running.wait_for(SAID, "what comes before", |_| {
        sandbox.clean().iter().filter(|r| r.partition == 0).count() == 10
    });
    // Which record it is.
    await_unready(&mut running, &["unfit.raw [0]", "10", "unfit.dead-letter"]);
    sandbox.broker.alter_topic("unfit.dead-letter", "max.message.bytes", "1048576");
    running.wait_for(CURED, "what waited", |_| sandbox.clean().len() == 199);
    await_flowing(&mut running, "unfit.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_eq!(sandbox.dead().len(), 1);
    assert!(
        reader::times(&sandbox.clean(), 200)
            .iter()
            .enumerate()
            .all(|(i, n)| *n == u32::from(i != 20))
    );
}

/// Feeds a series to a topic that takes no more than 100,000 bytes a batch.
fn feed_small(sandbox: &Sandbox<'_>, all: usize, value: impl Fn(usize) -> String) {
    let feeder = Feeder::up_to(sandbox.broker, 95_000);
    for i in 0..all {
        feeder.number(&format!("{}.raw", sandbox.name), sandbox.partitions, i, value(i).as_bytes());
    }
    feeder.finish();
}

/// Sealed they are larger than their own topic takes, and smaller than the largest topic does:
/// judged by their own, before anything is produced.
#[test]
fn a_record_is_measured_by_its_own_topic() {
    let sandbox = Sandbox::new(kafka(), "measured", 2);
    let _larger = SecondRoute::new(&sandbox, 2);
    sandbox.broker.alter_topic("measured.raw", "max.message.bytes", "100000");
    sandbox.broker.create_topic_with("measured.clean", 2, &[("max.message.bytes", "100000")]);
    let instance = one_lane(sandbox.instance(0));
    let is_large = |i: usize| i % 100 == 50;
    feed_small(&sandbox, 1000, |i| if is_large(i) { growing(i, 90_000) } else { person(i) });
    let mut running = instance.start();
    running.ready();
    running.wait_for(LONG, "the records", |_| {
        sandbox.clean().len() == 990 && sandbox.dead().len() == 10
    });
    assert_eq!(running.metric("veilstream_transactions_total", "aborted"), 0.0);
    assert_eq!(running.metric("veilstream_producer_recycles_total", ""), 0.0);
    running.await_metric(
        "veilstream_records_dead_lettered_total",
        "reason=\"output_too_large\",topic=\"measured.raw\"",
        10.0,
    );
    await_flowing(&mut running, "measured.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert!(
        reader::times(&sandbox.clean(), 1000)
            .iter()
            .enumerate()
            .all(|(i, n)| *n == u32::from(!is_large(i)))
    );
}

/// The limit falls while it runs, and the broker refuses what was measured by the old one: whole
/// batches, innocent records with them.
#[test]
fn records_of_a_refused_batch_are_told_apart_in_few_transactions() {
    let sandbox = Sandbox::new(kafka(), "suspects", 1);
    let instance = one_lane(sandbox.instance(0)).set("PIPELINE__COMMIT_INTERVAL", "2s");
    let mut running = instance.start();
    running.ready();
    sandbox.broker.alter_topic("suspects.clean", "max.message.bytes", "100000");
    let is_large = |i: usize| (300..310).contains(&i);
    sandbox.feed(0..1000, |i| if is_large(i) { large(i, 200_000) } else { person(i) });
    running.wait_for(LONG, "the records", |_| {
        sandbox.clean().len() == 990 && sandbox.dead().len() == 10
    });
    let aborted = running.metric("veilstream_transactions_total", "aborted");
    assert!(
        aborted <= 25.0,
        "{aborted} aborted transactions: bisecting takes up to 11, each of the 9 behind the first \
        one more"
    );
    await_flowing(&mut running, "suspects.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert!(
        reader::times(&sandbox.clean(), 1000)
            .iter()
            .enumerate()
            .all(|(i, n)| *n == u32::from(!is_large(i)))
    );
}

/// Each abort moves the partition back, and what is read before the lane hears of it must not pass
/// for what it had read before.
#[cfg(feature = "inject")]
#[test]
fn a_lane_that_hears_late_where_it_reads_from_loses_nothing() {
    let sandbox = Sandbox::new(kafka(), "hears-late", 1);
    let instance = one_lane(sandbox.instance(0)).inject("SLOW_MOVE", "100");
    let mut running = instance.start();
    running.ready();
    sandbox.broker.alter_topic("hears-late.clean", "max.message.bytes", "100000");
    sandbox.feed(0..2000, |i| if i == 1500 { large(i, 200_000) } else { person(i) });
    running.wait_for(LONG, "the dead letter", |_| sandbox.dead().len() == 1);
    await_flowing(&mut running, "hears-late.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    let times = reader::times(&sandbox.clean(), 2000);
    assert!(times.iter().enumerate().all(|(i, n)| *n == u32::from(i != 1500)), "{times:?}");
}

/// A document that names another sanitized topic, as its next version.
fn moved(name: &str, to: &str) -> String {
    people(name).replace(r#""version":1"#, r#""version":2"#).replace(&format!("{name}.clean"), to)
}

fn read(sandbox: &Sandbox<'_>, topic: &str) -> Vec<ConsumerRecord> {
    reader::committed(&sandbox.broker.bootstrap, topic, sandbox.partitions)
}

#[test]
fn a_document_that_leads_to_a_missing_topic_stops_no_other_route_and_loses_nothing() {
    let sandbox = Sandbox::new(kafka(), "led", 2);
    let mut second = SecondRoute::new(&sandbox, 2);
    let instance = one_lane(sandbox.instance(0));
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    running.ready();
    running.wait_for(LONG, "the records", |_| sandbox.clean().len() == 100);
    sandbox.document("people", &moved("led", "led.elsewhere"));
    await_unready(&mut running, &["led.elsewhere"]);
    sandbox.feed(100..200, person);
    second.flows(&mut running, 50);
    await_unready(&mut running, &["led.elsewhere"]);
    assert_eq!(
        running.metric("veilstream_transactions_total", "aborted"),
        0.0,
        "what has no topic is not tried"
    );
    sandbox.broker.create_topic("led.elsewhere", 2);
    // Whether the old version goes on until then is its own matter: nothing is lost and nothing
    // doubled.
    running.wait_for(CURED, "the second version", |r| {
        r.get("/status").is_some_and(|(_, status)| status.contains("people/2"))
    });
    running.ready();
    running.wait_for(CURED, "what waited", |_| {
        sandbox.clean().len() + read(&sandbox, "led.elsewhere").len() >= 200
    });
    sandbox.feed(200..300, person);
    running.wait_for(SAID, "the new version", |_| {
        sandbox.clean().len() + read(&sandbox, "led.elsewhere").len() >= 300
    });
    await_flowing(&mut running, "led.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    let (old, new) = (sandbox.clean(), read(&sandbox, "led.elsewhere"));
    assert!(reader::times(&[old, new].concat(), 300).iter().all(|n| *n == 1));
    assert!(reader::times(&read(&sandbox, "led.elsewhere"), 300)[200..].iter().all(|n| *n == 1));
}

/// The facts of the topic that comes with a document count, not those of the start: its limit, and
/// that it is compacted.
#[test]
fn a_document_comes_into_force_with_the_facts_of_its_topic() {
    let sandbox = Sandbox::new(kafka(), "facts", 1);
    let instance = one_lane(sandbox.instance(0));
    let mut running = instance.start();
    running.ready();
    sandbox.broker.alter_topic("facts.raw", "max.message.bytes", "100000");
    sandbox.broker.create_topic_with(
        "facts.small",
        1,
        &[("max.message.bytes", "100000"), ("cleanup.policy", "compact")],
    );
    sandbox.document("people", &moved("facts", "facts.small"));
    running.wait_for(SAID, "the second version", |r| {
        r.get("/status").is_some_and(|(_, status)| status.contains("people/2"))
    });
    feed_small(&sandbox, 200, |i| if i == 50 { growing(i, 90_000) } else { person(i) });
    reader::send(&sandbox.broker.bootstrap, Record::new("facts.raw", person(7)).partition(0));
    let both = || (read(&sandbox, "facts.small").len(), sandbox.dead().len());
    running.wait_for(LONG, "the records", |_| both() == (199, 2));
    for reason in ["output_too_large", "broker_refused"] {
        let label = format!("reason=\"{reason}\"");
        running.await_metric("veilstream_records_dead_lettered_total", &label, 1.0);
    }
    assert_eq!(running.metric("veilstream_transactions_total", "aborted"), 0.0);
    await_flowing(&mut running, "facts.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
}
