//! Finds out where partitions begin, on a thread of its own: brokers may take their time, and the
//! polling thread must not wait for them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::core::assignment::{Question, Resolution};
use super::core::partition::{Block, BlockReason, Position, TopicPartition};
use super::core::start::{Circumstances, CommittedOffset, PartitionLog, Start, decide};
use super::offsets;
use super::poll::KafkaConsumer;
use super::runtime::{Lost, Resolved, Runtime, ToPoll};
use super::snapshot::Snapshot;
use crate::config::OnMissingOffset;
use crate::kafka::error::is_authorization;
use crate::kafka::ffi;
use crate::kafka::ffi::admin::{Each, ListedOffset, Requests, TopicMetadata};
use crate::kafka::topics::TopicUuid;

/// One question to the brokers.
const REQUEST: Duration = Duration::from_secs(5);
/// The same for one partition alone, when one of many keeps the others from being answered.
const ALONE: Duration = Duration::from_secs(2);

/// The thread's work.
pub(super) struct Resolver {
    pub(super) runtime: Arc<Runtime>,
    pub(super) consumer: Arc<KafkaConsumer>,
    pub(super) questions: Receiver<Vec<Question>>,
    pub(super) poll: Sender<ToPoll>,
}

type Offsets = HashMap<TopicPartition, Result<Option<CommittedOffset>, Block>>;
type LogEnds = HashMap<TopicPartition, Result<(i64, Option<i32>), Block>>;

impl Resolver {
    /// Answers until nobody asks.
    pub(super) fn run(self) {
        while let Ok(mut questions) = self.questions.recv() {
            while let Ok(more) = self.questions.try_recv() {
                questions.extend(more);
            }
            if self.poll.send(ToPoll::Resolved(self.resolve(questions))).is_err() {
                return;
            }
        }
    }

    fn resolve(&self, questions: Vec<Question>) -> Vec<Resolved> {
        let snapshot = self.runtime.snapshots.load_full();
        let partitions: Vec<TopicPartition> = questions.iter().map(|q| q.at.clone()).collect();
        let committed = self.committed(&partitions);
        let (mut answers, mut open) = (Vec::new(), Vec::new());
        for question in questions {
            let (topic, partition) = (&question.at.topic, question.at.partition);
            let obstacle = self
                .runtime
                .guard
                .tripped(topic)
                .map(super::guard::Tripped::block)
                .or_else(|| snapshot.problem(topic, partition));
            match obstacle {
                Some(block) => {
                    let committed = offset_of(&committed, &question.at);
                    answers.push(Resolved {
                        question,
                        resolution: Resolution::Blocked(block),
                        committed,
                        lost: None,
                    });
                }
                None => open.push(question),
            }
        }
        if !open.is_empty() {
            self.begin(&snapshot, open, &committed, &mut answers);
        }
        answers
    }

    fn begin(
        &self,
        snapshot: &Snapshot,
        questions: Vec<Question>,
        committed: &Offsets,
        answers: &mut Vec<Resolved>,
    ) {
        let partitions: Vec<TopicPartition> = questions.iter().map(|q| q.at.clone()).collect();
        let topics: BTreeSet<&str> = partitions.iter().map(|at| &*at.topic).collect();
        let topics: Vec<&str> = topics.into_iter().collect();
        let told = Requests::of(self.consumer.client(), REQUEST).topics(&topics);
        let ends = [(Offset::Beginning, false), (Offset::End, true), (Offset::End, false)]
            .map(|(at, is_stable)| self.ends(&partitions, at, is_stable));
        let later = self.topics_begun(&told, &partitions, committed);
        let ids = told.map(ids_of);
        let outputs = self.outputs(snapshot, &partitions, committed);
        for question in questions {
            let at = &question.at;
            let known = committed.get(at).cloned();
            let facts = known
                .unwrap_or_else(|| Err(unreadable("the group coordinator did not answer")))
                .and_then(|committed| {
                    let end = |i: usize| {
                        ends[i]
                            .get(at)
                            .cloned()
                            .unwrap_or_else(|| Err(unreadable("its leader did not answer")))
                    };
                    let ((start, _), (stable_end, _), (high, leader_epoch)) =
                        (end(0)?, end(1)?, end(2)?);
                    let topic_id = told_id(&ids, &at.topic)?;
                    let is_later = later.get(&at.topic).cloned().unwrap_or(Ok(false))?;
                    let has_output = outputs.get(at).cloned().unwrap_or(Ok(false))?;
                    Ok((
                        committed,
                        (is_later, has_output),
                        PartitionLog {
                            topic_id,
                            start,
                            stable_end,
                            end: high.max(stable_end),
                            leader_epoch,
                        },
                    ))
                });
            let (resolution, lost) = match facts {
                Err(block) => (Resolution::Blocked(block), None),
                Ok((committed, (is_later, has_output), log)) => {
                    let circumstances = Circumstances {
                        is_later,
                        has_output,
                        diverged_at: question.diverged_at,
                        on_missing: self.runtime.kafka.on_missing_offset,
                        on_lost: self.runtime.kafka.on_offset_lost,
                    };
                    started(
                        at,
                        decide(
                            committed.as_ref().or(question.last_read.as_ref()),
                            &log,
                            circumstances,
                        ),
                        log,
                    )
                }
            };
            let committed = offset_of(committed, at);
            answers.push(Resolved { question, resolution, committed, lost });
        }
    }

