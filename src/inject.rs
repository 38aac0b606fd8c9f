//! Faults that tests ask a running process for. A release build refuses this feature.

#[cfg(not(debug_assertions))]
compile_error!("the feature `inject` plants faults for tests; build without it");

use std::sync::LazyLock;
use std::time::Duration;

use veilstream_engine::record::Record;

/// A record whose value contains this text makes the engine panic.
static PANIC: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| {
    std::env::var("VEILSTREAM_INJECT_ENGINE_PANIC")
        .ok()
        .filter(|t| !t.is_empty())
        .map(String::into_bytes)
});

/// The number that an environment variable has.
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Waits between a move of partitions and the word to their lane, for the milliseconds of the
/// environment variable `VEILSTREAM_INJECT_SLOW_MOVE`.
pub(crate) fn slow_move() {
    if let Some(ms) = number("VEILSTREAM_INJECT_SLOW_MOVE") {
        std::thread::sleep(Duration::from_millis(ms));
    }
}

/// Panics where the environment variable `VEILSTREAM_INJECT_ENGINE_PANIC` says so.
#[allow(clippy::panic, reason = "what it is for")]
pub(crate) fn engine_panic(record: &Record<'_>) {
    if let (Some(text), Some(value)) = (&*PANIC, record.value)
        && value.windows(text.len()).any(|window| window == text)
    {
        panic!("injected");
    }
}

/// How long a stream of the reading service lasts, in seconds of the environment variable
/// `VEILSTREAM_INJECT_STREAM_SECONDS`. `None`: as always.
#[cfg(feature = "serve")]
pub(crate) fn stream_life() -> Option<Duration> {
    number("VEILSTREAM_INJECT_STREAM_SECONDS").map(Duration::from_secs)
}
