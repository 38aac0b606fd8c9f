//! What `--create-topics` makes, and routes that wait for topics while others run.

use std::time::Duration;

use rdkafka::producer::Producer as _;
use veilstream::kafka::topics::{Retention, TopicError, TopicFacts, Topics};

use crate::feed::{Feeder, people, person};
use crate::kafka::{Kafka, kafka, wait_for};
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::text;
use crate::transactional_ids;

const DAY: i64 = 86_400_000;

fn facts(kafka: &Kafka, topic: &str) -> TopicFacts {
    Topics::connect(&kafka.config()).unwrap().describe_one(topic).unwrap()
}

#[test]
fn made_topics_keep_what_the_raw_topic_keeps_and_more() {
    for (name, settings, clean, dead) in [
        // Meant to be short: the cluster's age counts downstream (Kafka's default of a week).
        (
            "made-short",
            &[("retention.ms", "3600000"), ("retention.bytes", "1000000")][..],
            ("delete", 7 * DAY),
            30 * DAY,
        ),
        ("made-long", &[("retention.ms", "3456000000")], ("delete", 40 * DAY), 40 * DAY),
        (
            "made-compact",
            &[("cleanup.policy", "compact"), ("retention.ms", "3600000")],
            ("compact", 7 * DAY),
            30 * DAY,
        ),
        (
            "made-both",
            &[("cleanup.policy", "compact,delete"), ("retention.ms", "-1")],
            ("compact,delete", -1),
            -1,
        ),
    ] {
        kafka().create_topic_with(&format!("{name}.raw"), 2, settings);
        let sandbox = Sandbox::over(kafka(), name, 2);
        let instance = sandbox.instance(0);
        let printed = text(&instance.run(&["check", "--preflight"]));
        let command =
            format!("--topic {name}.clean --partitions 2 --config cleanup.policy={} ", clean.0);
        assert!(
            printed.contains(&command)
                && printed.contains(&format!("--config retention.ms={}", clean.1)),
            "{printed}"
        );
        let mut running = instance.start();
        running.ready();
        assert_eq!(running.stop(), Some(0), "{}", instance.tail());
        let made = facts(kafka(), &format!("{name}.clean"));
        assert_eq!(
            (made.cleanup_policy(), made.retention, made.partitions),
            (clean.0, Retention { ms: clean.1, bytes: -1 }, 2),
            "{name}"
        );
        let made = facts(kafka(), &format!("{name}.dead-letter"));
        assert_eq!(
            (made.cleanup_policy(), made.retention),
            ("delete", Retention { ms: dead, bytes: -1 }),
            "{name}"
        );
        assert!(made.id.is_some());
    }
}

#[test]
fn a_sanitized_topic_that_forgets_sooner_is_warned_of_at_the_start() {
    let sandbox = Sandbox::new(kafka(), "forgetful", 1);
    kafka().create_topic_with(
        "forgetful.clean",
        1,
        &[("retention.ms", "60000"), ("max.message.bytes", "4194304")],
    );
    let instance = sandbox.instance(0);
    let mut running = instance.start();
    running.ready();
    let expected =
        "forgetful.clean keeps less than forgetful.raw (retention.ms 60000 instead of 604800000)";
    assert!(
        instance.log().contains(expected)
            && instance.log().contains("--add-config retention.ms=604800000"),
        "{}",
        instance.tail()
    );
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
}

/// One route's missing topic is not the others' fault; its records wait, and flow once it is there.
#[test]
fn a_route_that_cannot_run_waits_while_the_others_run() {
    let sandbox = Sandbox::new(kafka(), "partial", 1);
    sandbox.document("late", &people("partial-late").replace("\"people\"", "\"late\""));
    let instance = sandbox.instance(0);
    let checked = instance.run(&["check", "--preflight"]);
    assert_eq!(checked.status.code(), Some(5), "everything is reported: {}", text(&checked));
    let mut running = instance.start();
    sandbox.feed(0..100, person);
    running.wait_for(Duration::from_secs(60), "the other route's records", |_| {
        sandbox.clean().len() == 100
    });
    running.wait_for(Duration::from_secs(10), "the reason", |r| {
        r.get("/readyz").is_some_and(|(status, why)| {
            status == 503 && why.contains("partial-late.raw does not exist")
        })
    });
    kafka().create_topic("partial-late.clean", 1);
    kafka().create_topic("partial-late.raw", 1);
    let feeder = Feeder::new(kafka());
    for i in 0..10 {
        feeder.number("partial-late.raw", 1, i, person(i).as_bytes());
    }
    feeder.finish();
    running.wait_for(Duration::from_secs(30), "the late route", |_| {
        reader::committed(&kafka().bootstrap, "partial-late.clean", 1).len() == 10
    });
    running.ready();
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
}

/// What is wrong with one topic, or one partition, is said of it alone.
#[test]
fn topics_and_offsets_are_told_each_for_itself() {
    kafka().create_topic("told", 2);
    let feeder = Feeder::new(kafka());
    (0..6).for_each(|i| feeder.number("told", 2, i, b"{}"));
    feeder.finish();
    let open = transactional_ids::open("told", "told");
    let topics = Topics::connect(&kafka().config()).unwrap();
    let described = topics.describe(["told", "told-nowhere", "told"]).unwrap();
    let facts = described["told"].as_ref().unwrap();
    assert_eq!(
        (facts.partitions, facts.replicas, facts.max_message_bytes, facts.assumed),
        (2, 1, 4_194_304, false)
    );
    assert_eq!(
        described["told-nowhere"],
        Err(TopicError::Missing { topic: "told-nowhere".to_owned() })
    );
    assert!(
        topics.describe(["told-nowhere"]).unwrap()["told-nowhere"].is_err(),
        "a question makes no topic"
    );
    let partitions = [("told", 0), ("told", 1), ("told", 9)];
    let ends = topics.stable_ends(&partitions).unwrap();
    for partition in [0, 1] {
        // The record of the open transaction stands behind the last stable offset, in whichever
        // partition.
        let end = ends[&("told".to_owned(), partition)].as_ref().unwrap();
        assert_eq!((end.offset, end.leader_epoch), (3, Some(0)));
        assert_eq!(
            topics.starts(&partitions[..2]).unwrap()[&("told".to_owned(), partition)]
                .as_ref()
                .unwrap()
                .offset,
            0
        );
    }
    assert!(ends[&("told".to_owned(), 9)].is_err(), "{ends:?}");
    open.commit_transaction(Duration::from_secs(20)).unwrap();
    // The record and its marker.
    wait_for(Duration::from_secs(10), "the marker", || {
        let ends = topics.stable_ends(&partitions[..2]).unwrap();
        ends.values().map(|end| end.as_ref().unwrap().offset).sum::<i64>() == 8
    });
    assert!(facts.id.is_some());
}

#[test]
fn a_dead_letter_topic_with_a_second_role_is_refused() {
    let sandbox = Sandbox::new(kafka(), "roles", 1);
    for (topic, role) in [("roles.clean", "the sanitized topic"), ("roles.raw", "the raw topic")] {
        let instance = sandbox.instance(0).set("PIPELINE__DEAD_LETTER_TOPIC", topic);
        for (command, code) in [(&["check"][..], 2), (&["run", "--create-topics"], 5)] {
            let output = instance.run(command);
            assert_eq!(output.status.code(), Some(code), "{}", text(&output));
            assert!(
                text(&output)
                    .contains(&format!("{topic} is the dead-letter topic and {role} of a schema")),
                "{}",
                text(&output)
            );
        }
    }
}