    // ---- what is committed ----

    /// What the group committed. One partition whose offset a transaction holds back keeps the
    /// client from answering for the others: then each is asked for alone.
    fn committed(&self, partitions: &[TopicPartition]) -> Offsets {
        let mut found = self.committed_within(partitions, REQUEST);
        if partitions.len() > 1 && found.values().any(Result::is_err) {
            for at in partitions {
                found.extend(self.committed_within(std::slice::from_ref(at), ALONE));
            }
        }
        found
    }

    fn committed_within(&self, partitions: &[TopicPartition], timeout: Duration) -> Offsets {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for at in partitions {
            list.add_partition(&at.topic, at.partition);
        }
        let answer = self.consumer.committed_offsets(list, timeout);
        let of = |at: &TopicPartition| {
            let list = answer.as_ref().map_err(|e| committed_block(e.rdkafka_error_code()))?;
            let element = list
                .find_partition(&at.topic, at.partition)
                .ok_or_else(|| committed_block(None))?;
            element.error().map_err(|e| committed_block(e.rdkafka_error_code()))?;
            let Offset::Offset(offset) = element.offset() else { return Ok(None) };
            let position =
                Position { offset, leader_epoch: ffi::leader_epoch(list, &at.topic, at.partition) };
            Ok(Some(CommittedOffset { position, topic_id: offsets::topic_id(element.metadata()) }))
        };
        partitions.iter().map(|at| (at.clone(), of(at))).collect()
    }

    /// Whether the group has committed something of these topics: partitions without an offset
    /// were added later. Where reading begins at the beginning anyway, nobody asks. A topic of which
    /// nothing is told has no id either: it begins nowhere.
    fn topics_begun(
        &self,
        told: &Result<Each<TopicMetadata>, RDKafkaErrorCode>,
        partitions: &[TopicPartition],
        committed: &Offsets,
    ) -> HashMap<Arc<str>, Result<bool, Block>> {
        if self.runtime.kafka.on_missing_offset == OnMissingOffset::Earliest {
            return HashMap::new();
        }
        let is_missing = |at: &&TopicPartition| matches!(committed.get(*at), Some(Ok(None)));
        let topics: BTreeSet<&str> =
            partitions.iter().filter(is_missing).map(|at| &*at.topic).collect();
        let siblings = told.as_ref().map_or_else(|_| Vec::new(), |told| siblings(told, &topics));
        if siblings.is_empty() {
            return HashMap::new();
        }
        begun(self.committed_within(&siblings, REQUEST))
    }

    /// Whether the sanitized partitions of those without a committed offset hold records that can
    /// only be theirs.
    fn outputs(
        &self,
        snapshot: &Snapshot,
        partitions: &[TopicPartition],
        committed: &Offsets,
    ) -> HashMap<TopicPartition, Result<bool, Block>> {
        let mut targets: HashMap<TopicPartition, &TopicPartition> = HashMap::new();
        for at in partitions.iter().filter(|at| matches!(committed.get(*at), Some(Ok(None)))) {
            if let Some(target) =
                snapshot.target(&at.topic).filter(|target| snapshot.is_alone(target))
            {
                targets.insert(TopicPartition::new(target, at.partition), at);
            }
        }
        let names: Vec<TopicPartition> = targets.keys().cloned().collect();
        if names.is_empty() {
            return HashMap::new();
        }
        let ends = self.ends(&names, Offset::End, false);
        ends.into_iter()
            .filter_map(|(name, end)| Some(((*targets.get(&name)?).clone(), is_written(end))))
            .collect()
    }

    // ---- what the log holds ----

