//! The way back: a protected record in, the original out, at the paths the schema declares and
//! nowhere else.

mod answered;
mod bare;
mod disclose;
mod interop;
mod paths;
mod references;
mod report;

use std::sync::Arc;

pub use answered::{Answered, Answers, ProtectedPlace};
pub use bare::BareToken;
pub use disclose::{
    Decision, Disclosed, Disclosure, DisclosureOptions, FetchedKeys, FoundToken, HeldKeys, Place,
    ReadStatus,
};
pub use report::{Report, Status};

use references::References;

use crate::binding::Binding;
use crate::budget::Budget;
use crate::error::{OpenError, Reject};
use crate::index_member::Strip;
use crate::kdf;
use crate::key::{Key, KeyId, Scope, SubjectRef};
use crate::keyring::Keyring;
use crate::scan::{self, Kind, NO_PARENT, Tape};
use crate::schema::{Field, PathId, Schema};
use crate::seal::{Expected, Opener, Owner, PayloadKind};
use crate::select::Selection;
use crate::splice::{Position, copy};
use crate::subject;
use crate::token::{self, PREFIX};
use crate::transform::value_clauses_hold;

/// What to reveal.
#[derive(Debug, Clone, Copy, Default)]
pub struct RevealOptions<'a> {
    /// Ids of the fields to open; `None`: all.
    pub fields: Option<&'a [String]>,
    /// Leave index members where they are.
    pub keep_indexes: bool,
}

impl RevealOptions<'_> {
    fn decision(&self, field: &Field) -> Decision {
        let is_asked = self.fields.is_none_or(|ids| ids.iter().any(|id| **id == *field.id));
        if is_asked { Decision::Reveal } else { Decision::Withhold }
    }
}

/// Where keys are found: in the batch's snapshot, else by id (a subject's, or one older than the
/// snapshot).
#[derive(Clone, Copy)]
pub struct KeySource<'a> {
    /// The snapshot.
    pub keyring: &'a Keyring,
    /// Finds what is not in it.
    pub lookup: &'a dyn Fn(&KeyId) -> Option<Arc<Key>>,
}

impl<'a> KeySource<'a> {
    /// The snapshot and nothing else.
    #[must_use]
    pub fn of(keyring: &'a Keyring) -> Self {
        Self { keyring, lookup: &|_| None }
    }

    fn get(&self, id: &KeyId) -> Option<Arc<Key>> {
        self.keyring.get(id).cloned().or_else(|| (self.lookup)(id))
    }
}

/// Reveals records, one after another; keeps buffers and key schedules.
#[derive(Default)]
pub struct Revealer {
    opener: Opener,
    /// Nothing is shown: what opens is sealed again, honey tokens too.
    is_sealing: bool,
    tape: Tape,
    selection: Selection,
    without_indexes: Vec<u8>,
    strip: Strip,
    scalar: Vec<u8>,
    references: References,
    binding: Binding,
    payload: Vec<u8>,
    masked: Vec<u8>,
}

/// Keys for the tokens of one record.
struct Keys<'a> {
    keyring: &'a Keyring,
    lookup: &'a dyn Fn(&KeyId) -> Option<Arc<Key>>,
}

/// What happens to the places of a record.
struct Rules<'a> {
    /// By index of the field in the schema.
    decide: &'a dyn Fn(usize, &Field) -> Decision,
    withheld: Withheld,
    /// Who says what the tokens hold, instead of keys.
    answers: Option<&'a dyn Answers>,
}

/// What stands where nothing is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Withheld {
    /// What stood there.
    Stays,
    /// `null`; `strict`: also for a value in clear.
    Null { strict: bool },
}

/// What became of one place, and by which key.
struct FoundPlace {
    field: usize,
    node: u32,
    status: Status,
    kid: Option<KeyId>,
    subject: Option<SubjectRef>,
    /// Where what is shown of it starts in the output.
    start: usize,
}

impl FoundPlace {
    fn new(field: usize, node: u32) -> Self {
        Self { field, node, status: Status::NoToken, kid: None, subject: None, start: 0 }
    }

