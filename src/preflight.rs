//! Routes judged before records flow: are the topics there, and do they fit each other? A problem
//! belongs to its route, or to all where it is the dead-letter topic's; each comes with what to do.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use veilstream_engine::compile::SchemaSet;

use crate::kafka::topics::{
    EachTopic, NewTopic, Retention, TopicError, TopicFacts, Topics, alter_command, grow_command,
};

/// Dead letters are kept so long at least: somebody has to look at them, mend a schema and replay
/// them.
const DEAD_LETTERS_MS: i64 = 30 * 86_400_000;
/// The largest batch of a topic that is not there, or does not tell: Kafka's default.
const MAX_MESSAGE_BYTES: usize = 1_048_588;

/// Why a route does not run. Every text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not to be asked about, or not to be seen.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// Raw topics are their owners' to make.
    #[error("raw topic {topic} does not exist; create it: {command}")]
    NoRawTopic {
        /// The topic.
        topic: String,
        /// What makes it.
        command: String,
    },
    /// A topic that `--create-topics` makes.
    #[error("topic {topic} does not exist; create it, or run with --create-topics: {command}")]
    NoTopic {
        /// The topic.
        topic: String,
        /// What makes it.
        command: String,
    },
    /// Partition i goes to partition i.
    #[error(
        "{topic} has {partitions} partitions and {raw} has {wanted}; give it as many: {command}"
    )]
    FewPartitions {
        /// The sanitized topic.
        topic: String,
        /// How many it has.
        partitions: i32,
        /// The raw topic.
        raw: String,
        /// How many that has.
        wanted: i32,
        /// What mends it.
        command: String,
    },
    /// Records that the raw topic took would not fit.
    #[error("{topic} takes {bytes} bytes and {raw} {wanted}; {command}")]
    SmallMessages {
        /// The sanitized topic.
        topic: String,
        /// The largest batch it takes.
        bytes: usize,
        /// The raw topic.
        raw: String,
        /// The largest batch that takes.
        wanted: usize,
        /// What mends it.
        command: String,
    },
    /// Sealed records would not fit.
    #[error(
        "{topic} takes {bytes} bytes; a sealed dead letter needs 1.5 times what the raw topics \
        take; {command}"
    )]
    SmallDeadLetters {
        /// The dead-letter topic.
        topic: String,
        /// The largest batch it takes.
        bytes: usize,
        /// What mends it.
        command: String,
    },
    /// Dead letters have no keys, or equal ones.
    #[error(
        "{topic} is compacted, which would lose dead letters; set cleanup.policy=delete: {command}"
    )]
    CompactedDeadLetters {
        /// The dead-letter topic.
        topic: String,
        /// What mends it.
        command: String,
    },
    /// A topic would be read and written, or hold sealed records between others.
    #[error(
        "{topic} is the dead-letter topic and {role} of a schema; name another one with \
        pipeline.dead_letter_topic"
    )]
    TwoRoles {
        /// The topic.
        topic: String,
        /// What else it is.
        role: &'static str,
    },
}

impl Problem {
    /// Whether a permission is missing.
    #[must_use]
    pub fn is_authorization(&self) -> bool {
        matches!(self, Self::Topic(error) if error.is_authorization())
    }
}

/// What to know of a route that runs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum PreflightWarning {
    /// A compacted topic takes no null key.
    #[error("{topic} is compacted and {raw} is not: records without a key become dead letters")]
    NullKeys {
        /// The sanitized topic.
        topic: String,
        /// The raw topic.
        raw: String,
    },
    /// Timestamps are lost.
    #[error("{topic} has message.timestamp.type=LogAppendTime: records lose their timestamps")]
    LogAppendTime {
        /// The sanitized topic.
        topic: String,
    },
    /// Nothing is known of the settings.
    #[error("the settings of {topic} cannot be read; grant DescribeConfigs")]
    Unreadable {
        /// The topic.
        topic: String,
    },
    /// Records would be gone downstream while they are still in the raw topic.
    #[error("{topic} keeps less than {raw} ({what}): {command}")]
    KeepsLess {
        /// The sanitized topic.
        topic: String,
        /// The raw topic.
        raw: String,
        /// The setting, and both values.
        what: String,
        /// What mends it.
        command: String,
    },
    /// Transactions may be left hanging.
    #[error(
        "{topic} has one replica: when its broker stops, what is being committed may be left \
        hanging (docs/operations.md, \"Hanging transactions\"); give it more with \
        kafka-reassign-partitions.sh"
    )]
    OneReplica {
        /// The topic.
        topic: String,
    },
}

/// A raw topic, where its records go, and why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The raw topic.
    pub raw: String,
    /// The sanitized topic.
    pub sanitized: String,
    /// Its own problems; with none, and none that concerns all, it can run.
    pub problems: Vec<Problem>,
}

/// What an examination found.
#[derive(Debug, Default)]
pub struct Findings {
    /// How many brokers there are.
    pub brokers: usize,
    /// Every topic that is there.
    pub facts: HashMap<String, TopicFacts>,
    /// Every route, by raw topic.
    pub routes: Vec<Route>,
    /// Problems of the dead-letter topic: no route can run with them.
    pub common: Vec<Problem>,
    /// What to know.
    pub warnings: BTreeSet<PreflightWarning>,
    /// Topics that `--create-topics` makes.
    pub missing: Vec<NewTopic>,
}

/// Why nothing runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Permissions are missing.
    #[error("not authorized: {}", .0.join("; "))]
    NotAuthorized(Vec<String>),
    /// Topics are missing or do not fit.
    #[error("preflight: {}", .0.join("\n  "))]
    Unfit(Vec<String>),
}

impl Findings {
    /// Every problem once, those of all routes first.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        let mut seen: Vec<&Problem> = Vec::new();
        let all = self.common.iter().chain(self.routes.iter().flat_map(|route| &route.problems));
        all.filter(move |problem| {
            let is_new = !seen.contains(problem);
            if is_new {
                seen.push(problem);
            }
            is_new
        })
    }

    /// Routes that cannot run, while others may.
    pub fn unfit(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().filter(|route| !route.problems.is_empty())
    }

    /// Whether anything can run: one route without a problem is enough, and the others wait.
    ///
    /// # Errors
    /// All problems: permissions that are missing, else the topics.
    pub fn runnable(&self) -> Result<(), Refusal> {
        let one_runs =
            self.routes.is_empty() || self.routes.iter().any(|route| route.problems.is_empty());
        if self.common.is_empty() && one_runs { Ok(()) } else { self.faultless() }
    }

    /// Whether everything can run.
    ///
    /// # Errors
    /// As [`Findings::runnable`].
    pub fn faultless(&self) -> Result<(), Refusal> {
        let (denied, unfit): (Vec<_>, Vec<_>) =
            self.problems().partition(|problem| problem.is_authorization());
        let texts = |problems: Vec<&Problem>| {
            problems.into_iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        match (texts(denied), texts(unfit)) {
            (denied, unfit) if denied.is_empty() && unfit.is_empty() => Ok(()),
            (denied, unfit) if denied.is_empty() => Err(Refusal::Unfit(unfit)),
            (denied, unfit) => Err(Refusal::NotAuthorized([denied, unfit].concat())),
        }
    }
}

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
