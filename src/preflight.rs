//! Routes judged before records flow: are the topics there, and do they fit each other? A problem
//! belongs to its route, or to all where it is the dead-letter topic's; each comes with what to do.

mod finding;

use std::collections::{BTreeMap, BTreeSet};

use veilstream_engine::compile::SchemaSet;

pub use finding::{Findings, PreflightWarning, Problem, Refusal, Route};

use crate::kafka::topics::{
    EachTopic, NewTopic, Retention, TopicError, TopicFacts, Topics, alter_command, grow_command,
};

/// Dead letters are kept so long at least: somebody has to look at them, mend a schema and replay
/// them.
const DEAD_LETTERS_MS: i64 = 30 * 86_400_000;
/// The largest batch of a topic that is not there, or does not tell: Kafka's default.
const MAX_MESSAGE_BYTES: usize = 1_048_588;

/// What is wrong with the roles of topics, before any broker is asked.
pub fn roles(schemas: &SchemaSet, dead_letters: &str) -> Vec<Problem> {
    let role = |(raw, sanitized): (&str, &str)| {
        let role = match dead_letters {
            name if name == raw => "the raw topic",
            name if name == sanitized => "the sanitized topic",
            _ => return None,
        };
        Some(Problem::TwoRoles { topic: dead_letters.to_owned(), role })
    };
    schemas.routes().filter_map(role).collect()
}

/// Asks the brokers about every topic of `schemas` and the dead-letter topic.
///
/// # Errors
/// No broker answers. What is wrong with a topic stands in what was found.
pub fn examine(
    topics: &Topics,
    schemas: &SchemaSet,
    dead_letters: &str,
) -> Result<Findings, TopicError> {
    let routes: BTreeMap<&str, &str> = schemas.routes().collect();
    let names = routes.iter().flat_map(|(raw, sanitized)| [*raw, *sanitized]).chain([dead_letters]);
    let described = topics.describe(names)?;
    let brokers = topics.brokers()?;
    let mut found = judge(topics.servers(), brokers, &routes, dead_letters, described);
    let roles = roles(schemas, dead_letters);
    if !roles.is_empty() {
        // What has two roles is nothing to be made.
        found.missing.clear();
    }
    found.common.splice(0..0, roles);
    Ok(found)
}

fn judge(
    servers: &str,
    brokers: usize,
    routes: &BTreeMap<&str, &str>,
    dead_letters: &str,
    described: EachTopic<TopicFacts>,
) -> Findings {
    let mut judge =
        Judge { servers, described, wanted: BTreeMap::new(), warnings: BTreeSet::new() };
    let mut judged: Vec<Route> = routes
        .iter()
        .map(|(raw, sanitized)| Route {
            raw: (*raw).to_owned(),
            sanitized: (*sanitized).to_owned(),
            problems: judge.route(raw, sanitized),
        })
        .collect();
    let mut common = judge.dead_letters(routes, dead_letters);
    // One broker alone can have no second replica.
    for name in routes.values().copied().chain([dead_letters]).filter(|_| brokers > 1) {
        if judge.facts(name).is_some_and(|topic| topic.replicas == 1) {
            judge.warnings.insert(PreflightWarning::OneReplica { topic: name.to_owned() });
        }
    }
    // Only now is it known what routes that share a topic want of it.
    let missing = |name: &str| {
        let command = judge.wanted.get(name)?.command(servers);
        Some(Problem::NoTopic { topic: name.to_owned(), command })
    };
    judged.iter_mut().for_each(|route| route.problems.extend(missing(&route.sanitized)));
    common.extend(missing(dead_letters));
    let facts =
        judge.described.into_iter().filter_map(|(name, facts)| Some((name, facts.ok()?))).collect();
    let missing = judge.wanted.into_values().map(|wanted| wanted.topic).collect();
    Findings { brokers, facts, routes: judged, common, warnings: judge.warnings, missing }
}

/// A topic to make, as all routes want it that write to it.
struct Wanted {
    topic: NewTopic,
    compacted: bool,
    deletes: bool,
    retention: Retention,
    bytes: usize,
}

impl Wanted {
    fn command(&self, servers: &str) -> String {
        self.topic.command(servers)
    }

