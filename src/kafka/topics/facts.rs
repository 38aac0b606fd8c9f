//! What brokers say of a topic.

use std::fmt;

use crate::kafka::ffi::admin::{TopicMetadata, TopicSetting};

/// Kafka's defaults, where the brokers do not tell.
pub(super) const MAX_MESSAGE_BYTES: usize = 1_048_588;
pub(super) const AHEAD_MS: i64 = 3_600_000;
pub(super) const RETENTION_MS: i64 = 7 * 86_400_000;
/// Kafka's own id of a topic: another one under the same name is another topic.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicUuid([u8; 16]);

impl TopicUuid {
    /// `None` for zeros, which old brokers send.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }
}

impl fmt::Display for TopicUuid {
    /// As Kafka's tools print it: base64url without padding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = u128::from_be_bytes(self.0);
        for digit in 0..22 {
            // 128 bits are 21 digits and a third: the last two bits stand on the left of the last
            // digit.
            let value = if digit < 21 { bits >> (122 - 6 * digit) } else { bits << 4 } & 63;
            write!(f, "{}", char::from(DIGITS[value as usize]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How much a topic keeps; a limit of -1 is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// `retention.ms`
    pub ms: i64,
    /// `retention.bytes`, of each partition.
    pub bytes: i64,
}

impl Retention {
    /// Everything, for ever.
    pub const UNLIMITED: Self = Self { ms: -1, bytes: -1 };

    /// The larger limits of both.
    #[must_use]
    pub fn larger(self, other: Self) -> Self {
        let larger = |a: i64, b: i64| if a < 0 || b < 0 { -1 } else { a.max(b) };
        Self { ms: larger(self.ms, other.ms), bytes: larger(self.bytes, other.bytes) }
    }
}

/// What is known of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFacts {
    /// `None` on brokers older than Kafka 2.8.
    pub id: Option<TopicUuid>,
    /// How many partitions it has.
    pub partitions: i32,
    /// How many replicas the partition with the fewest has.
    pub replicas: usize,
    /// Largest batch it takes.
    pub max_message_bytes: usize,
    /// It takes no null keys, and forgets all but the last record of a key.
    pub compacted: bool,
    /// It forgets records by age and size.
    pub deletes: bool,
    /// When it forgets them, where it does.
    pub retention: Retention,
    /// What `retention` would be if the topic itself said nothing.
    pub cluster_retention: Retention,
    /// `min.insync.replicas`
    pub min_in_sync: usize,
    /// `max.compaction.lag.ms`
    pub max_compaction_lag_ms: u64,
    /// How far ahead of now a timestamp may be, in milliseconds.
    pub ahead_ms: i64,
    /// The broker writes its own timestamps.
    pub log_append_time: bool,
    /// Its settings could not be read: Kafka's defaults stand here.
    pub assumed: bool,
}

impl TopicFacts {
    /// What stays in it: everything, unless it deletes.
    #[must_use]
    pub fn keeps(&self) -> Retention {
        if self.deletes { self.retention } else { Retention::UNLIMITED }
    }

    /// `cleanup.policy`, as Kafka writes it.
    #[must_use]
    pub fn cleanup_policy(&self) -> &'static str {
        match (self.compacted, self.deletes) {
            (true, true) => "compact,delete",
            (true, false) => "compact",
            _ => "delete",
        }
    }

    pub(super) fn new(metadata: &TopicMetadata, settings: Option<&[TopicSetting]>) -> Self {
        let find = |name: &str| settings.unwrap_or_default().iter().find(|s| s.name == name);
        let value = |name: &str| find(name).map(|s| s.value.as_str());
        let number = |name: &str| value(name).and_then(|v| v.parse::<i64>().ok());
        let cleanup = value("cleanup.policy").unwrap_or("delete");
        let has = |policy: &str| cleanup.split(',').any(|p| p.trim() == policy);
        let inherited = |name: &str| {
            find(name)
                .and_then(|s| s.inherited.iter().find_map(|(name, value)| in_unit(name, value)))
        };
        let retention = Retention {
            ms: number("retention.ms").unwrap_or(RETENTION_MS),
            bytes: number("retention.bytes").unwrap_or(-1),
        };
        Self {
            id: TopicUuid::new(metadata.id),
            partitions: i32::try_from(metadata.replicas.len()).unwrap_or(i32::MAX),
            replicas: metadata.replicas.iter().min().copied().unwrap_or(0),
            max_message_bytes: value("max.message.bytes")
                .and_then(|v| v.parse().ok())
                .unwrap_or(MAX_MESSAGE_BYTES),
            compacted: has("compact"),
            deletes: has("delete"),
            retention,
            cluster_retention: Retention {
                ms: inherited("retention.ms").unwrap_or(RETENTION_MS),
                bytes: inherited("retention.bytes").unwrap_or(-1),
            },
            min_in_sync: value("min.insync.replicas").and_then(|v| v.parse().ok()).unwrap_or(0),
            max_compaction_lag_ms: value("max.compaction.lag.ms")
                .and_then(|v| v.parse().ok())
                .unwrap_or(u64::MAX),
            ahead_ms: number("message.timestamp.after.max.ms").unwrap_or(AHEAD_MS),
            log_append_time: value("message.timestamp.type").is_some_and(|v| v == "LogAppendTime"),
            assumed: settings.is_none(),
        }
    }
}

/// A broker's setting in the unit of the topic's: brokers have `log.retention.hours` and `.minutes`
/// too.
pub(super) fn in_unit(name: &str, value: &str) -> Option<i64> {
    let number: i64 = value.parse().ok()?;
    let factor = if name.ends_with(".hours") {
        3_600_000
    } else if name.ends_with(".minutes") {
        60_000
    } else {
        1
    };
    Some(if number < 0 { -1 } else { number.saturating_mul(factor) })
}
