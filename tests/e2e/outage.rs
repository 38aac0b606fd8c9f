//! The broker goes away and comes back; the sidecar waits, says why, and goes on.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::feed::{Feeder, person};
use crate::kafka::{Kafka, kafka};
use crate::operator::await_unready;
use crate::proxy::Proxy;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, Running};

#[test]
fn an_outage_pauses_and_loses_nothing() {
    an_outage("outage", "45000", false);
}

/// The group forgets the member before it sees the broker again: its partitions are lost and come
/// back at once.
#[test]
fn an_outage_longer_than_the_session_loses_nothing() {
    an_outage("long-outage", "6000", true);
}

/// The broker cannot be reached. It runs on: one that holds the only replica and stops while a
/// transaction commits may lose its markers (docs/operations.md).
fn an_outage(name: &str, session_timeout_ms: &str, outlasts_the_session: bool) {
    // Its own broker: the others' tests go on.
    let broker = Kafka::start(name, 1);
    let proxy = Proxy::start(&broker.proxied);
    let sandbox = Sandbox::new(&broker, name, 4);
    let clean = format!("{name}.clean");
    let instance = sandbox
        .instance(0)
        .set("KAFKA__BOOTSTRAP_SERVERS", &format!("127.0.0.1:{}", proxy.port()))
        .set("KAFKA__CONSUMER__SESSION.TIMEOUT.MS", session_timeout_ms);
    let mut running = instance.start();
    running.ready();
    let fed = under_load(&sandbox, || {
        running.wait_for(Duration::from_secs(60), "some records", |r| {
            r.metric("veilstream_records_produced_total", &clean) >= 1000.0
        });
        proxy.cut();
        await_unready(&mut running, &["no broker answers"]);
        assert_eq!(running.get("/livez").unwrap(), (200, "ok\n".to_owned()));
        if outlasts_the_session {
            let group: BaseConsumer = broker.client().create().unwrap();
            let members = || {
                group
                    .fetch_group_list(Some(name), Duration::from_secs(10))
                    .is_ok_and(|list| list.groups().iter().all(|g| g.members().is_empty()))
            };
            running
                .wait_for(Duration::from_secs(60), "the group to forget the member", |_| members());
        }
        proxy.restore();
        running.ready();
    });
    assert_all_arrived(&sandbox, &instance, running, fed);
}

#[test]
fn a_broker_that_crashed_is_taken_up_again() {
    let broker = Kafka::start("crash", 1);
    let sandbox = Sandbox::new(&broker, "crash", 4);
    let instance = sandbox.instance(0);
    let mut running = instance.start();
    running.ready();
    sandbox.feed(0..1000, person);
    running.wait_for(Duration::from_secs(60), "all to be committed", |r| {
        sandbox.clean().len() == 1000 && r.metric("veilstream_consumer_lag", "crash.raw") == 0.0
    });
    broker.down(0);
    await_unready(&mut running, &["no broker answers"]);
    // What was asked when it went away has no answer by then.
    std::thread::sleep(Duration::from_secs(20));
    let (before, since) = (processor_seconds(running.pid()), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let busy = (processor_seconds(running.pid()) - before) / since.elapsed().as_secs_f64();
    assert!(busy < 0.3, "{busy:.2} of a core while no broker answers");
    broker.up(0);
    running.ready();
    sandbox.feed(1000..2000, person);
    running.wait_for(Duration::from_secs(90), "the rest", |_| sandbox.clean().len() >= 2000);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(2000);
}

/// Of a process so far, with all its threads.
fn processor_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Fields behind the name, from the third on; 100 ticks a second on every Linux.
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<f64>().unwrap());
    ticks.sum::<f64>() / 100.0
}