    fn new(
        name: &str,
        partitions: i32,
        bytes: usize,
        (compacted, deletes): (bool, bool),
        retention: Retention,
    ) -> Self {
        let topic = NewTopic {
            name: name.to_owned(),
            partitions,
            replicas: None,
            settings: BTreeMap::new(),
        };
        let mut wanted = Self { topic, compacted, deletes, retention, bytes };
        wanted.settle();
        wanted
    }

    /// Two raw topics, one sanitized: what either needs. Where one of them is not compacted,
    /// compaction would lose its records, so nothing is; and what a compacted one keeps has no age.
    fn merge(&mut self, other: &Self) {
        let keeps = |w: &Self| if w.deletes { w.retention } else { Retention::UNLIMITED };
        if (self.compacted, self.deletes) == (other.compacted, other.deletes) {
            self.retention = self.retention.larger(other.retention);
        } else {
            self.retention = keeps(self).larger(keeps(other));
            (self.compacted, self.deletes) = (self.compacted && other.compacted, true);
        }
        self.topic.partitions = self.topic.partitions.max(other.topic.partitions);
        self.bytes = self.bytes.max(other.bytes);
        self.settle();
    }

    fn settle(&mut self) {
        let cleanup = match (self.compacted, self.deletes) {
            (true, true) => "compact,delete",
            (true, false) => "compact",
            _ => "delete",
        };
        self.topic.settings = BTreeMap::from([
            ("cleanup.policy", cleanup.to_owned()),
            ("max.message.bytes", self.bytes.to_string()),
            ("retention.bytes", self.retention.bytes.to_string()),
            ("retention.ms", self.retention.ms.to_string()),
        ]);
    }
}

struct Judge<'a> {
    servers: &'a str,
    described: EachTopic<TopicFacts>,
    /// Topics to make, by name.
    wanted: BTreeMap<String, Wanted>,
    warnings: BTreeSet<PreflightWarning>,
}

