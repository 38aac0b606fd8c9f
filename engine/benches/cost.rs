//! A search for records that take more than two seconds: paths and events at random, events grown
//! to 8 MB (fuzz/checks/cost.rs). Needs no cargo-fuzz.
//!
//! `cargo bench -p veilstream-engine --bench cost -- 60` searches for a minute; `RFC_SEED` begins
//! elsewhere.
#![allow(clippy::print_stdout, missing_docs, clippy::unwrap_used, reason = "a bench")]

#[allow(unused_imports, reason = "one check of several")]
#[path = "../../fuzz/checks/lib.rs"]
mod checks;
#[path = "../tests/rfc/mod.rs"]
mod rfc;

use std::time::{Duration, Instant};

use rfc::Random;

/// What comes beside a path.
const KINDS: [&str; 6] = [
    "",
    r#","index":{"normalize":"exact"}"#,
    r#","index":{"normalize":"phone-us","into":"i"}"#,
    r#","protect":"hash","index":{"normalize":"text"}"#,
    r#","protect":"drop""#,
    r#","protect":"redact""#,
];

fn main() {
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(10);
    let first: u64 = std::env::var("RFC_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let started = Instant::now();
    let (mut tried, mut protected, mut failed, mut largest, mut slowest) =
        (0_u64, 0_u64, 0, 0, (Duration::ZERO, String::new()));
    while started.elapsed() < Duration::from_secs(seconds) {
        let mut random = Random::new(first + tried);
        let count = [1, 1, 3, 20][random.below(4)];
        let fields: Vec<String> = (0..count)
            .map(|i| {
                let query = random.query();
                let path = random
                    .spell(&query)
                    .replacen('$', ["$.x[*]", "$..x", "$.", "$..", "$"][random.below(5)], 1)
                    .replace("...", "..");
                format!(
                    r#"{{"id":"f{i}","path":{}{}}}"#,
                    serde_json::to_string(&path).unwrap(),
                    KINDS[random.below(KINDS.len())]
                )
            })
            .filter(|field| {
                let document =
                    format!(r#"{{"veilstream":1,"name":"t","version":1,"fields":[{field}]}}"#);
                veilstream_engine::compile::compile(
                    document.as_bytes(),
                    &veilstream_engine::compile::Grants::local(),
                )
                .is_ok()
            })
            .collect();
        let event = random.document();
        let input = format!("{}{}\n{}", random.below(6), fields.join(","), random.write(&event));
        // A failure names its seed.
        let Ok(cost) = std::panic::catch_unwind(|| checks::costs(input.as_bytes())) else {
            println!("FAILED, RFC_SEED={}: {input}", first + tried);
            (failed, tried) = (failed + 1, tried + 1);
            continue;
        };
        if let Some(cost) = cost {
            protected += u64::from(cost.protected);
            largest = largest.max(cost.room);
            if cost.time > slowest.0 {
                slowest = (cost.time, input);
            }
        }
        tried += 1;
    }
    println!(
        "{tried} cases from seed {first} on, {protected} of them protected; the largest took {} \
        MiB, the slowest {:?}:\n{}",
        largest >> 20,
        slowest.0,
        slowest.1
    );
    assert_eq!(failed, 0, "some took too long or too much room");
}
