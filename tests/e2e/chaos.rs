//! An instance is killed at random while a second one comes and goes, and brokers crash: every
//! record is once in the sanitized topic or the dead letters, in order, and nothing else is.
//! `VEILSTREAM_CHAOS_SEED` repeats a run's pauses; `VEILSTREAM_CHAOS_RECORDS` makes the one with
//! crashes larger (500,000 before a release).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use krafka::admin::GroupOffset;
use veilstream::dead_letters::letter::Letter;

use crate::feed::{Feeder, person};
use crate::kafka::{Kafka, kafka, wait_for};
use crate::outage::Raise;
use crate::reader;
use crate::sandbox::Sandbox;

const PARTITIONS: usize = 4;
/// Every so many records one is no JSON.
const BAD_EVERY: usize = 1009;
/// The exit code of a start to which the brokers gave no answer in time, as one does that meets a
/// crash; its operator starts it again.
const UNANSWERED: i32 = 5;

#[test]
fn twenty_kills_lose_double_and_disorder_nothing() {
    let kafka = kafka();
    let sandbox = Sandbox::new(kafka, "chaos", 4);
    chaos(&sandbox, 100_000, 20, false);
    let aborted = assert_each_once_or_dead_lettered(&sandbox, 100_000);
    assert!(aborted > 0, "no kill met an open transaction: this run proved nothing");
}

#[test]
fn kills_and_crashes_of_brokers_at_once_lose_double_and_disorder_nothing() {
    let records = std::env::var("VEILSTREAM_CHAOS_RECORDS").map_or(30_000, |n| n.parse().unwrap());
    let cluster = Kafka::start("chaos-cluster", 3);
    let sandbox = Sandbox::new(&cluster, "chaos-crash", 4);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let until = Raise(&over);
        let crashing = scope.spawn(|| crash(&cluster, &over));
        chaos(&sandbox, records, u64::try_from(records / 5000).unwrap(), true);
        drop(until);
        let crashes = crashing.join().unwrap();
        println!("chaos: {crashes} crashes of brokers");
        assert!(crashes > 0);
    });
    // All replicas are in sync: a leader that has just come back may not know yet how far the log
    // is committed, and a reader would end there.
    assert_each_once_or_dead_lettered(&sandbox, records);
}

/// Crashes one broker after another; each is whole again before the next. How often.
fn crash(cluster: &Kafka, over: &AtomicBool) -> usize {
    let mut state = seed();
    let admin = cluster.admin();
    let mut crashes = 0;
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(between(&mut state, 2000, 6000));
        let node = usize::try_from(next(&mut state) % 3).unwrap();
        cluster.down(node);
        std::thread::sleep(between(&mut state, 500, 5000));
        cluster.up(node);
        cluster.await_in_sync(Duration::from_secs(120), &admin);
        crashes += 1;
    }
    crashes
}

/// Feeds `all` records and kills instances meanwhile, until all is committed.
fn chaos(sandbox: &Sandbox<'_>, all: usize, kills: u64, are_crashing: bool) {
    let mut state = seed();
    println!("chaos: VEILSTREAM_CHAOS_SEED={state}, {all} records, {kills} kills");
    let raw = format!("{}.raw", sandbox.name);
    // What a transaction holds is at the brokers at once, not only when it ends: a kill leaves
    // records behind that must not be read.
    let first = sandbox.instance(0).set("KAFKA__PRODUCER__LINGER.MS", "0");
    let second = sandbox.instance(1);
    let mut last = std::thread::scope(|scope| {
        // Fed evenly over the whole time, so that every kill meets work.
        let feeding = scope.spawn(|| {
            let feeder = Feeder::new(sandbox.broker);
            for i in 0..all {
                let value = if i % BAD_EVERY == 7 { format!("no json {i}") } else { person(i) };
                feeder.number(&raw, 4, i, value.as_bytes());
                // A steady trickle: a transaction is open nearly always.
                if i % 2 == 1 {
                    std::thread::sleep(Duration::from_micros(1500));
                }
            }
            feeder.finish();
        });
        let mut other = None;
        for kill in 0..kills {
            let running = first.start();
            std::thread::sleep(between(&mut state, 1500, 5500));
            match (kill % 4, other.take()) {
                (1, None) => other = Some(second.start()),
                (3, Some(running)) => {
                    let end = running.stop();
                    assert!(
                        end == Some(0) || end == Some(UNANSWERED) && are_crashing,
                        "{end:?}\n{}",
                        second.tail()
                    );
                }
                (_, running) => other = running,
            }
            std::thread::sleep(between(&mut state, 0, 300));
            running.kill();
        }
        drop(other);
        let last = first.start();
        feeding.join().unwrap();
        last
    });
    // All of it is committed, the dead letters too.
    wait_for(Duration::from_secs(300), "the rest", || {
        match last.ended() {
            None => {}
            Some(UNANSWERED) if are_crashing => last = first.start(),
            Some(_) => panic!("it ended\n{}", first.tail()),
        }
        // Not by its lag, which is of the last time that it asked for the ends.
        let commits = reader::try_commits(&sandbox.broker.bootstrap, sandbox.name, &raw);
        let committed = |commits: BTreeMap<i32, GroupOffset>| {
            commits.values().filter_map(|commit| commit.offset).sum::<i64>()
        };
        commits.is_ok_and(|commits| committed(commits) == i64::try_from(all).unwrap())
    });
    assert_eq!(last.stop(), Some(0), "{}", first.tail());
}