impl Judge<'_> {
    fn facts(&self, name: &str) -> Option<&TopicFacts> {
        self.described.get(name)?.as_ref().ok()
    }

    /// What is known, that it is to be made (`None`), or why neither can be told.
    fn look(&self, name: &str) -> Result<Option<TopicFacts>, Problem> {
        match self.described.get(name) {
            Some(Ok(facts)) => Ok(Some(facts.clone())),
            Some(Err(TopicError::Missing { .. })) | None => Ok(None),
            Some(Err(error)) => Err(error.clone().into()),
        }
    }

    fn want(&mut self, wanted: Wanted) {
        match self.wanted.get_mut(&wanted.topic.name) {
            Some(known) => known.merge(&wanted),
            None => drop(self.wanted.insert(wanted.topic.name.clone(), wanted)),
        }
    }

    fn route(&mut self, raw_name: &str, name: &str) -> Vec<Problem> {
        let (raw, sanitized) = match (self.look(raw_name), self.look(name)) {
            (Ok(raw), Ok(sanitized)) => (raw, sanitized),
            (raw, sanitized) => return raw.err().into_iter().chain(sanitized.err()).collect(),
        };
        let Some(raw) = raw else {
            let servers = self.servers;
            let command = format!(
                "kafka-topics.sh --bootstrap-server {servers} --create --topic {raw_name} \
                --partitions 4"
            );
            return vec![Problem::NoRawTopic { topic: raw_name.to_owned(), command }];
        };
        // A little more than the input, for tokens and indexes; what is larger still is
        // dead-lettered, not lost.
        let bytes = sealed_size(raw.max_message_bytes);
        let Some(topic) = sanitized else {
            let retention = raw.retention.larger(raw.cluster_retention);
            self.want(Wanted::new(
                name,
                raw.partitions,
                bytes,
                (raw.compacted, raw.deletes),
                retention,
            ));
            return Vec::new();
        };
        self.warn(raw_name, &raw, name, &topic);
        let mut problems = Vec::new();
        if topic.partitions < raw.partitions {
            problems.push(Problem::FewPartitions {
                topic: name.to_owned(),
                partitions: topic.partitions,
                raw: raw_name.to_owned(),
                wanted: raw.partitions,
                command: grow_command(self.servers, name, raw.partitions),
            });
        }
        if topic.max_message_bytes < raw.max_message_bytes {
            problems.push(Problem::SmallMessages {
                topic: name.to_owned(),
                bytes: topic.max_message_bytes,
                raw: raw_name.to_owned(),
                wanted: raw.max_message_bytes,
                command: alter_command(
                    self.servers,
                    name,
                    &[("max.message.bytes", &bytes.to_string())],
                ),
            });
        }
        problems
    }

    fn warn(&mut self, raw_name: &str, raw: &TopicFacts, name: &str, topic: &TopicFacts) {
        let (sanitized, from) = (|| name.to_owned(), || raw_name.to_owned());
        if topic.compacted && !raw.compacted {
            self.warnings.insert(PreflightWarning::NullKeys { topic: sanitized(), raw: from() });
        }
        if topic.log_append_time {
            self.warnings.insert(PreflightWarning::LogAppendTime { topic: sanitized() });
        }
        if topic.assumed || raw.assumed {
            let of = if topic.assumed { sanitized() } else { from() };
            self.warnings.insert(PreflightWarning::Unreadable { topic: of });
            // Of what nobody told there is nothing to compare.
            return;
        }
        let (has, wants) = (topic.keeps(), raw.keeps());
        if has.larger(wants) != has {
            let (mut what, mut settings) = (Vec::new(), Vec::new());
            let larger = has.larger(wants);
            for (setting, has, wants) in
                [("retention.ms", has.ms, larger.ms), ("retention.bytes", has.bytes, larger.bytes)]
            {
                if has != wants {
                    what.push(format!("{setting} {has} instead of {wants}"));
                    settings.push((setting, wants.to_string()));
                }
            }
            let settings: Vec<(&str, &str)> =
                settings.iter().map(|(setting, value)| (*setting, value.as_str())).collect();
            let command = alter_command(self.servers, name, &settings);
            self.warnings.insert(PreflightWarning::KeepsLess {
                topic: sanitized(),
                raw: from(),
                what: what.join(", "),
                command,
            });
        }
    }

    fn dead_letters(&mut self, routes: &BTreeMap<&str, &str>, name: &str) -> Vec<Problem> {
        let raws: Vec<TopicFacts> =
            routes.keys().filter_map(|raw| self.facts(raw).cloned()).collect();
        let largest =
            raws.iter().map(|raw| raw.max_message_bytes).max().unwrap_or(MAX_MESSAGE_BYTES);
        match self.look(name) {
            Err(problem) => vec![problem],
            Ok(None) => {
                // Raw topics that keep everything are no measure: their records can be read again.
                // A size would be a second limit, which forgets them sooner and in silence.
                let ages = raws
                    .iter()
                    .filter(|raw| raw.deletes)
                    .map(|raw| Retention { ms: raw.retention.ms, bytes: -1 });
                let retention =
                    ages.fold(Retention { ms: DEAD_LETTERS_MS, bytes: -1 }, Retention::larger);
                let partitions = raws.iter().map(|raw| raw.partitions).max().unwrap_or(1).max(1);
                let bytes = sealed_size(largest.max(MAX_MESSAGE_BYTES));
                self.want(Wanted::new(name, partitions, bytes, (false, true), retention));
                Vec::new()
            }
            Ok(Some(topic)) => self.judge_dead_letters(name, &topic, sealed_size(largest)),
        }
    }

    fn judge_dead_letters(&self, name: &str, topic: &TopicFacts, wanted: usize) -> Vec<Problem> {
        let mut problems = Vec::new();
        if topic.max_message_bytes < wanted && !topic.assumed {
            problems.push(Problem::SmallDeadLetters {
                topic: name.to_owned(),
                bytes: topic.max_message_bytes,
                command: alter_command(
                    self.servers,
                    name,
                    &[("max.message.bytes", &wanted.to_string())],
                ),
            });
        }
        if topic.compacted {
            let command = alter_command(self.servers, name, &[("cleanup.policy", "delete")]);
            problems.push(Problem::CompactedDeadLetters { topic: name.to_owned(), command });
        }
        problems
    }
}

/// A sealed dead letter of a record as large as its topic allows.
fn sealed_size(raw: usize) -> usize {
    raw.saturating_add(raw / 2)
}

#[cfg(test)]
mod tests;