    /// Remembers the key that was asked for.
    fn key(&mut self, kid: &KeyId, key: Option<Arc<Key>>) -> Option<Arc<Key>> {
        self.kid = Some(*kid);
        self.subject = key.as_ref().and_then(|key| match key.scope {
            Scope::Subject(subject) => Some(subject),
            _ => None,
        });
        key
    }
}

impl Revealer {
    /// Opens keys marked compromised too. Off unless the operator says so.
    pub fn allow_compromised(&mut self, allow: bool) {
        self.opener.allow_compromised = allow;
    }

    /// For anyone who seals records again and shows them to nobody: [`Revealer::reveal`] opens honey
    /// tokens too ([`Opener::open_to_seal`]) and reports them as revealed.
    pub fn open_to_seal(&mut self) {
        self.is_sealing = true;
    }

    /// Whether the conditions of `when` on the value hold: what they read stays in clear.
    /// Conditions on headers are taken as met.
    ///
    /// # Errors
    /// As [`Revealer::reveal`].
    pub fn claims(&mut self, schema: &Schema, doc: &[u8]) -> Result<bool, Reject> {
        let doc = &*schema.enveloped_value(doc);
        self.select(schema, doc)?;
        Ok(value_clauses_hold(schema, doc, &self.tape, &self.selection, &mut self.scalar))
    }

    /// Reveals a protected document into `out` (whose content is replaced): what was an envelope
    /// that the schema writes is the plain value again. A plain value, as a table has it, does too.
    ///
    /// # Errors
    /// [`Reject`] when the document is no JSON text, has a name twice on the way to a declared
    /// place or in what a filter reads, or takes too much work. A token that does not open is no
    /// error: it stays and `report` says why.
    pub fn reveal(
        &mut self,
        schema: &Schema,
        keys: KeySource<'_>,
        doc: &[u8],
        options: &RevealOptions<'_>,
        out: &mut Vec<u8>,
        report: &mut Report,
    ) -> Result<(), Reject> {
        let lookup = |id: &KeyId| keys.get(id);
        let keys = Keys { keyring: keys.keyring, lookup: &lookup };
        self.reveal_with(schema, &keys, None, doc, options, out, report)
    }

    /// [`Revealer::reveal`] with keys, or with what somebody else opened.
    #[allow(clippy::too_many_arguments, reason = "those of the two that share it")]
    fn reveal_with(
        &mut self,
        schema: &Schema,
        keys: &Keys<'_>,
        answers: Option<&dyn Answers>,
        doc: &[u8],
        options: &RevealOptions<'_>,
        out: &mut Vec<u8>,
        report: &mut Report,
    ) -> Result<(), Reject> {
        out.clear();
        report.fields.clear();
        report.unexpected_tokens = 0;
        report.honey.clear();
        let decide = |_: usize, field: &Field| options.decision(field);
        let rules = Rules { decide: &decide, withheld: Withheld::Stays, answers };
        let doc = schema.enveloped_value(doc);
        self.selected(schema, &doc, options.keep_indexes, |this, doc| {
            let Report { fields, unexpected_tokens, honey } = report;
            let is_sealing = this.is_sealing;
            let mut found = |place: FoundPlace| {
                let is_bait = is_sealing && place.status == Status::Honey;
                honey.extend(is_bait.then_some(place.start));
                fields.push((place.field, if is_bait { Status::Revealed } else { place.status }));
            };
            this.open_all(schema, keys, doc, &rules, out, &mut found);
            this.undeclared_tokens(schema, doc, &mut |_| *unexpected_tokens += 1);
        })?;
        schema.strip_envelope(out);
        Ok(())
    }

    /// Opens one bare token of the field with that cryptographic name; its payload replaces the
    /// content of `out`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        &mut self,
        name: &str,
        keys: KeySource<'_>,
        token: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<PayloadKind, OpenError> {
        let expected = Expected {
            fid: kdf::field_id(name),
            tenant: keys.keyring.tenant(),
            binding: None,
            owner: Owner::Any,
        };
        self.opener.open(token, &expected, |kid| keys.get(kid), out)
    }

