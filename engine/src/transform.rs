//! One record in, one protected record out.

mod claim;
mod connect;
mod envelope;
mod filter_reads;
mod indexes;
mod plan;
mod protected_values;
mod required;
mod subjects;
mod undeclared;

use std::sync::Arc;

use crate::Entropy;
use crate::binding::Binding;
use crate::compile::SchemaSet;
use crate::error::{Reject, RejectCode};
use crate::key::{Key, KeyKind, KeyState, Scope};
use crate::keyring::Keyring;
use crate::record::{FieldOutcome, KEPT, Output, Record};
use crate::residue::Residues;
use crate::scan::{Kind, Tape};
use crate::schema::{Field, PathId, Residue, Schema, Undeclared};
use crate::seal::{NoncePool, SealError};
use crate::select::Selection;
use crate::splice::Edit;
use crate::subject;
pub(crate) use claim::value_clauses_hold;
pub(crate) use connect::{Description, describe};
use indexes::{IndexMembers, IndexValues};
use plan::Plan;
use subjects::{Known, SubjectKeys, SubjectSealers};

/// What became of a record.
#[derive(Debug)]
pub enum Outcome {
    /// Protected under the schema of this index in [`SchemaSet::schemas`]; the output buffers hold
    /// it. (Not the schema: lanes would take turns at its reference count, record by record.)
    Protected(usize),
    /// Not protected and not passed on: dead-letter it.
    Rejected(Reject),
    /// Keys are missing (not minted yet, expired or spent): fetch them for the whole batch and call
    /// again.
    NeedKeys(Vec<NeededKey>),
}

/// A key the engine lacks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NeededKey {
    /// What it is for.
    pub kind: KeyKind,
    /// What it covers.
    pub scope: Scope,
}

/// Size limits, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest input value.
    pub input: usize,
    /// Longest output value.
    pub output: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { input: 16 << 20, output: 64 << 20 }
    }
}

/// Records that may need buffers too large to be kept. What shorter ones need is bounded by their
/// length.
const LARGE: usize = 64 << 10;

/// Why processing stopped, inside the engine.
enum Stop {
    Reject(RejectCode, Option<Arc<str>>, Option<usize>),
    Need(Vec<NeededKey>),
}

impl Stop {
    fn field(code: RejectCode, field: &Field) -> Self {
        Self::Reject(code, Some(field.id.clone()), None)
    }
}

/// Protects records, one after another. One per thread: it keeps key schedules, HMAC states and
/// buffers, so that a record costs no allocation.
pub struct Transformer {
    limits: Limits,
    one_shot: bool,
    nonces: NoncePool,
    /// The snapshot of the last record.
    keyring: Option<Arc<Keyring>>,
    plans: Vec<Option<Plan>>,
    subjects: SubjectKeys,
    work: Work,
}

/// Buffers of one record, reused.
#[derive(Default)]
struct Work {
    tape: Tape,
    selection: Selection,
    edits: Vec<Edit>,
    counts: Vec<[u32; FieldOutcome::COUNT]>,
    residues: Residues,
    binding: Binding,
    parents: required::Parents,
    indexes: IndexMembers,
    index_values: IndexValues,
    /// A scalar's text.
    text: Vec<u8>,
    /// A value in its canonical form.
    canonical: Vec<u8>,
    /// The input's value in the envelope that its schema writes.
    enveloped: Vec<u8>,
}

impl Transformer {
    /// A transformer that draws nonces from `entropy`.
    #[must_use]
    pub fn new(entropy: Box<dyn Entropy>) -> Self {
        Self {
            limits: Limits::default(),
            one_shot: false,
            nonces: NoncePool::new(entropy),
            keyring: None,
            plans: Vec::new(),
            subjects: SubjectKeys::default(),
            work: Work::default(),
        }
    }

    /// Sets the size limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// For commands that run once: asks for shared keys (suite 2) instead of keys of this process.
    #[must_use]
    pub fn one_shot(mut self) -> Self {
        self.one_shot = true;
        self
    }

