//! Where a partition is read from: at the first start, and after what was to be read next is gone.
//! Nothing is passed over, and nothing read again, unsaid.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use krafka::admin::{AclOperation as Op, AclResourceType as Kind};
use serde_json::Value;

use crate::acls::{allow_routes, limited};
use crate::feed::{Feeder, person};
use crate::kafka::{Kafka, kafka, wait_for};
use crate::operator::{SAID, await_blocked, await_flowing, await_unready, blocked};
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, Running, text};

const LONG: Duration = Duration::from_secs(60);

/// As the sidecar is told that it may go on by itself.
fn continues(instance: Instance) -> Instance {
    instance.set("KAFKA__ON_OFFSET_LOST", "continue")
}

/// Waits until all of a series is sanitized and committed.
fn await_all(sandbox: &Sandbox<'_>, running: &mut Running<'_>, all: usize) {
    running.ready();
    running.wait_for(LONG, "the records", |_| sandbox.clean().len() >= all);
    let raw = format!("{}.raw", sandbox.name);
    let ends = || {
        (0..sandbox.partitions)
            .map(|p| (p, sandbox.broker.bounds(&raw, p).1))
            .collect::<BTreeMap<_, _>>()
    };
    running.wait_for(LONG, "their offsets", |_| committed(sandbox) == ends());
}

fn committed(sandbox: &Sandbox<'_>) -> BTreeMap<i32, i64> {
    reader::committed_offsets(
        &sandbox.broker.bootstrap,
        sandbox.name,
        &format!("{}.raw", sandbox.name),
    )
}

/// Waits until the last records of a series have arrived: what is missing then was lost.
fn await_last(sandbox: &Sandbox<'_>, running: &mut Running<'_>, all: usize) {
    running.ready();
    let last = all - usize::try_from(sandbox.partitions).unwrap()..all;
    running.wait_for(LONG, "the last records", |_| {
        let times = reader::times(&sandbox.clean(), all);
        last.clone().all(|i| times[i] > 0)
    });
}

/// Feeds the records of a series that belong to one partition.
fn feed_partition(sandbox: &Sandbox<'_>, partition: i32, range: Range<usize>) {
    let feeder = Feeder::new(sandbox.broker);
    for i in range.filter(|i| i32::try_from(*i).unwrap() % sandbox.partitions == partition) {
        feeder.number(
            &format!("{}.raw", sandbox.name),
            sandbox.partitions,
            i,
            person(i).as_bytes(),
        );
    }
    feeder.finish();
}

