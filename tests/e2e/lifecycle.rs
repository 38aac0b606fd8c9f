//! How instances stop, and what happens when two have one name.

use std::time::Duration;

use crate::feed::{Feeder, person};
use crate::kafka::kafka;
use crate::reader;
use crate::sandbox::Sandbox;

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