    fn select(&mut self, schema: &Schema, doc: &[u8]) -> Result<(), Reject> {
        let scanned = self.tape.scan(doc);
        scanned.map_err(|e| Reject { offset: Some(e.offset), ..Reject::new(e.code) })?;
        let selected = schema.program.select_within(
            Budget::of_protected(doc.len()),
            doc,
            &self.tape,
            &mut self.selection,
        );
        selected.map_err(|e| Reject { offset: e.offset, ..Reject::new(e.code) })
    }

    /// Does `work` with the document that is selected from: without its indexes, but where they
    /// stay.
    fn selected(
        &mut self,
        schema: &Schema,
        doc: &[u8],
        keep_indexes: bool,
        work: impl FnOnce(&mut Self, &[u8]),
    ) -> Result<(), Reject> {
        self.select(schema, doc)?;
        if keep_indexes || self.strip.find(schema, doc, &self.tape, &self.selection) == 0 {
            work(self, doc);
            return Ok(());
        }
        let mut stripped = std::mem::take(&mut self.without_indexes);
        self.strip.cut(doc, &self.tape, &mut stripped);
        let selected = self.select(schema, &stripped);
        if selected.is_ok() {
            work(self, &stripped);
        }
        self.without_indexes = stripped;
        selected
    }

    /// Appends the selected document to `out`, each protected place by its rule.
    fn open_all(
        &mut self,
        schema: &Schema,
        keys: &Keys<'_>,
        doc: &[u8],
        rules: &Rules<'_>,
        out: &mut Vec<u8>,
        found: &mut dyn FnMut(FoundPlace),
    ) {
        let owner = self.owner(schema, keys.keyring, doc);
        let mut at = Position { copied: 0, leading: NO_PARENT };
        let mut covered_to = 0;
        for i in 0..self.selection.hits.len() {
            let hit = self.selection.hits[i];
            let Some(field) = schema.fields.get(usize::from(hit.path)) else { continue };
            if hit.node < covered_to {
                continue;
            }
            let node = self.tape.nodes()[hit.node as usize];
            covered_to = node.next;
            let text = if node.kind == Kind::String { &doc[node.inner()] } else { &[] };
            let decision = (rules.decide)(usize::from(hit.path), field);
            let mut place = FoundPlace::new(usize::from(hit.path), hit.node);
            let is_sealed = self.is_sealed(field, text);
            place.status = if decision == Decision::Withhold && rules.withheld != Withheld::Stays {
                Status::Withheld
            } else if !is_sealed && !holds_clear(field, node.kind) {
                Status::NoToken
            } else if decision == Decision::Withhold {
                Status::Skipped
            } else if !is_sealed {
                Status::Clear
            } else if let Some(answers) = rules.answers {
                self.answered(answers, schema, (usize::from(hit.path), field), doc, hit.node)
            } else if field.interop.is_some() {
                self.open_of_others(field, keys.keyring)
            } else {
                self.open_field(field, keys, owner, doc, text, &mut place)
            };
            let shown =
                self.shown(&mut place.status, decision, field, rules.withheld, &doc[node.span()]);
            if let Some(shown) = shown {
                copy(doc, node.start as usize, &mut at, out);
                place.start = out.len();
                out.extend_from_slice(shown);
                at.copied = node.end as usize;
            }
            found(place);
        }
        copy(doc, doc.len(), &mut at, out);
    }

    /// What stands in the place of a protected one; `None`: what stood there. A value that is to be
    /// masked gets the status that comes of it.
    fn shown(
        &mut self,
        status: &mut Status,
        decision: Decision,
        field: &Field,
        withheld: Withheld,
        clear: &[u8],
    ) -> Option<&[u8]> {
        let strict = withheld == Withheld::Null { strict: true };
        match *status {
            Status::Revealed if decision == Decision::Mask => {
                *status = mask(field, &self.payload, &mut self.scalar, &mut self.masked);
                Some(&self.masked)
            }
            // Masked already: somebody else opened it.
            Status::Revealed | Status::Masked => Some(&self.payload),
            Status::Honey if self.is_sealing => Some(&self.payload),
            Status::NoToken | Status::Skipped => None,
            _ if withheld == Withheld::Stays => None,
            // Taken as it is, and shown no further than a token's value would be.
            Status::Clear if !strict && decision == Decision::Mask => {
                mask(field, clear, &mut self.scalar, &mut self.masked);
                Some(&self.masked)
            }
            Status::Clear if !strict => None,
            _ => Some(b"null"),
        }
    }

