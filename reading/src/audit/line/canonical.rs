//! A line in its canonical form (RFC 8785), written in one pass: its members in the order of their
//! names. A line is written for each data subject of a request, and sorting it took most of its
//! time.

use std::collections::BTreeMap;
use std::io::Write as _;

use veilstream_keys::erasure::write_hex;

use super::super::hex::Hex;
use super::{Entry, LedgerHead, Line, Predecessor, SubjectPart};

/// Where values stand in a canonical line that only its place in a chain says. In this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::audit) struct Places {
    /// 32 digits.
    pub(in crate::audit) chain: usize,
    /// 64 digits.
    pub(in crate::audit) mac: usize,
    /// 64 digits.
    pub(in crate::audit) prev: usize,
    pub(super) seq: usize,
    pub(super) time: usize,
}

/// Where members of a [`SubjectPart`] would stand in a line without them.
#[derive(Clone, Copy)]
struct Gaps {
    fields: usize,
    items: usize,
    outcome: usize,
    subject: usize,
}

/// Appends the canonical form; where those values stand, from its first byte on.
pub(super) fn write(line: &Line, out: &mut Vec<u8>) -> Places {
    write_with_gaps(line, out).0
}

/// Appends a line for each part, the rest of which is that of `line`, which has nothing of what parts
/// have; where each ends. What they share is written once and copied.
pub(super) fn write_each(
    line: &Line,
    parts: &[SubjectPart],
    out: &mut Vec<u8>,
) -> Vec<(usize, Places)> {
    let mut shared = Vec::new();
    let (places, gaps) = write_with_gaps(line, &mut shared);
    let write = |part: &SubjectPart| {
        let SubjectPart { subject, fields, items, kids, outcome } = part;
        let begin = out.len();
        let mut to = Writer(out);
        to.0.extend_from_slice(&shared[..gaps.fields]);
        to.fields(fields);
        to.0.extend_from_slice(&shared[gaps.fields..gaps.items]);
        to.number("items", Some(*items));
        to.list("kids", kids, |to, kid| _ = to.hex_string(kid));
        let mac = to.0.len() - begin - gaps.items;
        to.0.extend_from_slice(&shared[gaps.items..gaps.outcome]);
        to.text("outcome", Some(outcome));
        let prev = to.0.len() - begin - gaps.outcome;
        to.0.extend_from_slice(&shared[gaps.outcome..gaps.subject]);
        to.hex("subject", subject.as_ref());
        let time = to.0.len() - begin - gaps.subject;
        to.0.extend_from_slice(&shared[gaps.subject..]);
        let places = Places {
            chain: places.chain,
            mac: places.mac + mac,
            prev: places.prev + prev,
            seq: places.seq + prev,
            time: places.time + time,
        };
        (out.len(), places)
    };
    parts.iter().map(write).collect()
}

fn write_with_gaps(line: &Line, out: &mut Vec<u8>) -> (Places, Gaps) {
    // Takes every member there is: one that is added to a line does not compile until it is here.
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
        each: _,
    } = entry;
    let start = out.len();
    let mut to = Writer(out);
    to.open();
    to.text("actor", actor.as_deref());
    to.number("attempt", *attempt);
    to.text("auth", auth.as_deref());
    let chain = to.digits("chain", chain);
    to.text("credential", credential.as_deref());
    to.text("event", Some(event.as_str()));
    let fields_at = to.0.len();
    to.fields(fields);
    to.number("from", *from);
    to.text("ip", ip.as_deref());
    let items_at = to.0.len();
    to.number("items", *items);
    to.text("k1", k1.as_deref());
    to.list("kids", kids, |to, kid| _ = to.hex_string(kid));
    to.ledger(ledger.as_ref());
    let mac = to.digits("mac", mac);
    to.text("on_behalf_of", on_behalf_of.as_deref());
    let outcome_at = to.0.len();
    to.text("outcome", outcome.as_deref());
    to.list("policies", policies, |to, id| to.string(id));
    to.hex("policy", policy.as_ref());
    to.predecessor(predecessor.as_ref());
    let prev = to.digits("prev", prev);
    to.text("purpose", purpose.as_deref());
    to.text("query_id", query_id.as_deref());
    to.text("reason", reason.as_deref());
    to.text("request_id", request_id.as_deref());
    to.hex("root", root.as_ref());
    to.text("schema", schema.as_deref());
    to.name("seq");
    let number = to.0.len();
    to.digit_text(*seq);
    to.hex("signature", signature.as_ref());
    to.hex("signer", signer.as_ref());
    let subject_at = to.0.len();
    to.hex("subject", subject.as_ref());
    to.number("subjects", *subjects);
    to.hex("subjects_sha256", subjects_sha256.as_ref());
    to.name("time");
    let begin = to.0.len() + 1;
    to.string(time);
    to.number("v", Some((*v).into()));
    to.close();
    let places = Places {
        chain: chain - start,
        mac: mac - start,
        prev: prev - start,
        seq: number - start,
        time: begin - start,
    };
    let gaps = Gaps {
        fields: fields_at - start,
        items: items_at - start,
        outcome: outcome_at - start,
        subject: subject_at - start,
    };
    (places, gaps)
}