/// Offsets of a transaction that stays open, as one does whose markers a broker lost, keep the
/// whole assignment from being read.
#[test]
fn a_transaction_that_does_not_end_is_waited_for_and_said() {
    let sandbox = Sandbox::new(kafka(), "hanging", 2);
    let mut client = kafka().client();
    let group: BaseConsumer = client.clone().set("group.id", "hanging").create().unwrap();
    let stranger: BaseProducer = client
        .set("transactional.id", "stranger")
        .set("transaction.timeout.ms", "300000")
        .create()
        .unwrap();
    let wait = Duration::from_secs(30);
    stranger.init_transactions(wait).unwrap();
    stranger.begin_transaction().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset("hanging.raw", 1, Offset::Offset(0)).unwrap();
    stranger.send_offsets_to_transaction(&offsets, &group.group_metadata().unwrap(), wait).unwrap();
    let instance = sandbox.instance(0);
    let mut running = instance.start();
    running.ready();
    sandbox.feed(0..1000, person);
    let why = "committed offsets cannot be read: a transaction has not ended";
    await_unready(&mut running, &["hanging.raw [1]", why]);
    assert!(sandbox.clean().len() < 1000, "the partition behind it waits");
    stranger.abort_transaction(wait).unwrap();
    running.ready();
    running.wait_for(Duration::from_secs(60), "what waited", |_| sandbox.clean().len() == 1000);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(1000);
}

/// Each broker crashes while transactions commit; two are left, and every partition has its replica
/// on each.
#[test]
fn a_cluster_whose_brokers_crash_one_after_another_loses_nothing() {
    let cluster = Kafka::start("cluster", 3);
    let sandbox = Sandbox::new(&cluster, "cluster", 4);
    let instance = sandbox.instance(0);
    let mut running = instance.start();
    running.ready();
    let admin = cluster.admin();
    let produced = |r: &Running<'_>| r.metric("veilstream_records_produced_total", "cluster.clean");
    let fed = under_load(&sandbox, || {
        running.wait_for(Duration::from_secs(60), "some records", |r| produced(r) >= 1000.0);
        for node in 0..3 {
            cluster.down(node);
            let before = produced(&running);
            running.wait_for(
                Duration::from_secs(90),
                "it to go on with the two that are left",
                |r| produced(r) >= before + 5000.0,
            );
            cluster.up(node);
            running
                .wait_for(Duration::from_secs(90), "all replicas", |_| cluster.is_in_sync(&admin));
        }
    });
    assert_all_arrived(&sandbox, &instance, running, fed);
}

/// Feeds the sandbox while `work` runs: transactions are open before, in and after whatever it
/// does. How many records there were.
fn under_load(sandbox: &Sandbox<'_>, work: impl FnOnce()) -> usize {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let feeding = scope.spawn(|| {
            let feeder = Feeder::new(sandbox.broker);
            let raw = format!("{}.raw", sandbox.name);
            let mut fed = 0;
            while !over.load(Ordering::Relaxed) {
                feeder.number(&raw, sandbox.partitions, fed, person(fed).as_bytes());
                fed += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            feeder.finish();
            fed
        });
        let until = Raise(&over);
        work();
        drop(until);
        feeding.join().unwrap()
    })
}

fn assert_all_arrived(
    sandbox: &Sandbox<'_>,
    instance: &Instance,
    mut running: Running<'_>,
    fed: usize,
) {
    let topic = |what: &str| format!("{}.{what}", sandbox.name);
    // The machine decides how long that takes: it is waited for as long as records come.
    let (mut produced, mut since) = (0.0, Instant::now());
    running.wait_for(Duration::from_secs(600), "an end of the wait", |r| {
        let now = r.metric("veilstream_records_produced_total", &topic("clean"));
        if now > produced {
            (produced, since) = (now, Instant::now());
        }
        let is_drained = r.metric("veilstream_consumer_lag", &topic("raw")) == 0.0;
        // What is missing then is told below.
        is_drained && sandbox.clean().len() >= fed || since.elapsed() > Duration::from_secs(90)
    });
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(fed);
}

/// Sets the flag when dropped, by a failed assertion too: nobody waits for a feeder that does not
/// end.
pub(crate) struct Raise<'a>(pub(crate) &'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