    /// Takes data keys of subjects, as asked for by [`Outcome::NeedKeys`]. They are forgotten at
    /// their `seal_until`, when a keyring says that they have ended, or when there are too many.
    /// A shredded key stands for a subject who was erased.
    pub fn add_subject_keys(&mut self, keys: impl IntoIterator<Item = Arc<Key>>) {
        for key in keys {
            self.subjects.insert(key);
        }
    }

    /// Forgets random bytes and key states in hand. For a process that finds itself copied.
    pub fn discard(&mut self) {
        self.nonces.discard();
        self.plans.clear();
        self.subjects = SubjectKeys::default();
    }

    /// Bytes its buffers hold between records: at most 8 MiB and what a record of 64 KiB needs. For
    /// those who bound what is in flight.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.work.buffer_bytes()
    }

    /// Protects one record. `schemas` and `keys` are the snapshots of the batch.
    pub fn transform(
        &mut self,
        schemas: &SchemaSet,
        keys: &Arc<Keyring>,
        record: &Record<'_>,
        out: &mut Output,
    ) -> Outcome {
        out.clear();
        let (index, tombstone) = match self.claim(schemas, record) {
            Ok(claim) => claim,
            Err(reject) => return Outcome::Rejected(reject),
        };
        let schema = &schemas.schemas()[index];
        if !self.keyring.as_ref().is_some_and(|ring| Arc::ptr_eq(ring, keys)) {
            self.subjects.forget(keys.ended());
            self.keyring = Some(keys.clone());
        }
        self.plans.resize_with(schemas.schemas().len().max(self.plans.len()), || None);
        if !self.plans[index].as_ref().is_some_and(|plan| plan.is_for(schema, keys)) {
            self.plans[index] = Some(Plan::new(schema, keys, self.one_shot));
        }
        let Some(plan) = self.plans[index].as_mut() else { unreachable!("the plan was just made") };
        let enveloped = std::mem::take(&mut self.work.enveloped);
        let written = schema.written.as_ref().filter(|_| !tombstone);
        let value = if written.is_some() { Some(&*enveloped) } else { record.value };
        let record = &Record { value, ..*record };
        self.nonces.begin_record();
        let mut run = Run {
            schema,
            keys,
            plan,
            nonces: &mut self.nonces,
            subjects: Some(&mut self.subjects),
            work: &mut self.work,
            record,
            longest: self.limits.output,
            subject: None,
        };
        let result = if tombstone { run.tombstone(out) } else { run.value(out) };
        self.nonces.end_record();
        let is_large = record.value.is_some_and(|value| value.len() >= LARGE);
        self.work.enveloped = enveloped;
        if is_large && self.work.buffer_bytes() > KEPT {
            self.work = Work::default();
        }
        let Err(stop) = result else { return Outcome::Protected(index) };
        // What was half written must not be taken for a protected record.
        out.clear();
        match stop {
            Stop::Need(needed) => Outcome::NeedKeys(needed),
            Stop::Reject(code, field, offset) => {
                // In the input, not in the envelope around it.
                let offset = offset.map(|at| at.saturating_sub(envelope_offset(schema)));
                Outcome::Rejected(rejected(schema, code, field, offset))
            }
        }
    }
}

/// Bytes of the envelope that the schema writes before a value.
fn envelope_offset(schema: &Schema) -> usize {
    schema.written.as_ref().map_or(0, |written| written.offset())
}

impl Work {
    /// Bytes of the buffers whose size follows from a record's; the others hold one value at a
    /// time.
    fn buffer_bytes(&self) -> usize {
        let tables = self.edits.capacity() * size_of::<Edit>()
            + self.counts.capacity() * size_of::<[u32; FieldOutcome::COUNT]>();
        self.tape.buffer_bytes()
            + self.selection.buffer_bytes()
            + tables
            + self.residues.buffer_bytes()
            + self.binding.buffer_bytes()
            + self.parents.buffer_bytes()
            + self.indexes.buffer_bytes()
            + self.index_values.buffer_bytes()
            + self.text.capacity()
            + self.canonical.capacity()
            + self.enveloped.capacity()
    }
}

