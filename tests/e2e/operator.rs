//! What an operator sees from outside: what `/readyz`, the metrics and the log say while something
//! is wrong, and the second route that shows that the rest flows.

use std::time::{Duration, Instant};

use krafka::ConsumerRecord;
use serde_json::Value;

use crate::feed::{Feeder, people, person};
use crate::kafka::Kafka;
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, Running};

/// How long it may take until what is wrong is said: what the stall time of a test and the broker's
/// own delays allow.
pub(crate) const SAID: Duration = Duration::from_secs(30);
/// A blocked partition goes on so soon after the cure: 10 s, and what a busy machine adds.
pub(crate) const CURED: Duration = Duration::from_secs(15);

/// Waits until the sidecar says that a partition is blocked, everywhere where it is to say it, and
/// what to do: `remedy` is part of that.
pub(crate) fn await_blocked(
    running: &mut Running<'_>,
    instance: &Instance,
    (topic, partition): (&str, i32),
    reason: &str,
    remedy: &str,
) {
    let place = format!("{topic} [{partition}]");
    await_unready(running, &[&place, remedy]);
    running.wait_for(
        SAID,
        &format!("/status to name {place} as {reason}, and the metric to count the same"),
        |r| {
            let of_reason = |entry: &&Value| entry["topic"] == topic && entry["reason"] == reason;
            let entries = blocked_entries(r);
            let is_told = entries.iter().filter(of_reason).any(|entry| {
                entry["partition"] == partition
                    && entry["text"].as_str().is_some_and(|text| text.contains(remedy))
            });
            is_told && blocked(r, topic, reason) == entries.iter().filter(of_reason).count() as f64
        },
    );
    assert_eq!(
        running.get("/livez").unwrap().0,
        200,
        "a blocked partition is no reason to restart"
    );
    let log = instance.log();
    let told = log
        .lines()
        .any(|line| (line.contains("WARN") || line.contains("ERROR")) && line.contains(topic));
    assert!(told, "the log does not warn of {place}\n{}", instance.tail());
}

/// Waits until `/readyz` is 503 and says all of this.
pub(crate) fn await_unready(running: &mut Running<'_>, says: &[&str]) {
    let mut last = None;
    let what = format!("/readyz to say {says:?}");
    let end = Instant::now() + SAID;
    running.wait_for(SAID + Duration::from_secs(1), &what, |r| {
        last = r.get("/readyz");
        let said = last.as_ref().is_some_and(|(status, why)| {
            *status == 503 && says.iter().all(|part| why.contains(part))
        });
        assert!(
            said || Instant::now() < end,
            "waited {} s for {what}, which did not come; it says {last:?}\n{}",
            SAID.as_secs(),
            r.tail()
        );
        said
    });
}

/// The blocked partitions, as `/status` has them.
fn blocked_entries(running: &Running<'_>) -> Vec<Value> {
    let status =
        running.get("/status").and_then(|(_, text)| serde_json::from_str::<Value>(&text).ok());
    status.and_then(|status| status["kafka"]["blocked"].as_array().cloned()).unwrap_or_default()
}

/// How many partitions of a topic are blocked for a reason.
pub(crate) fn blocked(running: &Running<'_>, topic: &str, reason: &str) -> f64 {
    running
        .metric("veilstream_partitions_blocked", &format!("reason=\"{reason}\",topic=\"{topic}\""))
}

/// Waits until it is ready, has no lag on the topic and counts nothing as blocked: so it is again
/// after every cure.
pub(crate) fn await_flowing(running: &mut Running<'_>, topic: &str) {
    running.ready();
    await_lag(running, topic, 0);
    running.await_metric("veilstream_partitions_blocked", &format!("topic=\"{topic}\""), 0.0);
}

/// The lag by partition, as the metrics have it.
pub(crate) fn lags(running: &Running<'_>, topic: &str) -> std::collections::BTreeMap<i32, i64> {
    let Some((200, text)) = running.get("/metrics") else { return Default::default() };
    let of_topic = |line: &str| {
        let (partition, rest) =
            line.strip_prefix("veilstream_consumer_lag{partition=\"")?.split_once('"')?;
        let lag = rest.strip_prefix(&format!(",topic=\"{topic}\"}} "))?;
        Some((partition.parse().unwrap(), lag.parse().unwrap()))
    };
    text.lines().filter_map(of_topic).collect()
}

/// Waits until the lag of a topic is this, over all its partitions; it is asked for every few
/// seconds.
pub(crate) fn await_lag(running: &mut Running<'_>, topic: &str, lag: usize) {
    let lag = i64::try_from(lag).unwrap();
    running.wait_for(SAID, &format!("a lag of {lag} on {topic}"), |r| {
        let now = lags(r, topic);
        !now.is_empty() && now.values().sum::<i64>() == lag
    });
}

/// The partitions it has, of all topics.
pub(crate) fn partitions(running: &Running<'_>) -> i64 {
    let status =
        running.get("/status").and_then(|(_, text)| serde_json::from_str::<Value>(&text).ok());
    status.and_then(|status| status["kafka"]["partitions"].as_i64()).unwrap_or(-1)
}

/// A second route of a sandbox's sidecar, `<name>.raw` to `<name>.clean`. It has nothing to do with
/// what goes wrong.
pub(crate) struct SecondRoute<'a> {
    broker: &'a Kafka,
    pub(crate) name: String,
    partitions: i32,
    fed: usize,
}

impl<'a> SecondRoute<'a> {
    pub(crate) fn new(sandbox: &Sandbox<'a>, partitions: i32) -> Self {
        let name = format!("{}-second", sandbox.name);
        sandbox.broker.create_topic(&format!("{name}.raw"), partitions);
        sandbox
            .document("second", &people(&name).replace(r#""name":"people""#, r#""name":"second""#));
        Self { broker: sandbox.broker, name, partitions, fed: 0 }
    }

    /// Feeds so many records more and waits until they are through.
    pub(crate) fn flows(&mut self, running: &mut Running<'_>, more: usize) {
        let feeder = Feeder::new(self.broker);
        for i in self.fed..self.fed + more {
            feeder.number(&format!("{}.raw", self.name), self.partitions, i, person(i).as_bytes());
        }
        feeder.finish();
        self.fed += more;
        running
            .wait_for(SAID, &format!("{} to flow", self.name), |_| self.clean().len() == self.fed);
    }

    /// Every record fed is there once.
    pub(crate) fn assert_each_once(&self) {
        assert!(reader::times(&self.clean(), self.fed).iter().all(|n| *n == 1), "{}", self.name);
    }

    fn clean(&self) -> Vec<ConsumerRecord> {
        reader::committed(&self.broker.bootstrap, &format!("{}.clean", self.name), self.partitions)
    }
}
