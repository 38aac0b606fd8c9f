//! What an event takes at one time: at most twenty times its own size.
#![allow(clippy::unwrap_used, reason = "a test")]

mod growth;
mod support;

use allocation_counter::measure;
use growth::{KINDS, event};
use support::value_record;
use veilstream_engine::transform::Outcome;

const MOST: u64 = 20;

#[test]
fn an_event_takes_at_most_twenty_times_its_size() {
    for kind in &KINDS {
        for bytes in [16 << 10, 256 << 10] {
            let event = event(bytes, 10);
            let mut bench = growth::bench(kind, 10);
            let used = measure(|| {
                assert!(matches!(
                    bench.record(&value_record(event.as_bytes())),
                    Outcome::Protected(_)
                ))
            });
            let most = used.bytes_max / event.len() as u64;
            assert!(
                (2..MOST).contains(&most),
                "{} of {bytes} bytes takes {most} times its size",
                kind.0
            );
        }
    }
}