/// `veilstream offsets accept`, which must work.
fn accept(instance: &Instance, place: &str, at: &str) {
    let output = instance.run(&["offsets", "accept", place, "--at", at]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

/// `veilstream offsets show --json`: (committed, log start, end) by partition.
fn shown(instance: &Instance) -> BTreeMap<i64, (Value, Value, Value)> {
    let output = instance.run(&["offsets", "show", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let rows = String::from_utf8(output.stdout).unwrap();
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| {
        (
            row["partition"].as_i64().unwrap(),
            (row["committed"].clone(), row["log_start"].clone(), row["end"].clone()),
        )
    })
    .collect()
}

/// What the log warns of, with these words.
fn warned(instance: &Instance, words: &[&str]) -> bool {
    instance.log().lines().any(|line| {
        (line.contains("WARN") || line.contains("ERROR"))
            && words.iter().all(|word| line.contains(word))
    })
}

fn missed(running: &Running<'_>, topic: &str, reason: &str) -> f64 {
    running.metric(
        "veilstream_records_missed_total",
        &format!("reason=\"{reason}\",topic=\"{topic}\""),
    )
}

#[test]
fn a_topic_made_again_while_it_is_read_waits_to_be_accepted() {
    let sandbox = Sandbox::new(kafka(), "again", 2);
    let instance = sandbox.instance(0);
    sandbox.feed(0..300, person);
    let mut running = instance.start();
    await_all(&sandbox, &mut running, 300);
    sandbox.broker.recreate_topic("again.raw", 2);
    // Fewer than before: of a topic that outgrows the old one's offset records may be read
    // (docs/operations.md).
    sandbox.feed(300..500, person);
    for partition in 0..2 {
        await_blocked(
            &mut running,
            &instance,
            ("again.raw", partition),
            "topic_recreated",
            "offsets accept",
        );
    }
    sandbox.feed(500..700, person);
    assert_eq!(sandbox.clean().len(), 300, "nothing is read of a topic that nobody accepted");
    let refused = instance.run(&["offsets", "accept", "again.raw:0", "--at", "earliest"]);
    assert_eq!(refused.status.code(), Some(1), "the group runs: {}", text(&refused));
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    accept(&instance, "again.raw:0", "earliest");
    accept(&instance, "again.raw:1", "earliest");
    let mut running = instance.start();
    await_last(&sandbox, &mut running, 700);
    await_flowing(&mut running, "again.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(700);
}

#[test]
fn a_topic_made_again_while_it_is_read_is_read_whole_where_that_is_wanted() {
    let sandbox = Sandbox::new(kafka(), "again-on", 2);
    let instance = continues(sandbox.instance(0));
    sandbox.feed(0..300, person);
    let mut running = instance.start();
    await_all(&sandbox, &mut running, 300);
    sandbox.broker.recreate_topic("again-on.raw", 2);
    sandbox.feed(300..500, person);
    await_last(&sandbox, &mut running, 500);
    await_flowing(&mut running, "again-on.raw");
    sandbox.assert_each_once(500);
    assert!(
        warned(&instance, &["again-on.raw"]),
        "that the topic is another is not said\n{}",
        instance.tail()
    );
    assert_eq!(
        missed(&running, "again-on.raw", "recreated"),
        0.0,
        "everything of the old topic was read"
    );
    // The new topic's offsets are what counts from now on.
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_eq!(committed(&sandbox), BTreeMap::from([(0, 100), (1, 100)]));
    let mut running = instance.start();
    sandbox.feed(500..520, person);
    await_last(&sandbox, &mut running, 520);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(520);
}

/// Kafka forgets a topic's committed offsets with the topic: only what the sanitized topic holds
/// tells that this is no first start.
#[test]
fn a_topic_made_again_while_nobody_reads_it_waits_to_be_accepted() {
    let sandbox = Sandbox::new(kafka(), "again-off", 2);
    let instance = sandbox.instance(0);
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    await_all(&sandbox, &mut running, 100);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.broker.recreate_topic("again-off.raw", 2);
    sandbox.feed(100..400, person);
    let mut running = instance.start();
    await_unready(&mut running, &["again-off.raw [0]", "again-off.raw [1]", "offsets accept"]);
    running.wait_for(SAID, "both to count as lost", |r| {
        let of = |reason| blocked(r, "again-off.raw", reason);
        of("topic_recreated") + of("offset_lost") == 2.0
    });
    assert_eq!(sandbox.clean().len(), 100);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    accept(&instance, "again-off.raw:0", "earliest");
    accept(&instance, "again-off.raw:1", "earliest");
    let mut running = instance.start();
    await_last(&sandbox, &mut running, 400);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(400);
}

#[test]
fn offsets_the_group_has_forgotten_are_lost_and_no_first_start() {
    let sandbox = Sandbox::new(kafka(), "forgotten", 2);
    let instance = sandbox.instance(0);
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    await_all(&sandbox, &mut running, 100);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.broker.forget_offsets("forgotten", "forgotten.raw", 2);
    let mut running = instance.start();
    for partition in 0..2 {
        await_blocked(
            &mut running,
            &instance,
            ("forgotten.raw", partition),
            "offset_lost",
            "offsets accept",
        );
    }
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_eq!(shown(&instance)[&0], (Value::Null, 0.into(), 50.into()));
    accept(&instance, "forgotten.raw:0", "50");
    accept(&instance, "forgotten.raw:1", "50");
    assert_eq!(shown(&instance)[&0], (50.into(), 0.into(), 50.into()));
    let mut running = instance.start();
    sandbox.feed(100..120, person);
    await_last(&sandbox, &mut running, 120);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(120);
}

/// What tools and older versions commit is an offset and nothing else. It is believed once; what
/// follows says which topic it is of.
#[test]
fn a_bare_offset_is_believed_and_the_next_commit_names_its_topic() {
    let sandbox = Sandbox::new(kafka(), "bare", 2);
    let instance = sandbox.instance(0);
    sandbox.feed(0..100, person);
    sandbox.broker.commit_offsets("bare", "bare.raw", &[10, 50]);
    let mut running = instance.start();
    await_all(&sandbox, &mut running, 40);
    await_flowing(&mut running, "bare.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_only_missing(&sandbox, 100, |i| i % 2 == 1 || i < 20);
    let commits = reader::commits(&sandbox.broker.bootstrap, "bare", "bare.raw");
    let metadata: Value = serde_json::from_str(commits[&0].metadata.as_deref().unwrap()).unwrap();
    assert_eq!(metadata["v"], 1, "{metadata}");
    assert!(metadata["topic_id"].as_str().is_some_and(|id| !id.is_empty()), "{metadata}");
    assert!(commits[&0].leader_epoch.is_some_and(|epoch| epoch >= 0), "{commits:?}");
}

/// Partition 0 loses the end of its log, as one without replicas does when its machine loses power;
/// the offsets are given out again.
fn lose_the_end(broker: &Kafka, bytes: u64) {
    broker.down(0);
    broker.truncate(0, "truncated.raw", 0, bytes);
    broker.up(0);
}

/// Partition 0 is blocked with `read` records sanitized; the other one has its half of all that
/// were fed.
fn assert_waits(
    sandbox: &Sandbox<'_>,
    running: &mut Running<'_>,
    instance: &Instance,
    all: usize,
    read: usize,
) {
    await_blocked(running, instance, ("truncated.raw", 0), "offset_lost", "offsets accept");
    running.wait_for(LONG, "the other partition", |_| {
        sandbox.clean().iter().filter(|r| r.partition == 1).count() == all / 2
    });
    assert_eq!(sandbox.clean().len() - all / 2, read, "nothing is read beyond the truncation");
}

/// Records stand where it was read to, in another leader epoch: the offset alone tells nothing.
#[test]
fn a_log_that_was_truncated_is_noticed_while_it_is_read_and_at_the_next_start() {
    let broker = Kafka::start("truncated", 1);
    let sandbox = Sandbox::new(&broker, "truncated", 2);
    let instance = sandbox.instance(0);
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    await_all(&sandbox, &mut running, 100);
    let kept = broker.segment_bytes(0, "truncated.raw", 0);
    sandbox.feed(100..200, person);
    await_all(&sandbox, &mut running, 200);
    lose_the_end(&broker, kept);
    sandbox.feed(200..400, person);
    assert_eq!(broker.bounds("truncated.raw", 0).1, 150);
    assert_waits(&sandbox, &mut running, &instance, 400, 100);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_eq!(shown(&instance)[&0], (100.into(), 0.into(), 150.into()));
    accept(&instance, "truncated.raw:0", "50");

    let mut running = instance.start();
    await_all(&sandbox, &mut running, 400);
    let kept = broker.segment_bytes(0, "truncated.raw", 0);
    sandbox.feed(400..500, person);
    await_all(&sandbox, &mut running, 500);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    lose_the_end(&broker, kept);
    sandbox.feed(500..700, person);
    assert_eq!((broker.bounds("truncated.raw", 0).1, committed(&sandbox)[&0]), (250, 200));
    let mut running = instance.start();
    assert_waits(&sandbox, &mut running, &instance, 700, 250);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    accept(&instance, "truncated.raw:0", "150");
    let mut running = instance.start();
    await_last(&sandbox, &mut running, 700);
    await_flowing(&mut running, "truncated.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(700);
}

#[test]
fn a_permission_taken_away_for_a_moment_moves_no_offset() {
    let sandbox = Sandbox::new(kafka(), "moment", 2);
    allow_routes(&sandbox, &["moment"]);
    let instance = limited(&sandbox).set("PIPELINE__STALL_AFTER", "2s");
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    await_all(&sandbox, &mut running, 100);
    // Given back as soon as it is noticed: an offset that was moved by then can be committed.
    const MOMENTS: usize = 5;
    let noticed = || {
        instance
            .log()
            .lines()
            .filter(|line| line.contains("moment.raw") && line.contains("uthoriz"))
            .count()
    };
    for all in (1..=MOMENTS).map(|moment| 100 + 20 * moment) {
        let before = noticed();
        sandbox.broker.deny(Kind::Topic, Op::Read, "moment.raw");
        running.wait_for(LONG, "the error to be noticed", |_| noticed() > before);
        sandbox.broker.undo_deny(Kind::Topic, "moment.raw");
        sandbox.feed(all - 20..all, person);
        await_last(&sandbox, &mut running, all);
        sandbox.assert_each_once(all);
        await_all(&sandbox, &mut running, all);
    }
    // A restart before the next record: nothing is read again.
    sandbox.broker.deny(Kind::Topic, Op::Read, "moment.raw");
    await_unready(&mut running, &["moment.raw", "grant Read"]);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.broker.undo_deny(Kind::Topic, "moment.raw");
    assert_eq!(committed(&sandbox), BTreeMap::from([(0, 100), (1, 100)]));
    let mut running = instance.start();
    sandbox.feed(200..220, person);
    await_last(&sandbox, &mut running, 220);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.assert_each_once(220);
}

/// 200 records, of which retention takes 50 of partition 0 before they are read; partition 1 has
/// all.
fn overtaken<'a>(name: &'a str, instance: &Instance, sandbox: &Sandbox<'a>) {
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    await_all(sandbox, &mut running, 100);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.feed(100..400, person);
    sandbox.broker.delete_records(&format!("{name}.raw"), 0, 100);
}

/// What retention took is missing, everything else is there once.
fn assert_only_missing(sandbox: &Sandbox<'_>, all: usize, missing: impl Fn(usize) -> bool) {
    let times = reader::times(&sandbox.clean(), all);
    for (i, times) in times.iter().enumerate() {
        assert_eq!(*times, u32::from(!missing(i)), "record {i}");
    }
}

#[test]
fn a_partition_whose_retention_passed_the_committed_offset_waits_to_be_accepted() {
    let sandbox = Sandbox::new(kafka(), "retained", 2);
    let instance = sandbox.instance(0);
    overtaken("retained", &instance, &sandbox);
    let mut running = instance.start();
    await_blocked(&mut running, &instance, ("retained.raw", 0), "offset_lost", "offsets accept");
    running.wait_for(LONG, "the other partition", |_| {
        sandbox.clean().iter().filter(|r| r.partition == 1).count() == 200
    });
    assert_eq!(sandbox.clean().len(), 250, "partition 0 waits");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    assert_eq!(
        shown(&instance),
        BTreeMap::from([
            (0, (50.into(), 100.into(), 200.into())),
            (1, (200.into(), 0.into(), 200.into()))
        ])
    );
    let table = text(&instance.run(&["offsets", "show"]));
    assert!(
        table.lines().any(|line| ["retained.raw", "50", "100", "200"]
            .iter()
            .all(|part| line.contains(part))),
        "{table}"
    );
    for place in ["retained.raw:7", "other.raw:0", "retained.raw"] {
        let refused = instance.run(&["offsets", "accept", place, "--at", "earliest"]);
        assert!(matches!(refused.status.code(), Some(1 | 2)), "{place}: {}", text(&refused));
    }
    accept(&instance, "retained.raw:0", "earliest");
    assert_eq!(committed(&sandbox)[&0], 100);
    let mut running = instance.start();
    await_last(&sandbox, &mut running, 400);
    await_flowing(&mut running, "retained.raw");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_only_missing(&sandbox, 400, |i| i % 2 == 0 && (100..200).contains(&i));
}

#[test]
fn what_retention_took_is_counted_where_it_may_go_on() {
    let sandbox = Sandbox::new(kafka(), "retained-on", 2);
    let instance = continues(sandbox.instance(0));
    overtaken("retained-on", &instance, &sandbox);
    let mut running = instance.start();
    await_last(&sandbox, &mut running, 400);
    await_flowing(&mut running, "retained-on.raw");
    running.wait_for(SAID, "what is missing to be counted", |r| {
        missed(r, "retained-on.raw", "retention") == 50.0
    });
    assert!(
        warned(&instance, &["retained-on.raw", "50", "100"]),
        "what is missing is not said\n{}",
        instance.tail()
    );
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_only_missing(&sandbox, 400, |i| i % 2 == 0 && (100..200).contains(&i));
}

/// While it runs: its partition waits for a permission, and retention does not.
#[test]
fn retention_that_passes_a_partition_that_waits_is_noticed() {
    let sandbox = Sandbox::new(kafka(), "passed", 2);
    allow_routes(&sandbox, &["passed"]);
    let instance = continues(limited(&sandbox)).set("PIPELINE__STALL_AFTER", "2s");
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    await_all(&sandbox, &mut running, 100);
    sandbox.broker.deny(Kind::Topic, Op::Write, "passed.clean");
    sandbox.feed(100..300, person);
    await_blocked(&mut running, &instance, ("passed.raw", 0), "not_authorized", "grant Write");
    sandbox.broker.delete_records("passed.raw", 0, 80);
    sandbox.broker.undo_deny(Kind::Topic, "passed.clean");
    await_last(&sandbox, &mut running, 300);
    await_flowing(&mut running, "passed.raw");
    // What a try to go on had already read when retention came is through.
    let missed = missed(&running, "passed.raw", "retention") as usize;
    println!("passed: {missed} records missed");
    assert!(missed <= 30, "{missed}");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_only_missing(&sandbox, 300, |i| i % 2 == 0 && (160 - 2 * missed..160).contains(&i));
}

#[test]
fn a_first_start_at_the_end_begins_where_the_end_was_at_the_assignment() {
    let sandbox = Sandbox::new(kafka(), "latest", 2);
    let instance = sandbox.instance(0).set("KAFKA__ON_MISSING_OFFSET", "latest");
    sandbox.feed(0..100, person);
    let running = instance.start();
    // Committed before the first record: what comes after is not passed over by a crash.
    wait_for(LONG, "the offsets of the first assignment", || {
        committed(&sandbox) == BTreeMap::from([(0, 50), (1, 50)])
    });
    running.kill();
    sandbox.feed(100..200, person);
    let mut running = instance.start();
    await_last(&sandbox, &mut running, 200);
    running.ready();
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_only_missing(&sandbox, 200, |i| i < 100);
}

#[test]
fn a_partition_found_later_begins_at_its_beginning() {
    let mut sandbox = Sandbox::new(kafka(), "found", 2);
    sandbox.broker.create_topic("found.clean", 3);
    let instance = sandbox
        .instance(0)
        .set("KAFKA__ON_MISSING_OFFSET", "latest")
        .set("KAFKA__CONSUMER__TOPIC.METADATA.REFRESH.INTERVAL.MS", "3000");
    let mut running = instance.start();
    wait_for(LONG, "the offsets of the first assignment", || {
        committed(&sandbox) == BTreeMap::from([(0, 0), (1, 0)])
    });
    sandbox.broker.grow_topic("found.raw", 3);
    sandbox.partitions = 3;
    // Before it is seen.
    feed_partition(&sandbox, 2, 0..300);
    await_last_of(&sandbox, &mut running, 2, 300);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_only_missing(&sandbox, 300, |i| i % 3 != 2);
}

fn await_last_of(sandbox: &Sandbox<'_>, running: &mut Running<'_>, partition: i32, all: usize) {
    let last = (0..all)
        .rev()
        .find(|i| i32::try_from(*i).unwrap() % sandbox.partitions == partition)
        .unwrap();
    running.wait_for(LONG, "the last record", |_| reader::times(&sandbox.clean(), all)[last] > 0);
}

#[test]
fn a_first_start_that_is_to_fail_waits_to_be_accepted() {
    let sandbox = Sandbox::new(kafka(), "fail", 2);
    let instance = sandbox.instance(0).set("KAFKA__ON_MISSING_OFFSET", "fail");
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    for partition in 0..2 {
        await_blocked(
            &mut running,
            &instance,
            ("fail.raw", partition),
            "missing_offset",
            "offsets accept",
        );
    }
    assert_eq!(sandbox.clean().len(), 0);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    accept(&instance, "fail.raw:0", "earliest");
    accept(&instance, "fail.raw:1", "40");
    let mut running = instance.start();
    await_last(&sandbox, &mut running, 100);
    running.ready();
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    assert_only_missing(&sandbox, 100, |i| i % 2 == 1 && i < 80);
}

#[test]
fn librdkafkas_own_reset_is_refused_and_ours_named() {
    let sandbox = Sandbox::new(kafka(), "reset", 1);
    for value in ["latest", "earliest"] {
        let output =
            sandbox.instance(0).set("KAFKA__CONSUMER__AUTO.OFFSET.RESET", value).run(&["check"]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains("kafka.on_missing_offset"), "{}", text(&output));
    }
    for (setting, known) in
        [("KAFKA__ON_MISSING_OFFSET", "earliest"), ("KAFKA__ON_OFFSET_LOST", "stop")]
    {
        let output = sandbox.instance(0).set(setting, "never").run(&["check"]);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(known), "the values that it takes: {}", text(&output));
    }
}
