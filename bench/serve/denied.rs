//! Whether a denied caller learns something from the time of an answer: 10,000 requests each about
//! a value that is there, one whose person was erased, one that is corrupt, and none at all.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use crate::connection::Request;

/// Requests of each kind.
const REQUESTS: usize = 10_000;

/// Asks in turns and prints the distributions. `present` and `erased` are records alike but for
/// their person; nothing of what they hold may be read by anyone who holds `key`.
pub(crate) fn compare(address: &str, key: &str, present: &Value, erased: &Value) {
    let token = present["customer"]["email"].as_str().unwrap();
    let (mut corrupt, mut absent) = (present.clone(), present.clone());
    // The same length everywhere, or the caller's own bytes would take another time.
    let other = if token.ends_with('A') { "B" } else { "A" };
    corrupt["customer"]["email"] = format!("{}{other}", &token[..token.len() - 1]).into();
    let members = absent["customer"].as_object_mut().unwrap();
    let value = members.remove("email").unwrap();
    members.insert("emaix".to_owned(), value);
    let kinds =
        [("present", present), ("erased", erased), ("corrupt", &corrupt), ("absent", &absent)];
    let requests = kinds.map(|(_, record)| {
        let items =
            json!([{ "id": 1, "schema": "customers", "fields": ["email"], "record": record }]);
        let body = json!({ "purpose": "support", "items": items }).to_string();
        Request::post(address, "/v1/reveal", &format!("Authorization: Bearer {key}"), &body)
    });
    let mut connection = requests[0].connect();
    let answer = connection.ask(&requests[0]).to_vec();
    let mut times: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let mut order = 0x9e37_79b9_u32;
    for round in 0..REQUESTS + 200 {
        // Another order each round, so that nothing always follows the same.
        order ^= order << 13;
        order ^= order >> 17;
        order ^= order << 5;
        for n in 0..kinds.len() {
            let kind = (n + order as usize) % kinds.len();
            let start = Instant::now();
            let same = connection.ask(&requests[kind]) == answer;
            let time = start.elapsed().as_secs_f64() * 1e6;
            assert!(same, "{} is answered in other bytes", kinds[kind].0);
            if round >= 200 {
                times.entry(kind).or_default().push(time);
            }
        }
    }
    times.values_mut().for_each(|times| times.sort_by(f64::total_cmp));
    // Two samples of one distribution differ by more than this once in a hundred times.
    let limit = 1.628 * (2.0 / REQUESTS as f64).sqrt();
    println!("\n| {REQUESTS} denied requests each | median | p95 | p99 | KS to the first |");
    println!("|---|---|---|---|---|");
    for (kind, (name, _)) in kinds.iter().enumerate() {
        let of = |part: f64| times[&kind][(REQUESTS as f64 * part) as usize];
        let ks = kolmogorov_smirnov(&times[&0], &times[&kind]);
        println!(
            "| {name} | {:.0} us | {:.0} us | {:.0} us | {ks:.4} |",
            of(0.5),
            of(0.95),
            of(0.99)
        );
    }
    println!("Equal distributions stay below a KS of {limit:.4} in 99 of 100 runs.");
}

/// The largest distance of two distributions, from sorted samples.
fn kolmogorov_smirnov(a: &[f64], b: &[f64]) -> f64 {
    let (mut i, mut j, mut most) = (0, 0, 0.0_f64);
    while i < a.len() && j < b.len() {
        let at = a[i].min(b[j]);
        i += a[i..].iter().take_while(|x| **x <= at).count();
        j += b[j..].iter().take_while(|x| **x <= at).count();
        most = most.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    most
}