/// Appends members. Those that are `None` or empty are left out.
struct Writer<'o>(&'o mut Vec<u8>);

impl Writer<'_> {
    fn open(&mut self) {
        self.0.push(b'{');
    }

    fn close(&mut self) {
        self.0.push(b'}');
    }

    /// A name of ours, which needs no escapes.
    fn name(&mut self, name: &str) {
        self.comma();
        self.0.push(b'"');
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn comma(&mut self) {
        if !matches!(self.0.last(), Some(b'{' | b'[')) {
            self.0.push(b',');
        }
    }

    fn text(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.name(name);
            self.string(value);
        }
    }

    fn number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.name(name);
            self.digit_text(value);
        }
    }

    fn hex<const N: usize>(&mut self, name: &str, value: Option<&Hex<N>>) {
        if let Some(value) = value {
            self.digits(name, value);
        }
    }

    /// Where the digits begin.
    fn digits<const N: usize>(&mut self, name: &str, value: &Hex<N>) -> usize {
        self.name(name);
        self.hex_string(value)
    }

    fn hex_string<const N: usize>(&mut self, value: &Hex<N>) -> usize {
        self.0.push(b'"');
        let from = self.0.len();
        self.0.resize(from + 2 * N, 0);
        write_hex(&value.0, &mut self.0[from..]);
        self.0.push(b'"');
        from
    }

    fn string(&mut self, text: &str) {
        // No branch for each byte: most texts have nothing to escape.
        let is_special = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
        if text.bytes().fold(false, |any, byte| any | is_special(byte)) {
            // A text, and nothing that could fail.
            let _ = serde_json::to_writer(&mut *self.0, text);
        } else {
            self.0.push(b'"');
            self.0.extend_from_slice(text.as_bytes());
            self.0.push(b'"');
        }
    }

    fn digit_text(&mut self, number: u64) {
        // Memory, and nothing that could fail.
        let _ = write!(self.0, "{number}");
    }

    fn fields(&mut self, fields: &BTreeMap<String, String>) {
        if fields.is_empty() {
            return;
        }
        self.name("fields");
        self.open();
        let mut sorted: Vec<_> = fields.iter().collect();
        // RFC 8785 sorts names by UTF-16, which is another order where they are not ASCII.
        if fields.keys().any(|name| !name.is_ascii()) {
            sorted.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
        }
        for (name, status) in sorted {
            self.comma();
            self.string(name);
            self.0.push(b':');
            self.string(status);
        }
        self.close();
    }

    fn list<T>(&mut self, name: &str, values: &[T], write: impl Fn(&mut Self, &T)) {
        if values.is_empty() {
            return;
        }
        self.name(name);
        self.0.push(b'[');
        for value in values {
            self.comma();
            write(self, value);
        }
        self.0.push(b']');
    }

    fn ledger(&mut self, head: Option<&LedgerHead>) {
        if let Some(LedgerHead { seq, sha256, store }) = head {
            self.name("ledger");
            self.open();
            self.number("seq", Some(*seq));
            self.hex("sha256", Some(sha256));
            self.hex("store", Some(store));
            self.close();
        }
    }

    fn predecessor(&mut self, predecessor: Option<&Predecessor>) {
        if let Some(Predecessor { chain, seq, sha256, torn }) = predecessor {
            self.name("predecessor");
            self.open();
            self.hex("chain", Some(chain));
            self.number("seq", Some(*seq));
            self.hex("sha256", Some(sha256));
            if *torn {
                self.name("torn");
                self.0.extend_from_slice(b"true");
            }
            self.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Drafts, Event, mac_place};
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

            let part = SubjectPart {
                subject: line.entry.subject,
                fields: line.entry.fields.clone(),
                items: line.entry.items.unwrap_or(7),
                kids: line.entry.kids.clone(),
                outcome: "ok",
            };
            let whole = |part: &SubjectPart| Entry {
                subject: part.subject,
                fields: part.fields.clone(),
                items: Some(part.items),
                kids: part.kids.clone(),
                outcome: Some(part.outcome.to_owned()),
                ..line.entry.clone()
            };
            let parts = vec![part.clone(), SubjectPart { subject: None, outcome: "denied", ..part }];
            let alone: Drafts = parts.iter().map(whole).collect();
            let together: Drafts = [Entry { each: parts, ..line.entry.clone() }].into_iter().collect();
            prop_assert_eq!(together, alone);

            let plain = Line::new(short, 1 << 40, "2026-11-28T11:00:02Z", bytes, line.entry);
            let drafts: Drafts = [plain.entry.clone(), plain.entry.clone()].into_iter().collect();
            for draft in drafts.iter() {
                let mut written = Vec::new();
                let places = draft.write(plain.seq, &plain.time, &mut written);
                write_hex(&plain.chain.0, &mut written[places.chain..][..32]);
                write_hex(&plain.prev.0, &mut written[places.prev..][..64]);
                prop_assert_eq!(&written, &plain.to_bytes());
                prop_assert_eq!(Some(places.mac), mac_place(&written));
            }
        }
    }
}