    /// The nodes of tokens where the schema declares none.
    fn undeclared_tokens(&mut self, schema: &Schema, doc: &[u8], found: &mut dyn FnMut(u32)) {
        let nodes = self.tape.nodes();
        let fields = schema.fields.len();
        let mut hits =
            self.selection.hits.iter().filter(|hit| usize::from(hit.path) < fields).peekable();
        let mut covered_to = 0;
        for (node, i) in nodes.iter().zip(0..).filter(|(node, _)| node.kind == Kind::String) {
            while let Some(hit) = hits.next_if(|hit| hit.node < i) {
                if hit.node >= covered_to {
                    covered_to = nodes[hit.node as usize].next;
                }
            }
            let declared = i >= covered_to && hits.peek().is_some_and(|hit| hit.node == i);
            if !declared && is_token(&doc[node.inner()], &mut self.payload) {
                found(i);
            }
        }
    }

    fn open_field(
        &mut self,
        field: &Field,
        keys: &Keys<'_>,
        owner: Option<Owner>,
        doc: &[u8],
        token: &[u8],
        place: &mut FoundPlace,
    ) -> Status {
        // Without the key that turns subjects into references nobody knows whose token may open
        // here.
        let Some(owner) = owner else { return Status::Failed(OpenError::KeyUnavailable) };
        let single = |path: PathId| self.selection.single(path);
        if self.binding.encode(doc, field, &self.tape, single).is_err() {
            return Status::Failed(OpenError::Binding);
        }
        let expected = Expected {
            fid: field.fid,
            tenant: keys.keyring.tenant(),
            binding: self.binding.of(field),
            owner,
        };
        let lookup = |kid: &KeyId| place.key(kid, (keys.lookup)(kid));
        let opened = if self.is_sealing {
            self.opener.open_to_seal(token, &expected, lookup, &mut self.payload)
        } else {
            self.opener.open(token, &expected, lookup, &mut self.payload)
        };
        match opened {
            Ok(PayloadKind::Json) => Status::Revealed,
            // It is to stand in the document until it is sealed.
            Ok(PayloadKind::Honey) if self.is_sealing && !scan::is_json_text(&self.payload) => {
                Status::Failed(OpenError::Corrupt)
            }
            Ok(PayloadKind::Honey) => Status::Honey,
            // Raw bytes are never spliced into JSON.
            Ok(PayloadKind::Bytes) => Status::Failed(OpenError::Corrupt),
            Err(e) => Status::Failed(e),
        }
    }

    /// Whose key the record's tokens must be under; `None`: that cannot be told here.
    fn owner(&mut self, schema: &Schema, keys: &Keyring, doc: &[u8]) -> Option<Owner> {
        if schema.subjects.is_empty() {
            return Some(Owner::Any);
        }
        let node = schema.subject_in(&self.tape, &self.selection);
        match node.filter(|n| subject::scalar_text(&doc[n.span()], &mut self.scalar)) {
            Some(_) => {
                let domain = schema.subject_domain.as_deref();
                self.references.of(keys, domain, &self.scalar).map(Owner::Subject)
            }
            None => Some(Owner::Nobody),
        }
    }
}

/// The masked value in the place of `out`'s content: `null` where there is none.
fn mask(field: &Field, value: &[u8], text: &mut Vec<u8>, out: &mut Vec<u8>) -> Status {
    out.clear();
    if field.mask().is_some_and(|mask| mask.apply(value, text, out)) {
        Status::Masked
    } else {
        out.extend_from_slice(b"null");
        Status::NotText
    }
}

/// Whether what stands there instead of a token is a value in clear: not what transform writes.
fn holds_clear(field: &Field, kind: Kind) -> bool {
    field.protect.is_reversible() && (kind != Kind::Null || field.encrypt_null)
}

/// Whether the text is a whole token, of whatever key.
fn is_token(text: &[u8], scratch: &mut Vec<u8>) -> bool {
    text.starts_with(PREFIX) && !matches!(token::decode(text, scratch), Err(OpenError::Malformed))
}
