use super::*;
use crate::kafka::topics::TopicUuid;

const WEEK: Retention = Retention { ms: 7 * 86_400_000, bytes: -1 };

fn topic(partitions: i32, max_message_bytes: usize) -> TopicFacts {
    TopicFacts {
        id: TopicUuid::new([1; 16]),
        partitions,
        replicas: 3,
        max_message_bytes,
        compacted: false,
        deletes: true,
        retention: WEEK,
        cluster_retention: WEEK,
        min_in_sync: 1,
        max_compaction_lag_ms: u64::MAX,
        ahead_ms: 3_600_000,
        log_append_time: false,
        assumed: false,
    }
}

fn keeping(retention: Retention) -> TopicFacts {
    TopicFacts { retention, ..topic(4, 1000) }
}

type Described = Result<TopicFacts, TopicError>;

/// What is found with these topics and no others, on the routes given.
fn found(routes: &[(&str, &str)], topics: &[(&str, Described)]) -> Findings {
    let routes: BTreeMap<&str, &str> = routes.iter().copied().collect();
    let mut described: BTreeMap<String, Described> = BTreeMap::new();
    for name in routes.iter().flat_map(|(raw, sanitized)| [*raw, *sanitized]).chain(["dead"]) {
        let given = topics.iter().find(|(given, _)| *given == name).map(|(_, facts)| facts.clone());
        described.insert(
            name.to_owned(),
            given.unwrap_or_else(|| Err(TopicError::Missing { topic: name.to_owned() })),
        );
    }
    judge("b:1", 3, &routes, "dead", described)
}

fn judged(topics: &[(&str, TopicFacts)]) -> Findings {
    let topics: Vec<(&str, Described)> =
        topics.iter().map(|(name, facts)| (*name, Ok(facts.clone()))).collect();
    found(&[("raw", "clean")], &topics)
}

fn denied(topic: &str) -> Described {
    Err(TopicError::NotAuthorized { topic: topic.to_owned() })
}

fn setting<'f>(found: &'f Findings, topic: &str, setting: &str) -> &'f str {
    &found.missing.iter().find(|missing| missing.name == topic).unwrap().settings[setting]
}

#[test]
fn topics_that_fit_pass() {
    let found =
        judged(&[("raw", topic(4, 1000)), ("clean", topic(4, 1000)), ("dead", topic(1, 1500))]);
    assert!(
        found.problems().next().is_none() && found.warnings.is_empty() && found.missing.is_empty(),
        "{found:?}"
    );
    assert_eq!((found.runnable(), found.faultless()), (Ok(()), Ok(())));
}

#[test]
fn each_misfit_is_said_with_its_remedy() {
    let compacted = TopicFacts { compacted: true, ..topic(4, 2000) };
    for (topics, expected) in [
        (
            vec![("clean", topic(4, 1000)), ("dead", topic(1, 2_000_000))],
            "raw topic raw does not exist",
        ),
        (
            vec![("raw", topic(4, 1000)), ("clean", topic(3, 1000)), ("dead", topic(1, 1500))],
            "--alter --topic clean --partitions 4",
        ),
        (
            vec![("raw", topic(4, 1000)), ("clean", topic(4, 999)), ("dead", topic(1, 1500))],
            "--entity-name clean --add-config max.message.bytes=1500",
        ),
        (
            vec![("raw", topic(4, 1000)), ("clean", topic(4, 1000)), ("dead", topic(1, 1499))],
            "--entity-name dead --add-config max.message.bytes=1500",
        ),
        (
            vec![("raw", topic(4, 1000)), ("clean", topic(4, 1000)), ("dead", compacted.clone())],
            "--entity-name dead --add-config cleanup.policy=delete",
        ),
    ] {
        let found = judged(&topics);
        let problems: Vec<String> = found.problems().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(expected), "{}", problems[0]);
        assert_eq!(found.runnable(), Err(Refusal::Unfit(problems)));
    }
    let append = TopicFacts { log_append_time: true, ..compacted };
    let lone = TopicFacts { replicas: 1, ..topic(1, 1500) };
    let found = judged(&[("raw", topic(4, 1000)), ("clean", append), ("dead", lone)]);
    let warnings: Vec<String> = found.warnings.iter().map(ToString::to_string).collect();
    assert_eq!((found.problems().count(), warnings.len()), (0, 3), "{found:?}");
    assert!(
        warnings.iter().any(|warning| warning.starts_with("dead has one replica")),
        "{warnings:?}"
    );
}