fn rejected(
    schema: &Schema,
    code: RejectCode,
    field: Option<Arc<str>>,
    offset: Option<usize>,
) -> Reject {
    Reject { code, schema: Some(schema.label.clone()), field, offset }
}

/// One record under one schema.
struct Run<'a> {
    schema: &'a Arc<Schema>,
    keys: &'a Arc<Keyring>,
    plan: &'a mut Plan,
    nonces: &'a mut NoncePool,
    /// Taken when the record's subject is found.
    subjects: Option<&'a mut SubjectKeys>,
    work: &'a mut Work,
    record: &'a Record<'a>,
    /// Longest output value, in bytes.
    longest: usize,
    /// What seals for the subject whose data it is; `None`: the schema's key seals.
    subject: Option<&'a mut SubjectSealers>,
}

impl Run<'_> {
    fn value(&mut self, out: &mut Output) -> Result<(), Stop> {
        let doc = self.record.value.unwrap_or_default();
        self.plan.usable(self.record.now)?;
        self.find_subject(doc)?;
        self.work.counts.clear();
        self.work.counts.resize(self.schema.fields.len(), [0; FieldOutcome::COUNT]);
        self.work.residues.clear(self.schema.residue);
        self.work.indexes.clear();
        self.collect_edits(doc)?;
        self.check_required(doc)?;
        self.undeclared()?;
        self.check_filter_reads()?;
        self.mend_envelope(doc)?;
        self.splice(doc, out)?;
        self.check_indexes(out)?;
        self.envelope(out)?;
        self.residue(doc, out)?;
        self.report_counts(out);
        Ok(())
    }

    fn tombstone(&mut self, out: &mut Output) -> Result<(), Stop> {
        out.tombstone = true;
        self.plan.usable(self.record.now)?;
        if !self.schema.subjects.is_empty() && !self.schema.subject_optional {
            self.nothing_to_encrypt()?;
        }
        self.envelope(out)
    }

    fn find_subject(&mut self, doc: &[u8]) -> Result<(), Stop> {
        if self.schema.subjects.is_empty() {
            return Ok(());
        }
        let missing = || Stop::Reject(RejectCode::MissingSubject, None, None);
        let Some(node) = self.schema.subject_in(&self.work.tape, &self.work.selection) else {
            return if self.schema.subject_optional { Ok(()) } else { Err(missing()) };
        };
        // A subject that is there but has no scalar text is never sealed with anybody's key.
        if !subject::scalar_text(&doc[node.span()], &mut self.work.text) {
            return Err(missing());
        }
        if !self.schema.encrypts() {
            return Ok(());
        }
        let Some(referrer) = &self.plan.referrer else {
            let needed = NeededKey { kind: KeyKind::SubjectRef, scope: Scope::Version(1) };
            // A key that is there and does not serve will not be better for being fetched.
            return Err(if self.keys.sealing(needed.kind, &needed.scope).is_none() {
                Stop::Need(vec![needed])
            } else {
                missing()
            });
        };
        let reference = referrer.reference(&self.work.text);
        let Some(subjects) = self.subjects.take() else {
            unreachable!("a record's subject is looked for once")
        };
        match subjects.look(&reference, self.record.now) {
            Known::Seals(sealers) => self.subject = Some(sealers),
            Known::Erased => return Err(Stop::Reject(RejectCode::ErasedSubject, None, None)),
            Known::Nothing => {
                return Err(Stop::Need(vec![NeededKey {
                    kind: KeyKind::Data,
                    scope: Scope::Subject(reference),
                }]));
            }
        }
        Ok(())
    }

    /// One edit per protected node, in document order: of one node the field declared first, inside
    /// a protected node nothing.
    fn collect_edits(&mut self, doc: &[u8]) -> Result<(), Stop> {
        self.work.edits.clear();
        let mut covered_to = 0;
        for i in 0..self.work.selection.hits.len() {
            let hit = self.work.selection.hits[i];
            let Some(field) = self.schema.fields.get(usize::from(hit.path)) else { continue };
            let node = self.work.tape.nodes()[hit.node as usize];
            if node.kind != Kind::Null
                && !field.value_type.is_none_or(|t| t.is_of(node.kind, &doc[node.span()]))
            {
                return Err(Stop::field(RejectCode::WrongType, field));
            }
            if hit.node >= covered_to {
                covered_to = node.next;
                if !self.schema.keeps(field) {
                    self.work.edits.push(Edit { node: hit.node, field: hit.path });
                }
            }
        }
        Ok(())
    }

    fn residue(&mut self, doc: &[u8], out: &mut Output) -> Result<(), Stop> {
        if self.schema.residue == Residue::Off {
            return Ok(());
        }
        self.charge(doc.len() as u64 / 4)?;
        let work = &mut *self.work;
        work.residues.search_document(doc, &work.tape, &work.edits, &out.value);
        if out.key == crate::record::KeyOutput::Same {
            work.residues.search(doc, self.record.key.unwrap_or_default());
        }
        for header in &out.headers {
            if let crate::record::HeaderOutput::Same(i) = header {
                work.residues.search(doc, self.record.headers[*i].1.unwrap_or_default());
            }
        }
        work.residues.report(&mut out.residue);
        out.residue_capped = work.residues.capped();
        let searched = work.residues.work();
        self.charge(searched)?;
        match out.residue.first() {
            _ if self.schema.residue != Residue::Reject => Ok(()),
            Some((field, _)) => Err(Stop::field(RejectCode::Residue, &self.schema.fields[*field])),
            // What was not looked for may be there.
            None if out.residue_capped > 0 => Err(Stop::Reject(RejectCode::TooComplex, None, None)),
            None => Ok(()),
        }
    }

    fn report_counts(&mut self, out: &mut Output) {
        for (field, counts) in self.work.counts.iter_mut().enumerate() {
            if counts.iter().all(|n| *n == 0) {
                counts[FieldOutcome::Absent as usize] = 1;
            }
            for (outcome, n) in FieldOutcome::ALL.iter().zip(counts.iter()).filter(|(_, n)| **n > 0)
            {
                out.counts.push((field, *outcome, *n));
            }
        }
    }

    /// Takes units off the record's budget of work.
    fn charge(&mut self, units: u64) -> Result<(), Stop> {
        if self.work.selection.budget().charge(units) {
            Ok(())
        } else {
            Err(Stop::Reject(RejectCode::TooComplex, None, None))
        }
    }

    fn count(&mut self, field: PathId, outcome: FieldOutcome) {
        self.work.counts[usize::from(field)][outcome as usize] += 1;
    }

    /// The key that encrypts this record's values is spent or unfit: what to ask for.
    fn data_failed(&mut self, error: SealError) -> Stop {
        match &self.subject {
            Some(subject) => {
                seal_failed(error, NeededKey { kind: KeyKind::Data, scope: subject.scope() })
            }
            None if matches!(error, SealError::Entropy(_)) => {
                seal_failed(error, self.plan.data_key())
            }
            None => seal_failed(error, self.plan.spent()),
        }
    }
}

fn deterministic_root(version: u32) -> NeededKey {
    NeededKey { kind: KeyKind::Deterministic, scope: Scope::Version(version) }
}

/// What the caller does about a refusal to seal.
fn seal_failed(error: SealError, needed: NeededKey) -> Stop {
    match error {
        SealError::Spent | SealError::Key => Stop::Need(vec![needed]),
        // No randomness: the record stays where it is and is tried again; nothing leaves in clear.
        SealError::Entropy(_) => Stop::Need(vec![needed]),
        SealError::TooLong => Stop::Reject(RejectCode::OutputTooLarge, None, None),
    }
}

/// Whether a key may seal now.
fn may_seal(key: &Key, now: u64) -> bool {
    key.state == KeyState::Active
        && key.secret.is_some()
        && key.seal_until.is_none_or(|until| now < until)
}
