//! A protected record as it goes to its topic: key, value, headers, timestamp, and whether the
//! topic takes it. One for pipeline and replay.

use veilstream_engine::record::{Header, HeaderOutput, KeyOutput, Output, Record};

use crate::kafka::ffi::Headers;
use crate::kafka::topics::TopicFacts;

/// The header every sanitized record carries: `<schema>/<version>`.
pub(crate) const SCHEMA_HEADER: &[u8] = b"veilstream-schema";
/// Header of a record batch, version 2, in bytes.
const BATCH_HEADER: usize = 61;
/// What a record adds to its key, value and headers at most: five lengths of at most 5 bytes,
/// attributes, and a timestamp's delta of at most 10.
const RECORD_OVERHEAD: usize = 36;

/// What a topic takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicLimits {
    /// How many partitions it has.
    pub partitions: i32,
    /// Largest batch, in bytes; a record alone is a batch.
    pub max_message_bytes: usize,
    /// It takes no null keys.
    pub compacted: bool,
    /// Latest timestamp, in milliseconds after now.
    pub ahead_ms: i64,
}

impl TopicLimits {
    /// Of a topic nothing is known of: the broker decides.
    pub const UNKNOWN: Self = Self {
        partitions: i32::MAX,
        max_message_bytes: usize::MAX,
        compacted: false,
        ahead_ms: i64::MAX,
    };
}

impl From<&TopicFacts> for TopicLimits {
    fn from(facts: &TopicFacts) -> Self {
        let TopicFacts { partitions, max_message_bytes, compacted, ahead_ms, .. } = *facts;
        Self { partitions, max_message_bytes, compacted, ahead_ms }
    }
}

/// Why a topic does not take a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// It has fewer partitions than the raw topic. The record is not to blame.
    Partition,
    /// The record is longer than the topic's `max.message.bytes`.
    TooLarge,
    /// Its timestamp is further ahead than `message.timestamp.after.max.ms` allows.
    TooFarAhead,
    /// It has no key and the topic is compacted.
    NullKey,
}

/// A protected record on its way.
#[derive(Clone, Copy)]
pub struct Outgoing<'a> {
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    input: &'a [Header<'a>],
    /// What became of it, and the label of its schema where the header is written; `None`: it is as
    /// it was.
    output: Option<(&'a Output, Option<&'a str>)>,
    time: Option<i64>,
}

impl<'a> Outgoing<'a> {
    /// What became of `record` under the schema of `label`; without a label it gets no header of the
    /// schema. `time`: the record's timestamp in milliseconds.
    #[must_use]
    pub fn new(
        record: &Record<'a>,
        output: &'a Output,
        label: Option<&'a str>,
        time: Option<i64>,
    ) -> Self {
        let key = match output.key {
            KeyOutput::Same => record.key,
            KeyOutput::Replaced => Some(output.key_bytes.as_slice()),
        };
        let value = (!output.tombstone).then_some(output.value.as_slice());
        Self { key, value, input: record.headers, output: Some((output, label)), time }
    }

    /// A record of a sanitized topic as it stands.
    #[must_use]
    pub fn unchanged(record: &Record<'a>, time: Option<i64>) -> Self {
        let Record { key, value, headers, .. } = *record;
        Self { key, value, input: headers, output: None, time }
    }

    /// The input's headers.
    #[cfg(feature = "postgres")]
    pub(crate) fn input(&self) -> &'a [Header<'a>] {
        self.input
    }

    /// Why the topic does not take it in `partition`; `now` in milliseconds since the epoch.
    #[must_use]
    pub fn unfit(&self, topic: &TopicLimits, partition: i32, now: i64) -> Option<Unfit> {
        if partition >= topic.partitions {
            Some(Unfit::Partition)
        } else if self.key.is_none() && topic.compacted {
            Some(Unfit::NullKey)
        } else if self.time.is_some_and(|time| time.saturating_sub(now) > topic.ahead_ms) {
            Some(Unfit::TooFarAhead)
        } else if record_size(self.key, self.value, self.headers()) > topic.max_message_bytes {
            Some(Unfit::TooLarge)
        } else {
            None
        }
    }

    /// The timestamp as librdkafka takes it, in milliseconds, and whether it had to be raised: 0 is
    /// its word for "now", so the nearest it can write is 1.
    #[must_use]
    pub fn timestamp(&self) -> (i64, bool) {
        match self.time {
            None => (0, false),
            Some(time) if time < 1 => (1, true),
            Some(time) => (time, false),
        }
    }

    /// The input's headers, protected, then the schema's; of what is unchanged its own.
    pub fn headers(&self) -> impl Iterator<Item = Header<'a>> {
        let Self { input, output, .. } = *self;
        let stay = if output.is_none() { input } else { &[] };
        let changed = output.into_iter().flat_map(move |(output, label)| {
            let own = output.headers.iter().map(move |header| match header {
                HeaderOutput::Same(i) => input[*i],
                HeaderOutput::Replaced(i, range) => {
                    (input[*i].0, Some(&output.header_bytes[range.clone()]))
                }
            });
            own.chain(label.map(|label| (SCHEMA_HEADER, Some(label.as_bytes()))))
        });
        stay.iter().copied().chain(changed)
    }

    /// The headers as librdkafka takes them. `copy`: the input's, copied natively, which is quicker
    /// where none changed. `None`: out of memory.
    pub(crate) fn native_headers(&self, copy: impl FnOnce() -> Option<Headers>) -> Option<Headers> {
        let untouched = self.output.filter(|(output, _)| {
            output.headers.len() == self.input.len()
                && output.headers.iter().all(|h| matches!(h, HeaderOutput::Same(_)))
        });
        // librdkafka would read the message once more to find that there are none.
        if let Some((_, label)) = untouched.filter(|_| !self.input.is_empty()) {
            let mut headers = copy()?;
            if let Some(label) = label {
                headers.add(SCHEMA_HEADER, Some(label.as_bytes()));
            }
            return Some(headers);
        }
        if self.headers().next().is_none() {
            return Some(Headers::none());
        }
        let mut headers = Headers::new(self.input.len() + 1)?;
        self.headers().for_each(|(name, value)| headers.add(name, value));
        Some(headers)
    }
}

