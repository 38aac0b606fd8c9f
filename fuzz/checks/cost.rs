//! What a record may cost: time and room, whatever the event and the schema are.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use veilstream_engine::RejectCode;
use veilstream_engine::compile::{Grants, SchemaSet, compile};
use veilstream_engine::record::Output;
use veilstream_engine::transform::{Outcome, Transformer};

use super::support::{OsRandom, keyring, value_record};

/// The longest event that is made, in bytes.
const LARGEST: usize = 8 << 20;
/// The longest a record may take, in time of the processor.
const SLOWEST: Duration = Duration::from_secs(2);
/// The most room that a record may need at one time, in bytes, with what comes of it.
const LARGEST_ROOM: u64 = 512 << 20;
/// A debug build's time is no measure.
const MARGIN: u32 = if cfg!(debug_assertions) { 30 } else { 1 };

/// What a record took.
pub struct Cost {
    pub time: Duration,
    /// Bytes at one time.
    pub room: u64,
    pub protected: bool,
}

/// Input: how the event grows (one byte), a schema document without its frame (its fields), a line
/// feed, an event. The event is made as large as it may be: its text stands many times in a list,
/// or as deep as a document may be, or many times as members. Whether the record was protected.
pub fn cost(data: &[u8]) -> bool {
    costs(data).is_some_and(|cost| cost.protected)
}

/// [`cost`] in figures; `None` when the input is no schema and event.
pub fn costs(data: &[u8]) -> Option<Cost> {
    let (how, rest) = data.split_first()?;
    let line = rest.iter().position(|b| *b == b'\n')?;
    let (fields, event) =
        (std::str::from_utf8(&rest[..line]).ok()?, std::str::from_utf8(&rest[line + 1..]).ok()?);
    let document = format!(r#"{{"veilstream":1,"name":"t","version":1,"fields":[{fields}]}}"#);
    let compiled = compile(document.as_bytes(), &Grants::local()).ok()?;
    let schemas = SchemaSet::new(vec![std::sync::Arc::new(compiled.schema)]).ok()?;
    // A debug build replays seeds only to see that they come to something.
    let largest = if cfg!(debug_assertions) { LARGEST / 64 } else { LARGEST };
    let event = grown(*how, event.trim(), largest);
    let (mut transformer, mut out) = (Transformer::new(Box::new(OsRandom)), Output::default());
    let keys = keyring("t");
    let mut time = Duration::MAX;
    let (mut room, mut outcome) = (0, None);
    // Once more where it was slow: processors that share a cache make one another slow.
    for _ in 0..3 {
        let started = processor_time();
        let used = measure(|| {
            outcome = Some(transformer.transform(
                &schemas,
                &keys,
                &value_record(event.as_bytes()),
                &mut out,
            ))
        });
        time = time.min(processor_time() - started);
        room = room.max(used.bytes_max);
        if time < SLOWEST / 2 {
            break;
        }
    }
    assert!(
        time < SLOWEST * MARGIN,
        "{time:?} for {} bytes under {document}: {outcome:?}",
        event.len()
    );
    assert!(
        room < LARGEST_ROOM,
        "{} MiB for {} bytes under {document}: {outcome:?}",
        room >> 20,
        event.len()
    );
    let protected = matches!(outcome, Some(Outcome::Protected(_)));
    if let Some(Outcome::Rejected(reject)) = outcome {
        assert_ne!(reject.code, RejectCode::Internal);
    }
    Some(Cost { time, room, protected })
}

/// What this thread had of the processor, whatever else runs on the machine. Where the system does
/// not tell it, the time on the wall.
fn processor_time() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|told| told.split(' ').next()?.parse().ok());
    nanoseconds.map_or_else(|| START.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}

/// The event, many times over.
fn grown(how: u8, event: &str, largest: usize) -> String {
    let times = (largest / (event.len() + 8)).max(1);
    match how.wrapping_sub(b'0') % 6 {
        0 => event.to_owned(),
        // In a list where paths look for one.
        1 => format!(r#"{{"x":[{}]}}"#, vec![event; times].join(",")),
        // As members of one object.
        2 => format!(
            r#"{{"x":{{{}}}}}"#,
            (0..times).map(|i| format!("\"{i:x}\":{event}")).collect::<Vec<_>>().join(",")
        ),
        // A list in a list, as deep as may be, with the event beside every level, many times.
        3 => {
            let levels = 100;
            let one = format!(
                "{}{event}{}",
                format!(r#"{{"a":{event},"x":["#).repeat(levels / 2),
                "]}".repeat(levels / 2)
            );
            format!(
                r#"{{"x":[{}]}}"#,
                vec![one.as_str(); (largest / (one.len() + 1)).max(1)].join(",")
            )
        }
        // One long text, the event's own again and again.
        4 => {
            let text: String = event.chars().filter(|c| c.is_alphanumeric() || *c == ' ').collect();
            let text = text.repeat(largest / text.len().max(1));
            format!(r#"{{"x":[{{"a":"{text}","k":"{text}"}},{event}],"k":"{text}"}}"#)
        }
        // Two equal halves.
        _ => {
            let half = vec![event; times / 2].join(",");
            format!(r#"{{"x":[{{"k":[{half}],"l":[{half}],"a":1}}],"k":[{half}]}}"#)
        }
    }
}