/// One route's problem is its own; one of the dead-letter topic is everybody's.
#[test]
fn one_route_that_can_run_is_enough() {
    let routes = [("a.raw", "a"), ("b.raw", "b"), ("c.raw", "c")];
    let dead = ("dead", Ok(topic(1, 1500)));
    let fit = [("a.raw", Ok(topic(4, 1000))), ("a", Ok(topic(4, 1000)))];
    let unfit = [
        ("b.raw", Ok(topic(4, 1000))),
        ("b", Ok(topic(3, 1000))),
        ("c.raw", denied("c.raw")),
        ("c", Ok(topic(4, 1000))),
    ];
    let some = found(&routes, &[&fit[..], &unfit, std::slice::from_ref(&dead)].concat());
    assert_eq!(some.runnable(), Ok(()));
    let waiting: Vec<&str> = some.unfit().map(|route| route.raw.as_str()).collect();
    assert_eq!(waiting, ["b.raw", "c.raw"]);
    // `check --preflight` reports both, and the exit code is that of the permission.
    assert!(matches!(some.faultless(), Err(Refusal::NotAuthorized(texts)) if texts.len() == 2));

    let none = found(&routes[1..], &[&unfit[..], std::slice::from_ref(&dead)].concat());
    assert!(matches!(none.runnable(), Err(Refusal::NotAuthorized(texts)) if texts.len() == 2));
    let no_dead_letters = found(&routes[..1], &[&fit[..], &[("dead", denied("dead"))]].concat());
    assert!(
        matches!(no_dead_letters.runnable(), Err(Refusal::NotAuthorized(texts)) if texts.len() == 1)
    );
    let missing = found(&routes[..1], &fit);
    assert!(matches!(missing.runnable(), Err(Refusal::Unfit(texts)) if texts.len() == 1));
}

#[test]
fn missing_topics_are_made_to_fit() {
    let found = judged(&[("raw", topic(6, 2_000_000))]);
    let missing: Vec<_> = found.missing.iter().map(|m| (m.name.as_str(), m.partitions)).collect();
    assert_eq!(missing, [("clean", 6), ("dead", 6)]);
    for name in ["clean", "dead"] {
        assert_eq!(setting(&found, name, "max.message.bytes"), "3000000");
    }
    for problem in found.problems().map(ToString::to_string) {
        assert!(
            problem.contains("--create-topics")
                && problem.contains("--config max.message.bytes=3000000"),
            "{problem}"
        );
    }
}

#[test]
fn made_topics_keep_at_least_what_the_raw_topic_and_the_cluster_keep() {
    const DAY: i64 = 86_400_000;
    let raw = |ms, bytes| keeping(Retention { ms, bytes });
    for (raw, clean, dead) in [
        // A short raw topic: the cluster's counts downstream, 30 days for dead letters.
        (raw(DAY, 1_000_000), ("delete", 7 * DAY, -1), 30 * DAY),
        (raw(40 * DAY, -1), ("delete", 40 * DAY, -1), 40 * DAY),
        (raw(-1, -1), ("delete", -1, -1), -1),
        (
            TopicFacts { compacted: true, deletes: false, ..raw(DAY, -1) },
            ("compact", 7 * DAY, -1),
            30 * DAY,
        ),
        (
            TopicFacts { compacted: true, ..raw(40 * DAY, -1) },
            ("compact,delete", 40 * DAY, -1),
            40 * DAY,
        ),
        (
            TopicFacts { cluster_retention: Retention { ms: DAY, bytes: 5 }, ..raw(2 * DAY, 9) },
            ("delete", 2 * DAY, 9),
            30 * DAY,
        ),
    ] {
        let found = judged(&[("raw", raw)]);
        let settings = |topic| {
            ["cleanup.policy", "retention.ms", "retention.bytes"]
                .map(|name| setting(&found, topic, name).to_owned())
        };
        assert_eq!(
            settings("clean"),
            [clean.0.to_owned(), clean.1.to_string(), clean.2.to_string()]
        );
        assert_eq!(settings("dead"), ["delete".to_owned(), dead.to_string(), "-1".to_owned()]);
        // What is printed is what would be made.
        for missing in &found.missing {
            let problem = found
                .problems()
                .map(ToString::to_string)
                .find(|p| p.contains(&format!("--topic {} ", missing.name)))
                .unwrap();
            assert!(
                missing
                    .settings
                    .iter()
                    .all(|(name, value)| problem.contains(&format!("--config {name}={value}"))),
                "{problem}"
            );
        }
    }
}