/// A record's headers as librdkafka takes them, with room for one more; `None`: out of memory.
pub(crate) fn native(headers: &[Header<'_>]) -> Option<Headers> {
    let mut native = Headers::new(headers.len() + 1)?;
    headers.iter().for_each(|(name, value)| native.add(name, *value));
    Some(native)
}

/// The most bytes that a record takes as a batch of its own, uncompressed.
#[must_use]
pub fn record_size<'h>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl Iterator<Item = Header<'h>>,
) -> usize {
    let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
    let headers: usize = headers
        .map(|(name, value)| {
            varint_len(name.len()) + name.len() + varint_len(len(value)) + len(value)
        })
        .sum();
    BATCH_HEADER + RECORD_OVERHEAD + len(key) + len(value) + headers
}

/// Bytes of a length as a zigzag varint.
fn varint_len(length: usize) -> usize {
    let bits = usize::BITS - (length << 1).leading_zeros();
    bits.div_ceil(7).max(1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TopicLimits =
        TopicLimits { partitions: 2, max_message_bytes: 300, compacted: true, ahead_ms: 1000 };

    fn output(value: usize) -> Output {
        Output {
            value: vec![b'v'; value],
            headers: vec![HeaderOutput::Same(0)],
            ..Output::default()
        }
    }

    #[test]
    fn each_limit_of_a_topic_is_looked_at() {
        let headers: [Header<'_>; 1] = [(b"h", Some(b"x"))];
        let record =
            Record { key: Some(b"k"), value: Some(b"v"), headers: &headers, ..Record::default() };
        let out = output(100);
        let fits = Outgoing::new(&record, &out, Some("people/1"), Some(5000));
        assert_eq!(fits.unfit(&LIMITS, 1, 4000), None);
        assert_eq!(fits.unfit(&LIMITS, 2, 4000), Some(Unfit::Partition));
        assert_eq!(fits.unfit(&LIMITS, 1, 3999), Some(Unfit::TooFarAhead));
        assert_eq!(
            fits.unfit(&TopicLimits { max_message_bytes: 200, ..LIMITS }, 1, 4000),
            Some(Unfit::TooLarge)
        );
        let keyless = Outgoing::new(&Record { key: None, ..record }, &out, Some("people/1"), None);
        assert_eq!(keyless.unfit(&LIMITS, 1, 0), Some(Unfit::NullKey));
        assert_eq!(keyless.unfit(&TopicLimits { compacted: false, ..LIMITS }, 1, 0), None);
        assert_eq!(fits.unfit(&TopicLimits::UNKNOWN, i32::MAX - 1, 0), None);
    }

    #[test]
    fn headers_count_as_they_stand_in_a_batch() {
        let many: Vec<Header<'_>> = (0..13_500).map(|_| (b"abcd".as_slice(), None)).collect();
        assert_eq!(record_size(None, None, many.into_iter()), 97 + 13_500 * 6);
        assert_eq!([0, 63, 64, 8191, 8192, 1 << 20].map(varint_len), [1, 1, 2, 2, 3, 4]);
    }

    #[test]
    fn headers_are_the_inputs_and_the_schemas() {
        let headers: [Header<'_>; 3] = [(b"a", Some(b"1")), (b"dropped", Some(b"2")), (b"c", None)];
        let record = Record { headers: &headers, ..Record::default() };
        let out = Output {
            tombstone: true,
            headers: vec![HeaderOutput::Same(0), HeaderOutput::Replaced(2, 1..3)],
            header_bytes: b"xyz".to_vec(),
            key: KeyOutput::Replaced,
            key_bytes: b"hashed".to_vec(),
            ..Output::default()
        };
        let outgoing = Outgoing::new(&record, &out, Some("people/1"), Some(0));
        let expected: [Header<'_>; 3] =
            [(b"a", Some(b"1")), (b"c", Some(b"yz")), (b"veilstream-schema", Some(b"people/1"))];
        assert_eq!(outgoing.headers().collect::<Vec<_>>(), expected);
        let bare = Outgoing::new(&record, &out, None, Some(0));
        assert_eq!(bare.headers().collect::<Vec<_>>(), expected[..2]);
        assert_eq!(
            (outgoing.key, outgoing.value, outgoing.timestamp()),
            (Some(b"hashed".as_slice()), None, (1, true))
        );
    }
}
