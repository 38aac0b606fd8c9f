//! What Kafka can do otherwise than by default: assignors, static members, transactional upstreams,
//! replicas in racks, large records.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::blocked::blocked_through_rebalances;
use crate::feed::{Feeder, Input, TIME, large, person};
use crate::kafka::{Kafka, kafka};
use crate::operator::{SAID, await_flowing, partitions};
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, Running};

const LONG: Duration = Duration::from_secs(60);

fn eager(instance: Instance, _: u32) -> Instance {
    instance.set("KAFKA__CONSUMER__PARTITION.ASSIGNMENT.STRATEGY", "range")
}

fn of_the_broker(instance: Instance, _: u32) -> Instance {
    instance.consumer_protocol()
}

fn static_member(instance: Instance, number: u32) -> Instance {
    instance.set("KAFKA__CONSUMER__GROUP.INSTANCE.ID", &format!("member-{number}"))
}

#[test]
fn an_eager_assignor_keeps_what_waits_and_lets_it_go() {
    blocked_through_rebalances("guarded-eager", &eager);
}

#[test]
fn the_consumer_protocol_keeps_what_waits_and_lets_it_go() {
    blocked_through_rebalances("guarded-848", &of_the_broker);
}

#[test]
fn static_members_keep_what_waits_and_let_it_go() {
    blocked_through_rebalances("guarded-static", &static_member);
}

#[test]
fn members_come_and_go_with_an_eager_assignor() {
    come_and_go("eager", &eager);
}

#[test]
fn members_come_and_go_in_the_consumer_protocol() {
    come_and_go("kip-848", &of_the_broker);
}

#[test]
fn static_members_come_and_go() {
    come_and_go("static", &static_member);
}

/// Under load a second member joins, leaves, joins again, is killed and comes back.
fn come_and_go(name: &str, with: &dyn Fn(Instance, u32) -> Instance) {
    let sandbox = Sandbox::new(kafka(), name, 4);
    let (one, two) = (with(sandbox.instance(0), 0), with(sandbox.instance(1), 1));
    let mut first = one.start();
    first.ready();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let until = end_of_feeding(&over);
        let feeding = scope.spawn(|| {
            let feeder = Feeder::new(sandbox.broker);
            let mut i = 0;
            while !over.load(Ordering::Relaxed) {
                feeder.number(&format!("{name}.raw"), 4, i, person(i).as_bytes());
                i += 1;
                if i % 2 == 0 {
                    // A steady trickle: a transaction is open nearly always.
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            feeder.finish();
            i
        });
        let moved = |r: &Running<'_>| {
            r.metric("veilstream_records_produced_total", &format!("{name}.clean"))
        };
        for killed in [false, true] {
            let mut second = two.start();
            second.wait_for(LONG, "the second member to have partitions", |r| {
                partitions(r) == 2 && moved(r) >= 50.0
            });
            first.wait_for(LONG, "the first to have given them away", |r| partitions(r) == 2);
            if killed {
                second.kill();
            } else {
                assert_eq!(second.stop(), Some(0), "{}", two.tail());
            }
            first.wait_for(LONG, "the first member to have all again", |r| partitions(r) == 4);
            let before = moved(&first);
            first.wait_for(LONG, "it to go on", |r| moved(r) >= before + 200.0);
        }
        // What the killed one left open, it aborts when it comes back: nothing waits for a
        // time-out.
        let mut second = two.start();
        second.wait_for(LONG, "the killed member to be back", |r| partitions(r) == 2);
        drop(until);
        let all = feeding.join().unwrap();
        first.wait_for(LONG, "the rest", |_| sandbox.clean().len() >= all);
        await_flowing(&mut first, &format!("{name}.raw"));
        await_flowing(&mut second, &format!("{name}.raw"));
        assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)), "{}", one.tail());
        sandbox.assert_each_once(all);
    });
}

/// Ends the feeding, by a failed assertion too: nobody waits for a feeder that does not end.
fn end_of_feeding(over: &AtomicBool) -> impl Drop {
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    End(over)
}

/// Back within its session under the same name: the others do not notice.
#[test]
fn a_static_member_that_is_restarted_moves_no_partition() {
    let sandbox = Sandbox::new(kafka(), "restarted", 4);
    let member = |number| {
        static_member(sandbox.instance(number), number)
            .set("KAFKA__CONSUMER__SESSION.TIMEOUT.MS", "30000")
    };
    let (one, two) = (member(0), member(1));
    let (mut first, mut second) = (one.start(), two.start());
    first.ready();
    second.wait_for(LONG, "both members to have partitions", |r| {
        partitions(r) == 2 && partitions(&first) == 2
    });
    sandbox.feed(0..400, person);
    first.wait_for(LONG, "the records", |_| sandbox.clean().len() == 400);
    let rebalances = second.metric("veilstream_rebalances_total", "");
    assert_eq!(first.stop(), Some(0), "{}", one.tail());
    sandbox.feed(400..800, person);
    second.wait_for(LONG, "the member that stays", |_| sandbox.clean().len() == 600);
    let mut first = one.start();
    first.wait_for(LONG, "the restarted member to have its partitions", |r| partitions(r) == 2);
    first.wait_for(LONG, "the rest", |_| sandbox.clean().len() == 800);
    assert_eq!(second.metric("veilstream_rebalances_total", ""), rebalances);
    assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)), "{}", one.tail());
    sandbox.assert_each_once(800);
}

