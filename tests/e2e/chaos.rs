//! An instance is killed 20 times at random while a second one comes and goes: every record is once in the sanitized topic or the dead
//! letters, in order, and nothing else is.

use std::time::{Duration, SystemTime};

use veilstream::dead_letters::letter::Letter;

use crate::feed::{Feeder, person};
use crate::kafka::{kafka, wait_for};
use crate::reader;
use crate::sandbox::Sandbox;

const RECORDS: usize = 100_000;
const KILLS: u64 = 20;
const PARTITIONS: usize = 4;
/// Every so many records one is no JSON.
const BAD_EVERY: usize = 1009;

#[test]
fn twenty_kills_lose_double_and_disorder_nothing() {
    let seed = std::env::var("VEILSTREAM_CHAOS_SEED").map_or_else(|_| now(), |s| s.parse().unwrap());
    println!("chaos: VEILSTREAM_CHAOS_SEED={seed}");
    let mut state = seed;
    let mut between = |low: u64, high: u64| Duration::from_millis(low + next(&mut state) % (high - low));

    let kafka = kafka();
    let sandbox = Sandbox::new(kafka, "chaos", 4);
    let (first, second) = (sandbox.instance(0), sandbox.instance(1));

    // Fed evenly over the whole time, so that every kill meets work.
    let feeding = std::thread::spawn(move || {
        let feeder = Feeder::new(kafka);
        for i in 0..RECORDS {
            let value = if i % BAD_EVERY == 7 { format!("no json {i}") } else { person(i) };
            feeder.number("chaos.raw", 4, i, value.as_bytes());
            // A steady trickle: a transaction is open nearly always.
            if i % 2 == 1 {
                std::thread::sleep(Duration::from_micros(1500));
            }
        }
        feeder.finish();
    });
    let mut other = None;
    for kill in 0..KILLS {
        let running = first.start();
        std::thread::sleep(between(1500, 5500));
        match (kill % 4, other.take()) {
            (1, None) => other = Some(second.start()),
            (3, Some(running)) => assert_eq!(running.stop(), Some(0), "{}", second.tail()),
            (_, running) => other = running,
        }
        std::thread::sleep(between(0, 300));
        running.kill();
    }
    drop(other);
    feeding.join().unwrap();
    let mut last = first.start();
    let (mut clean, mut dead) = (Vec::new(), Vec::new());
    wait_for(Duration::from_secs(90), "the rest", || {
        assert_eq!(last.ended(), None, "{}", first.tail());
        std::thread::sleep(Duration::from_secs(2));
        clean = sandbox.clean();
        dead = sandbox.dead();
        clean.len() + dead.len() >= RECORDS
    });
    assert_eq!(last.stop(), Some(0), "{}", first.tail());
    clean = sandbox.clean();
    dead = sandbox.dead();

    let mut seen = vec![0u32; RECORDS];
    let mut at = [None; PARTITIONS];
    for record in &clean {
        let i = reader::number(record);
        seen[i] += 1;
        let partition = usize::try_from(record.partition).unwrap();
        assert_eq!(partition, i % PARTITIONS);
        assert!(at[partition].replace(i).is_none_or(|before| before < i), "record {i} is out of order");
        assert!(!String::from_utf8_lossy(record.value.as_deref().unwrap()).contains("@example.com"), "record {i} is readable");
    }
    for record in &dead {
        let letter = Letter::parse(record.value.as_deref().unwrap()).unwrap();
        let i = usize::try_from(letter.offset).unwrap() * PARTITIONS + usize::try_from(letter.partition).unwrap();
        assert_eq!(i % BAD_EVERY, 7, "record {i} was no dead letter: {}", letter.reason);
        seen[i] += 1;
    }
    let missing = seen.iter().filter(|n| **n == 0).count();
    let repeated = seen.iter().filter(|n| **n > 1).count();
    assert_eq!((missing, repeated), (0, 0), "missing, repeated of {RECORDS}");
    let everything = reader::uncommitted(&kafka.bootstrap, "chaos.clean", 4);
    assert!(everything.iter().all(|r| !String::from_utf8_lossy(r.value.as_deref().unwrap()).contains("@example.com")), "an aborted record is readable");
    assert!(everything.len() > clean.len(), "no kill met an open transaction: this run proved nothing");
    println!("chaos: {} sanitized, {} dead letters, {} aborted", clean.len(), dead.len(), everything.len() - clean.len());
}

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}
