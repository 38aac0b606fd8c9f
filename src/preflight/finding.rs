//! What was found of a route's topics: problems, each with what to do, and warnings.

use std::collections::{BTreeSet, HashMap};

use crate::kafka::topics::{NewTopic, TopicError, TopicFacts};

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
