//! What the fuzz targets check. Each check takes arbitrary bytes, panics where the engine is wrong,
//! and otherwise says whether the bytes came to anything.
//!
//! `engine/tests/fuzz.rs` runs the same functions over `fuzz/seeds` and `fuzz/found` under plain
//! `cargo test`, so that they stay true and compile.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::must_use_candidate,
    reason = "a test"
)]

mod cost;
mod normalisers;
mod oracle;
mod round_trip;
mod scanner;
mod scanner_reference;
mod schemas;
mod selection;
#[path = "../../engine/tests/support/mod.rs"]
mod support;
mod tokens;

pub use cost::cost;
#[allow(unused_imports, reason = "of the bench alone")]
pub use cost::costs;
pub use normalisers::normalisers;
pub use round_trip::round_trip;
pub use scanner::scanner;
pub use scanner_reference::scanner_reference;
pub use schemas::schemas;
pub use selection::selection;
pub use tokens::tokens;

/// The engine holds panics of the crate `phonenumber` to be numbers that do not parse. libFuzzer's
/// hook would end the process at the first one, so it is replaced: what nobody catches still ends
/// the process, in libFuzzer's own net.
pub fn quiet_guarded_panics() {
    let print = std::panic::take_hook();
    drop(print);
    std::panic::set_hook(Box::new(|panic| {
        let guarded = panic.location().is_some_and(|at| at.file().contains("phonenumber"));
        if !guarded {
            eprintln!("{panic}\n{}", std::backtrace::Backtrace::force_capture());
        }
    }));
}

/// The first line, and what comes after it.
fn first_line(data: &[u8]) -> Option<(&str, &[u8])> {
    let end = data.iter().position(|b| *b == b'\n')?;
    Some((std::str::from_utf8(&data[..end]).ok()?, &data[end + 1..]))
}