/// Each of `all` records is once in the sanitized topic, in order, or in the dead letters. How many
/// records of the sanitized topic were aborted.
fn assert_each_once_or_dead_lettered(sandbox: &Sandbox<'_>, all: usize) -> usize {
    let (clean, dead) = (sandbox.clean(), sandbox.dead());

    let mut seen = vec![0u32; all];
    let mut at = [None; PARTITIONS];
    for record in &clean {
        let i = reader::number(record);
        seen[i] += 1;
        let partition = usize::try_from(record.partition).unwrap();
        assert_eq!(partition, i % PARTITIONS);
        assert!(
            at[partition].replace(i).is_none_or(|before| before < i),
            "record {i} is out of order"
        );
        assert!(
            !String::from_utf8_lossy(record.value.as_deref().unwrap()).contains("@example.com"),
            "record {i} is readable"
        );
    }
    for record in &dead {
        let letter = Letter::parse(record.value.as_deref().unwrap()).unwrap();
        let i = usize::try_from(letter.offset).unwrap() * PARTITIONS
            + usize::try_from(letter.partition).unwrap();
        assert_eq!(i % BAD_EVERY, 7, "record {i} was no dead letter: {}", letter.reason);
        seen[i] += 1;
    }
    let missing: Vec<usize> = (0..all).filter(|i| seen[*i] == 0).collect();
    let repeated = seen.iter().filter(|n| **n > 1).count();
    // A tail of one partition, or holes?
    let of_partitions = (0..PARTITIONS).map(|p| {
        let of_one = || missing.iter().filter(move |i| **i % PARTITIONS == p);
        (of_one().count(), of_one().next(), of_one().next_back())
    });
    assert_eq!(
        (missing.len(), repeated),
        (0, 0),
        "missing, repeated of {all}; number, first and last missing of each partition: {:?}",
        of_partitions.collect::<Vec<_>>()
    );
    let sanitized = clean.len();
    drop(clean);
    let topic = format!("{}.clean", sandbox.name);
    let everything = reader::uncommitted(&sandbox.broker.bootstrap, &topic, sandbox.partitions);
    assert!(
        everything.iter().all(|r| {
            !String::from_utf8_lossy(r.value.as_deref().unwrap()).contains("@example.com")
        }),
        "an aborted record is readable"
    );
    let aborted = everything.len() - sanitized;
    println!("chaos: {sanitized} sanitized, {} dead letters, {aborted} aborted", dead.len());
    aborted
}

fn seed() -> u64 {
    seed_of("VEILSTREAM_CHAOS_SEED")
}

/// What the environment says, else the time.
pub(crate) fn seed_of(variable: &str) -> u64 {
    std::env::var(variable).map_or_else(|_| now(), |seed| seed.parse().unwrap())
}

/// A pause of so many milliseconds.
fn between(state: &mut u64, low: u64, high: u64) -> Duration {
    Duration::from_millis(low + next(state) % (high - low))
}

/// SplitMix64.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}
