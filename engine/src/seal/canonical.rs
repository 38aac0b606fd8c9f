//! Canonical JSON (RFC 8785) for deterministic fields, with the stricter rules of docs/formats.md.

use crate::scan::{Kind, Tape, canonical_escapes};

/// Largest integer whose double is exact: 2^53 - 1.
const MAX_SAFE: u64 = (1 << 53) - 1;

/// Writes the canonical form of the JSON text `text` to `out`, or says `false` for what is outside the rules: a number that is no integer within
/// plus or minus 2^53 - 1, `-0`, a duplicate member, a lone surrogate, or no JSON text at all.
pub fn canonical_json(text: &[u8], tape: &mut Tape, out: &mut Vec<u8>) -> bool {
    out.clear();
    if tape.scan(text).is_err() || !tape.nodes().iter().all(|n| allowed(n.kind, &text[n.span()])) {
        return false;
    }
    if let [scalar] = tape.nodes()
        && !scalar.is_container()
    {
        return canonical_scalar(scalar.kind, &text[scalar.span()], out);
    }
    // Members are checked by name, so that a duplicate cannot hide in a different spelling.
    if tape.any_duplicate_member(text) || tape.any_lone_surrogate(text) {
        return false;
    }
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(text) else { return false };
    match serde_json_canonicalizer::to_vec(&value) {
        Ok(bytes) => {
            out.extend_from_slice(&bytes);
            true
        }
        Err(_) => false,
    }
}

/// A scalar is its own canonical form, but for the escapes of a string. No allocation: most deterministic fields are scalars.
fn canonical_scalar(kind: Kind, text: &[u8], out: &mut Vec<u8>) -> bool {
    if kind != Kind::String {
        out.extend_from_slice(text);
        return true;
    }
    out.push(b'"');
    let whole = canonical_escapes(&text[1..text.len() - 1], out);
    out.push(b'"');
    whole
}

fn allowed(kind: Kind, text: &[u8]) -> bool {
    kind != Kind::Number || is_safe_integer(text)
}

fn is_safe_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if text == b"-0" || digits.len() > 16 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let value = digits.iter().fold(0_u64, |n, d| n * 10 + u64::from(d - b'0'));
    value <= MAX_SAFE
}