/// Two raw topics, one sanitized: compaction would lose the records of the one that is not
/// compacted.
#[test]
fn routes_that_share_a_topic_get_what_either_needs() {
    let compacted = TopicFacts { compacted: true, deletes: false, ..topic(2, 4000) };
    let found =
        found(&[("a", "both"), ("b", "both")], &[("a", Ok(topic(8, 1000))), ("b", Ok(compacted))]);
    assert_eq!(found.missing.iter().find(|m| m.name == "both").unwrap().partitions, 8);
    for (name, value) in
        [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("max.message.bytes", "6000")]
    {
        assert_eq!(setting(&found, "both", name), value, "{name}");
    }
    assert_eq!(found.problems().count(), 2, "each once: {found:?}");
}

#[test]
fn a_sanitized_topic_that_forgets_sooner_is_warned_of() {
    let warned = |raw: TopicFacts, clean: TopicFacts| -> Vec<String> {
        let found = judged(&[("raw", raw), ("clean", clean), ("dead", topic(4, 1500))]);
        assert_eq!(found.problems().count(), 0);
        found.warnings.iter().map(ToString::to_string).collect()
    };
    let short = keeping(Retention { ms: 1000, bytes: 50 });
    assert_eq!(
        warned(keeping(Retention { ms: 2000, bytes: -1 }), short.clone()),
        ["clean keeps less than raw (retention.ms 1000 instead of 2000, retention.bytes 50 \
            instead of -1): kafka-configs.sh --bootstrap-server b:1 --alter --entity-type topics \
            --entity-name clean --add-config retention.ms=2000,retention.bytes=-1"]
    );
    assert!(
        warned(TopicFacts { compacted: true, deletes: false, ..topic(4, 1000) }, topic(4, 1000))[0]
            .contains("retention.ms=-1")
    );
    assert!(warned(short.clone(), topic(4, 1000)).is_empty());
    assert_eq!(
        warned(topic(4, 1000), TopicFacts { assumed: true, ..short }),
        ["the settings of clean cannot be read; grant DescribeConfigs"]
    );
}

#[test]
fn the_dead_letter_topic_has_no_second_role() {
    let schema = |from: &str, to: &str| {
        let text = format!(
            r#"{{"veilstream":1,"name":"n","version":1,"topics":{{"from":"{from}","to":"{to}"}},"fields":[{{"id":"a","path":"$.a"}}]}}"#
        );
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("n.json"), text).unwrap();
        crate::registry::Registry::open(dir.path(), veilstream_engine::compile::Grants::default())
            .unwrap()
            .0
            .current()
    };
    for (from, to, expected) in [
        ("dead", "clean", Some("the raw topic")),
        ("raw", "dead", Some("the sanitized topic")),
        ("raw", "clean", None),
    ] {
        let texts: Vec<String> =
            roles(&schema(from, to), "dead").iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), usize::from(expected.is_some()));
        assert!(
            expected
                .is_none_or(|role| texts[0].contains(role)
                    && texts[0].contains("pipeline.dead_letter_topic")),
            "{texts:?}"
        );
    }
}
