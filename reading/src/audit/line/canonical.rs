//! A line in its canonical form, written in one pass: its members in the order of their names. A
//! line is written for each data subject of a request, and sorting it took most of its time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::hex::Hex;
use super::{Entry, Event, LedgerHead, Line, Predecessor};

/// The members of a line, in the order of RFC 8785.
#[derive(Serialize)]
struct Members<'l> {
    #[serde(skip_serializing_if = "is_none")]
    actor: &'l Option<String>,
    #[serde(skip_serializing_if = "is_none")]
    attempt: &'l Option<u64>,
    #[serde(skip_serializing_if = "is_none")]
    auth: &'l Option<String>,
    chain: &'l Hex<16>,
    #[serde(skip_serializing_if = "is_none")]
    credential: &'l Option<String>,
    event: Event,
    #[serde(skip_serializing_if = "is_empty_map")]
    fields: &'l BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_none")]
    from: &'l Option<u64>,
    #[serde(skip_serializing_if = "is_none")]
    ip: &'l Option<String>,
    #[serde(skip_serializing_if = "is_none")]
    items: &'l Option<u64>,
    #[serde(skip_serializing_if = "is_none")]
    k1: &'l Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    kids: &'l [Hex<16>],
    #[serde(skip_serializing_if = "is_none")]
    ledger: &'l Option<LedgerHead>,
    mac: &'l Hex<32>,
    #[serde(skip_serializing_if = "is_none")]
    on_behalf_of: &'l Option<String>,
    #[serde(skip_serializing_if = "is_none")]
    outcome: &'l Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    policies: &'l [String],
    #[serde(skip_serializing_if = "is_none")]
    policy: &'l Option<Hex<32>>,
    #[serde(skip_serializing_if = "is_none")]
    predecessor: &'l Option<Predecessor>,
    prev: &'l Hex<32>,
    #[serde(skip_serializing_if = "is_none")]
    purpose: &'l Option<String>,
    #[serde(skip_serializing_if = "is_none")]
    query_id: &'l Option<String>,
    #[serde(skip_serializing_if = "is_none")]
    reason: &'l Option<String>,
    #[serde(skip_serializing_if = "is_none")]
    request_id: &'l Option<String>,
    #[serde(skip_serializing_if = "is_none")]
    root: &'l Option<Hex<32>>,
    #[serde(skip_serializing_if = "is_none")]
    schema: &'l Option<String>,
    seq: u64,
    #[serde(skip_serializing_if = "is_none")]
    signature: &'l Option<Hex<64>>,
    #[serde(skip_serializing_if = "is_none")]
    signer: &'l Option<Hex<16>>,
    #[serde(skip_serializing_if = "is_none")]
    subject: &'l Option<Hex<16>>,
    #[serde(skip_serializing_if = "is_none")]
    subjects: &'l Option<u64>,
    #[serde(skip_serializing_if = "is_none")]
    subjects_sha256: &'l Option<Hex<32>>,
    time: &'l str,
    v: u8,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference to the member")]
fn is_none<T>(member: &&Option<T>) -> bool {
    member.is_none()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference to the member")]
fn is_empty_map(member: &&BTreeMap<String, String>) -> bool {
    member.is_empty()
}

/// Appends the canonical form.
pub(super) fn write(line: &Line, out: &mut Vec<u8>) {
    let from = out.len();
    // RFC 8785 sorts names by UTF-16, which is another order where they are not ASCII.
    let written = if line.entry.fields.keys().any(|name| !name.is_ascii()) {
        serde_json_canonicalizer::to_writer(line, out)
    } else {
        serde_json::to_writer(&mut *out, &Members::of(line))
    };
    // Texts and small numbers: nothing that could fail.
    if written.is_err() {
        out.truncate(from);
    }
}

impl<'l> Members<'l> {
    /// Takes every member there is: one that is added to a line does not compile until it is here.
    fn of(line: &'l Line) -> Self {
        let Line {
            v,
            chain,
            seq,
            time,
            entry,
            k1,
            predecessor,
            from,
            root,
            signer,
            signature,
            prev,
            mac,
        } = line;
        let Entry {
            event,
            actor,
            on_behalf_of,
            auth,
            credential,
            subject,
            schema,
            fields,
            purpose,
            reason,
            ip,
            request_id,
            query_id,
            attempt,
            items,
            subjects,
            subjects_sha256,
            kids,
            policy,
            policies,
            outcome,
            ledger,
            bulk: _,
        } = entry;
        Self {
            actor,
            attempt,
            auth,
            chain,
            credential,
            event: *event,
            fields,
            from,
            ip,
            items,
            k1,
            kids,
            ledger,
            mac,
            on_behalf_of,
            outcome,
            policies,
            policy,
            predecessor,
            prev,
            purpose,
            query_id,
            reason,
            request_id,
            root,
            schema,
            seq: *seq,
            signature,
            signer,
            subject,
            subjects,
            subjects_sha256,
            time,
            v: *v,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts() -> impl Strategy<Value = Vec<Option<String>>> {
        prop::collection::vec(prop::option::of(any::<String>()), 13)
    }

    proptest! {
        /// What the specification's own implementation writes.
        #[test]
        fn it_is_that_of_rfc_8785(
            texts in texts(),
            names in prop::collection::btree_map("[ -~é𐀀\u{e000}]{0,6}", any::<String>(), 0..4),
            numbers in prop::collection::vec(prop::option::of(0..1_u64 << 53), 4),
            bytes in any::<[u8; 32]>(),
            has in any::<[bool; 8]>(),
            policies in prop::collection::vec(any::<String>(), 0..3),
        ) {
            let short: [u8; 16] = bytes[..16].try_into().unwrap();
            let mut texts = texts.into_iter();
            let mut text = || texts.next().flatten();
            let entry = Entry {
                actor: text(),
                on_behalf_of: text(),
                auth: text(),
                credential: text(),
                schema: text(),
                purpose: text(),
                reason: text(),
                ip: text(),
                request_id: text(),
                query_id: text(),
                outcome: text(),
                attempt: numbers[0],
                items: numbers[1],
                subjects: numbers[2],
                subjects_sha256: has[0].then_some(Hex(bytes)),
                subject: has[1].then_some(Hex(short)),
                policy: has[2].then_some(Hex(bytes)),
                kids: if has[3] { vec![Hex(short); 2] } else { Vec::new() },
                ledger: has[4].then_some(LedgerHead {
                    seq: 7,
                    sha256: Hex(bytes),
                    store: Hex(short),
                }),
                fields: names,
                policies,
                ..Entry::new(Event::Reveal)
            };
            let mut line = Line::new(short, 5, "2026-11-28T11:00:02Z", bytes, entry);
            (line.k1, line.from) = (text(), numbers[3]);
            line.predecessor = has[5].then_some(Predecessor {
                chain: Hex(short),
                seq: 3,
                sha256: Hex(bytes),
                torn: has[6],
            });
            line.root = has[7].then_some(Hex(bytes));
            line.signer = has[6].then_some(Hex(short));
            line.signature = has[6].then_some(Hex([3; 64]));
            let expected = serde_json_canonicalizer::to_vec(&line).unwrap();
            prop_assert_eq!(line.to_bytes(), expected);
        }
    }
}