    fn ends(&self, partitions: &[TopicPartition], at: Offset, is_stable: bool) -> LogEnds {
        let names: Vec<(&str, i32)> =
            partitions.iter().map(|at| (&*at.topic, at.partition)).collect();
        match Requests::of(self.consumer.client(), REQUEST).offsets(&names, at, is_stable) {
            Ok(found) => {
                let of = |(topic, partition, answer): (
                    String,
                    i32,
                    Result<ListedOffset, RDKafkaErrorCode>,
                )| {
                    let end = answer
                        .map(|listed| (listed.offset, listed.leader_epoch))
                        .map_err(|code| log_block(&topic, code));
                    (TopicPartition::new(topic, partition), end)
                };
                found.into_iter().map(of).collect()
            }
            Err(code) => {
                partitions.iter().map(|at| (at.clone(), Err(log_block(&at.topic, code)))).collect()
            }
        }
    }
}

/// Ids of topics, as they are committed; brokers before 2.8 tell none.
pub(super) fn ids_of(found: Each<TopicMetadata>) -> Each<Option<Arc<str>>> {
    let id = |found: TopicMetadata| TopicUuid::new(found.id).map(|id| id.to_string().into());
    found.into_iter().map(|(name, found)| (name, found.map(id))).collect()
}

/// The id of a topic; `None` where brokers tell none. Without an answer nothing begins: a topic
/// made again would pass for one that was truncated, and its first records for read.
fn told_id(
    ids: &Result<Each<Option<Arc<str>>>, RDKafkaErrorCode>,
    topic: &str,
) -> Result<Option<Arc<str>>, Block> {
    let ids = ids.as_ref().map_err(|code| log_block(topic, *code))?;
    match ids.iter().find(|(name, _)| name == topic) {
        Some((_, Ok(id))) => Ok(id.clone()),
        Some((_, Err(code))) => Err(log_block(topic, *code)),
        None => Err(log_block(topic, RDKafkaErrorCode::UnknownTopicOrPartition)),
    }
}

/// All partitions of these topics, as far as brokers tell.
fn siblings(told: &Each<TopicMetadata>, topics: &BTreeSet<&str>) -> Vec<TopicPartition> {
    let of = |(name, found): &(String, Result<TopicMetadata, _>)| {
        let count = found.as_ref().map_or(0, |found| found.replicas.len());
        let partitions = (0..).take(count);
        partitions.map(|at| TopicPartition::new(&**name, at)).collect::<Vec<_>>()
    };
    told.iter().filter(|(name, _)| topics.contains(name.as_str())).flat_map(of).collect()
}

/// Whether something is committed of each topic. One offset answers for its topic; none does while
/// one of them is not told.
fn begun(offsets: Offsets) -> HashMap<Arc<str>, Result<bool, Block>> {
    let mut topics: HashMap<Arc<str>, Result<bool, Block>> = HashMap::new();
    for (at, found) in offsets {
        let topic = topics.entry(at.topic).or_insert(Ok(false));
        match found {
            Ok(Some(_)) => *topic = Ok(true),
            Err(block) if *topic == Ok(false) => *topic = Err(block),
            _ => {}
        }
    }
    topics
}

/// Whether a sanitized partition holds records. Who may write but not describe it cannot tell: it
/// begins as at a first start.
fn is_written(end: Result<(i64, Option<i32>), Block>) -> Result<bool, Block> {
    match end {
        Ok((end, _)) => Ok(end > 0),
        Err(block) if block.reason == BlockReason::NotAuthorized => Ok(false),
        Err(block) => Err(block),
    }
}

fn offset_of(committed: &Offsets, at: &TopicPartition) -> Option<i64> {
    committed.get(at)?.as_ref().ok()?.as_ref().map(|committed| committed.position.offset)
}

fn started(at: &TopicPartition, start: Start, log: PartitionLog) -> (Resolution, Option<Lost>) {
    let PartitionLog { topic_id, leader_epoch, .. } = log;
    match start {
        Start::Committed(start) => {
            let is_validated = start.leader_epoch.is_none() || start.leader_epoch == leader_epoch;
            (Resolution::Start { start, is_committed: true, is_validated, topic_id }, None)
        }
        Start::First(start) => {
            tracing::info!(
                topic = &*at.topic,
                partition = at.partition,
                offset = start.offset,
                "nothing is committed; reading begins here"
            );
            (Resolution::Start { start, is_committed: false, is_validated: true, topic_id }, None)
        }
        Start::Lost(start, loss, missed) => {
            let lost = Lost { loss, missed, goes_on: start.offset };
            (
                Resolution::Start { start, is_committed: false, is_validated: true, topic_id },
                Some(lost),
            )
        }
        Start::Blocked(block) => (Resolution::Blocked(block), None),
    }
}

