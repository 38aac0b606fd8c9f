//! How instances stop, and what happens when two have one name.

use std::time::Duration;

use crate::feed::{Feeder, person};
use crate::kafka::kafka;
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::{text, veilstream};

#[test]
fn a_stop_under_load_commits_what_it_has() {
    const ALL: usize = 30_000;
    let sandbox = Sandbox::new(kafka(), "stop", 4);
    let instance = sandbox.instance(0);
    std::thread::scope(|scope| {
        scope.spawn(|| sandbox.feed(0..ALL, person));
        let mut running = instance.start();
        running.wait_for(Duration::from_secs(60), "some records", |r| {
            r.metric("veilstream_records_produced_total", "stop.clean") >= 500.0
        });
        assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    });
    let clean = sandbox.clean();
    assert!(clean.len() < ALL, "all records were through: this run proved nothing");
    // What is committed is what is written: nothing waits for a time-out.
    let offsets = reader::committed_offsets(&sandbox.broker.bootstrap, "stop", "stop.raw");
    for partition in 0..4 {
        let written = clean.iter().filter(|r| r.partition == partition).count();
        assert_eq!(
            offsets.get(&partition).copied().unwrap_or(0),
            i64::try_from(written).unwrap(),
            "partition {partition}"
        );
    }
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(90), "the rest", |_| sandbox.clean().len() >= ALL);
    running.wait_for(Duration::from_secs(30), "no lag", |r| {
        r.metric("veilstream_consumer_lag", "stop.raw") == 0.0
    });
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(ALL);
}

#[test]
fn of_two_with_one_name_one_ends_with_3() {
    const ALL: usize = 20_000;
    let sandbox = Sandbox::new(kafka(), "twins", 4);
    let instance = sandbox.instance(0);
    std::thread::scope(|scope| {
        let feeding = scope.spawn(|| {
            let feeder = Feeder::new(sandbox.broker);
            for i in 0..ALL {
                feeder.number("twins.raw", 4, i, person(i).as_bytes());
                if i % 2 == 1 {
                    // Fencing shows where there is work.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            feeder.finish();
        });
        let mut first = instance.start();
        first.ready();
        let mut second = instance.start();
        let ends = wait_for_an_end(&mut first, &mut second);
        assert!(
            ends.contains(&Some(3)) && ends.iter().all(|end| matches!(end, None | Some(3))),
            "{ends:?}\n{}",
            instance.tail()
        );
        assert!(
            instance.log().contains("another process runs under this instance name"),
            "{}",
            instance.tail()
        );
        drop((first, second));
        feeding.join().unwrap();
    });
    let mut last = instance.start();
    last.wait_for(Duration::from_secs(90), "the rest", |_| sandbox.clean().len() >= ALL);
    assert_eq!(last.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(ALL);
}

fn wait_for_an_end(
    first: &mut crate::sidecar::Running<'_>,
    second: &mut crate::sidecar::Running<'_>,
) -> [Option<i32>; 2] {
    let mut ends = [None; 2];
    crate::kafka::wait_for(Duration::from_secs(60), "one of the two to end", || {
        ends = [first.ended(), second.ended()];
        ends != [None; 2]
    });
    ends
}

/// The pipeline opens nothing: what keeps readers out keeps no record waiting.
#[test]
fn records_go_on_without_the_audit_log() {
    let sandbox = Sandbox::new(kafka(), "no-audit", 1);
    let path = |name: &str| sandbox.dir.path().join(name);
    let instance = sandbox.instance(0).set("AUDIT__RECIPIENT_FILE", "audit.pub");
    let key = path("verifier.key");
    let made = veilstream(&["audit", "keygen", "--out"]).arg(key).output().unwrap();
    std::fs::write(path("audit.pub"), made.stdout).unwrap();
    // No line finds a place where a folder stands.
    std::fs::create_dir(path("audit.jsonl")).unwrap();
    let refused = instance.run(&["audit", "tail"]);
    assert!(text(&refused).contains("audit.jsonl is unavailable"), "{}", text(&refused));
    let mut running = instance.start();
    sandbox.feed(0..200, person);
    running.wait_for(Duration::from_secs(60), "the records", |_| sandbox.clean().len() == 200);
    running.ready();
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(200);
    assert!(std::fs::read_dir(path("audit.jsonl")).unwrap().next().is_none());
}
