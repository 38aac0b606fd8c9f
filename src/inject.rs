//! Faults that tests ask a running process for. A release build refuses this feature.

#[cfg(not(debug_assertions))]
compile_error!("the feature `inject` plants faults for tests; build without it");

use std::sync::LazyLock;

use veilstream_engine::record::Record;

/// A record whose value contains this text makes the engine panic.
static PANIC: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| {
    std::env::var("VEILSTREAM_INJECT_ENGINE_PANIC")
        .ok()
        .filter(|t| !t.is_empty())
        .map(String::into_bytes)
});

/// Panics where the environment variable `VEILSTREAM_INJECT_ENGINE_PANIC` says so.
#[allow(clippy::panic, reason = "what it is for")]
pub(crate) fn engine_panic(record: &Record<'_>) {
    if let (Some(text), Some(value)) = (&*PANIC, record.value)
        && value.windows(text.len()).any(|window| window == text)
    {
        panic!("injected");
    }
}