/// Every second transaction is aborted, the last one too: its records and all control records are
/// passed over and committed as passed over.
#[test]
fn a_transactional_upstream_that_aborts() {
    const EACH: usize = 100;
    let sandbox = Sandbox::new(kafka(), "upstream", 2);
    let instance = sandbox.instance(0).set("PIPELINE__STALL_AFTER", "5s");
    let mut running = instance.start();
    running.ready();
    let upstream = Feeder::transactional(sandbox.broker, "upstream-upstream");
    let aborted = |i: usize| i / EACH % 2 == 1;
    for round in 0..10 {
        upstream.begin();
        for i in round * EACH..(round + 1) * EACH {
            upstream.number("upstream.raw", 2, i, person(i).as_bytes());
        }
        if aborted(round * EACH) { upstream.abort() } else { upstream.commit() }
    }
    running.wait_for(LONG, "the committed records", |_| sandbox.clean().len() == 500);
    let ends: BTreeMap<i32, i64> = (0..2)
        .map(|partition| (partition, sandbox.broker.bounds("upstream.raw", partition).1))
        .collect();
    assert_eq!(
        ends,
        BTreeMap::from([(0, 510), (1, 510)]),
        "records and a control record of each transaction"
    );
    running.wait_for(SAID, "the offsets behind the last abort", |_| {
        reader::committed_offsets(&sandbox.broker.bootstrap, "upstream", "upstream.raw") == ends
    });
    await_flowing(&mut running, "upstream.raw");
    running.await_metric("veilstream_records_consumed_total", "upstream.raw", 500.0);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    let everything = reader::uncommitted(&sandbox.broker.bootstrap, "upstream.clean", 2);
    let times = reader::times(&everything, 1000);
    assert!(times.iter().enumerate().all(|(i, n)| *n == u32::from(!aborted(i))), "{times:?}");
}

/// The consumer reads from the replica of its own rack, which is behind the leader.
#[test]
fn records_are_read_from_a_follower_in_the_same_rack() {
    let racks = |id| {
        format!(
            "broker.rack=r{id}\nreplica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector\n"
        )
    };
    let cluster = Kafka::start_with(
        "racks",
        2,
        "-Dorg.slf4j.simpleLogger.log.kafka.request.logger=debug",
        |id, _, _| racks(id),
    );
    let sandbox = Sandbox::new(&cluster, "racks", 2);
    // The sandbox's own raw topic is wherever; this one is led by the first broker.
    cluster.delete_topic("racks.raw");
    cluster.create_topic_on("racks.raw", &[&[1, 2], &[1, 2]]);
    let instance = sandbox
        .instance(0)
        .set("KAFKA__CONSUMER__CLIENT.RACK", "r2")
        .set("PIPELINE__STALL_AFTER", "5s");
    sandbox.feed(0..1000, person);
    let mut running = instance.start();
    running.ready();
    running.wait_for(LONG, "the records", |_| sandbox.clean().len() == 1000);
    for round in 1..=5 {
        // Small, so that the follower is asked for what it does not have yet.
        let all = 1000 + 10 * round;
        sandbox.feed(all - 10..all, person);
        running.wait_for(LONG, "the next records", |_| sandbox.clean().len() == all);
    }
    assert!(
        cluster.requests(1, "FETCH", "veilstream") > 0,
        "nothing was read from the follower: this run proved nothing"
    );
    await_flowing(&mut running, "racks.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(1050);
}

#[test]
fn records_of_1_to_50_mb_pass() {
    const SIZES: [usize; 6] = [1_000_000, 5_000_000, 10, 20_000_000, 50_000_000, 10];
    let limit = [("max.message.bytes", "70000000")];
    let broker = Kafka::start("sizes", 1);
    broker.create_topic_with("sizes.clean", 1, &limit);
    let sandbox = Sandbox::new(&broker, "sizes", 1);
    broker.alter_topic("sizes.raw", limit[0].0, limit[0].1);
    let instance = sandbox
        .instance(0)
        .set("PIPELINE__MAX_RECORD_BYTES", "64MiB")
        .set("PIPELINE__STALL_AFTER", "30s");
    let feeder = Feeder::up_to(&broker, 60_000_000);
    for (i, bytes) in SIZES.into_iter().enumerate() {
        let (number, value) = (i.to_string(), large(i, bytes));
        let headers = [("n", Some(number.as_bytes()))];
        feeder.send(&Input {
            topic: "sizes.raw",
            partition: 0,
            key: None,
            value: Some(value.as_bytes()),
            timestamp: *TIME,
            headers: &headers,
        });
    }
    feeder.finish();
    let mut running = instance.start();
    running.ready();
    running.wait_for(LONG, "the records", |r| {
        r.metric("veilstream_records_produced_total", "sizes.clean") == 6.0
    });
    await_flowing(&mut running, "sizes.raw");
    assert_eq!(running.metric("veilstream_transactions_total", "aborted"), 0.0);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(6);
    for (record, bytes) in sandbox.clean().iter().zip(SIZES) {
        let value = record.value.as_deref().unwrap();
        let end = format!("{}\"}}", "x".repeat(10));
        assert!(
            value.len() > bytes && value.ends_with(end.as_bytes()),
            "{} bytes of {bytes}",
            value.len()
        );
        assert!(
            !reader::contains(&value[..200.min(value.len())], b"@example.com"),
            "a large record is readable"
        );
    }
}