fn unreadable(why: &str) -> Block {
    Block::new(
        BlockReason::OffsetsUnreadable,
        format!("it cannot be found out where it begins: {why}"),
    )
}

fn committed_block(code: Option<RDKafkaErrorCode>) -> Block {
    match code {
        Some(code) if is_authorization(code) => Block::new(
            BlockReason::NotAuthorized,
            format!("{code}: grant Read on the group and Describe on the raw topic"),
        ),
        _ => unreadable(
            "committed offsets cannot be read: a transaction has not ended; if it never does, see \
            \"Hanging transactions\" in docs/operations.md",
        ),
    }
}

fn log_block(topic: &str, code: RDKafkaErrorCode) -> Block {
    match code {
        code if is_authorization(code) => Block::new(
            BlockReason::NotAuthorized,
            format!("{code}: grant Read and Describe on {topic}"),
        ),
        RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownPartition => {
            Block::new(BlockReason::Fetch, format!("the topic {topic} is not there"))
        }
        code => unreadable(&format!("its leader does not answer ({code})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_no_broker_told_is_no_topic_without_one() {
        let of = |id| TopicMetadata { id, replicas: Vec::new() };
        let ids = Ok(ids_of(vec![
            ("new".to_owned(), Ok(of([7; 16]))),
            ("old".to_owned(), Ok(of([0; 16]))),
            ("fresh".to_owned(), Err(RDKafkaErrorCode::UnknownTopicOrPartition)),
            ("denied".to_owned(), Err(RDKafkaErrorCode::TopicAuthorizationFailed)),
        ]));
        assert!(told_id(&ids, "new").unwrap().is_some());
        assert_eq!(told_id(&ids, "old").unwrap(), None, "its brokers know no ids");
        assert_eq!(told_id(&ids, "fresh").unwrap_err().reason, BlockReason::Fetch);
        assert_eq!(told_id(&ids, "denied").unwrap_err().reason, BlockReason::NotAuthorized);
        assert_eq!(told_id(&ids, "absent").unwrap_err().reason, BlockReason::Fetch);
        let unanswered = Err(RDKafkaErrorCode::RequestTimedOut);
        assert_eq!(told_id(&unanswered, "new").unwrap_err().reason, BlockReason::OffsetsUnreadable);
    }

    #[test]
    fn all_partitions_of_a_topic_are_asked_about() {
        let of = |replicas| Ok(TopicMetadata { id: [7; 16], replicas });
        let told = vec![
            ("grown".to_owned(), of(vec![1, 1, 1])),
            ("begun".to_owned(), of(vec![3])),
            ("absent".to_owned(), Err(RDKafkaErrorCode::UnknownTopicOrPartition)),
        ];
        let found = siblings(&told, &["grown", "absent"].into());
        assert_eq!(found, [0, 1, 2].map(|at| TopicPartition::new("grown", at)));
    }

    #[test]
    fn what_is_not_told_is_no_first_start() {
        let known = CommittedOffset {
            position: Position { offset: 3, leader_epoch: None },
            topic_id: None,
        };
        let of = |topic: &'static str, answers: Vec<Result<Option<CommittedOffset>, Block>>| {
            let at = move |(partition, answer)| (TopicPartition::new(topic, partition), answer);
            (0..).zip(answers).map(at)
        };
        let silent = || Err(committed_block(None));
        let topics = begun(
            of("some", vec![Ok(None), silent(), Ok(Some(known))])
                .chain(of("none", vec![Ok(None), Ok(None)]))
                .chain(of("silent", vec![Ok(None), silent(), Ok(None)]))
                .collect(),
        );
        assert_eq!(topics["some"], Ok(true));
        assert_eq!(topics["none"], Ok(false));
        assert_eq!(topics["silent"], Err(committed_block(None)));

        let denied = log_block("t", RDKafkaErrorCode::TopicAuthorizationFailed);
        let timed_out = log_block("t", RDKafkaErrorCode::RequestTimedOut);
        assert_eq!(is_written(Ok((0, None))), Ok(false));
        assert_eq!(is_written(Ok((2, None))), Ok(true));
        assert_eq!(is_written(Err(denied)), Ok(false));
        assert_eq!(is_written(Err(timed_out.clone())), Err(timed_out));
    }
}
