//! The values of a record, each replaced by what protects it.

use super::{Run, Stop, deterministic_root, seal_failed, subjects};
use crate::coarsen;
use crate::error::RejectCode;
use crate::index_member::RootVersion;
use crate::interop::{self, SealTextError};
use crate::record::{FieldOutcome, Output};
use crate::scan::{Kind, NO_PARENT, Node};
use crate::schema::{Field, Protect, Residue};
use crate::seal::{self, PayloadKind, SealError};
use crate::splice::{Edit, Position, copy, cut};

impl Run<'_> {
    pub(super) fn splice(&mut self, doc: &[u8], out: &mut Output) -> Result<(), Stop> {
        let mut at = Position { copied: 0, leading: NO_PARENT };
        let mut bound = None;
        for i in 0..self.work.edits.len() {
            let edit = self.work.edits[i];
            let node = self.work.tape.nodes()[edit.node as usize];
            let schema = self.schema;
            let field = schema.fields.get(usize::from(edit.field));
            if self.work.indexes.are_pending() {
                self.close_arrays(doc, node.start as usize, &mut at, out);
            }
            match field {
                None if edit.field == Edit::MENDED => {
                    copy(doc, node.start as usize, &mut at, &mut out.value);
                    out.value.extend_from_slice(self.plan.mender.mended());
                    at.copied = node.end as usize;
                }
                None => self.drop_node(doc, edit.node, &node, &mut at, out),
                Some(f) if matches!(f.protect, Protect::Drop) => {
                    self.remember_residue(doc, edit);
                    self.count(edit.field, FieldOutcome::Dropped);
                    self.drop_node(doc, edit.node, &node, &mut at, out);
                }
                Some(f) => {
                    copy(doc, node.start as usize, &mut at, &mut out.value);
                    if bound != Some(edit.field) {
                        self.bind(doc, f)?;
                        bound = Some(edit.field);
                    }
                    self.protect(doc, edit, &node, f, out)?;
                    at.copied = node.end as usize;
                    self.write_indexes(doc, edit, &node, f, out)?;
                }
            }
            self.check_length(out)?;
        }
        self.close_arrays(doc, doc.len(), &mut at, out);
        copy(doc, doc.len(), &mut at, &mut out.value);
        self.check_length(out)
    }

    /// Looked at after every value: a small event of many values must not grow without bound first.
    fn check_length(&mut self, out: &Output) -> Result<(), Stop> {
        self.charge(0)?;
        if out.value.len() > self.longest {
            Err(Stop::Reject(RejectCode::OutputTooLarge, None, None))
        } else {
            Ok(())
        }
    }

    /// Encodes the values a field is tied to.
    fn bind(&mut self, doc: &[u8], field: &Field) -> Result<(), Stop> {
        if field.bind.is_empty() {
            return Ok(());
        }
        let work = &mut *self.work;
        work.binding
            .encode(doc, field, &work.tape, |path| work.selection.single(path))
            .map_err(|code| Stop::field(code, field))
    }

    fn protect(
        &mut self,
        doc: &[u8],
        edit: Edit,
        node: &Node,
        field: &Field,
        out: &mut Output,
    ) -> Result<(), Stop> {
        let value = &doc[node.span()];
        if node.kind == Kind::Null && !field.encrypt_null {
            out.value.extend_from_slice(value);
            self.count(edit.field, FieldOutcome::Null);
            return Ok(());
        }
        self.remember_residue(doc, edit);
        let outcome = match &field.protect {
            Protect::Encrypt if field.interop.is_some() => {
                self.encrypt_for_others(value, edit, field, out)?
            }
            Protect::Encrypt => self.encrypt(value, edit, field, out)?,
            Protect::Deterministic(root) => self.deterministic(doc, *root, edit, field, out)?,
            Protect::Hash => self.hash(doc, edit, node, field, out)?,
            Protect::Mask(_) | Protect::Generalize(_) | Protect::Redact(_) => {
                self.replace(value, edit, node, field, out)?
            }
            Protect::Drop => unreachable!("dropped members are cut out, not replaced"),
        };
        self.count(edit.field, outcome);
        Ok(())
    }

    /// The kinds without a key. What they write is text in clear: another field's value must not
    /// stand in it.
    fn replace(
        &mut self,
        value: &[u8],
        edit: Edit,
        node: &Node,
        field: &Field,
        out: &mut Output,
    ) -> Result<FieldOutcome, Stop> {
        let start = out.value.len();
        let fits = match &field.protect {
            Protect::Mask(mask) => {
                coarsen::mask(node.kind, value, mask, &mut self.work.text, &mut out.value)
            }
            Protect::Generalize(to) => {
                coarsen::generalize(node.kind, value, *to, &mut self.work.text, &mut out.value)
            }
            Protect::Redact(with) => {
                out.value.extend_from_slice(with);
                true
            }
            _ => false,
        };
        if !fits {
            return Err(Stop::field(RejectCode::WrongType, field));
        }
        // What is coarse enough already stays as it is, which is what its author asked for.
        let own =
            if matches!(field.protect, Protect::Generalize(_)) { edit.node } else { NO_PARENT };
        self.work.residues.add_output(start..out.value.len(), own);
        Ok(FieldOutcome::Masked)
    }

    fn encrypt(
        &mut self,
        value: &[u8],
        edit: Edit,
        field: &Field,
        out: &mut Output,
    ) -> Result<FieldOutcome, Stop> {
        let kind = self.payload_kind(edit);
        let binding = self.work.binding.of(field);
        out.value.push(b'"');
        let sealer = subjects::sealer(
            &mut self.subject,
            &mut self.plan.sealers[usize::from(edit.field)],
            field.fid,
        );
        let sealed = sealer
            .and_then(|s| s.seal(kind, value, field.pad, binding, self.nonces, &mut out.value));
        sealed.map_err(|e| self.data_failed(e))?;
        out.value.push(b'"');
        Ok(FieldOutcome::Encrypted)
    }

    /// What a value is sealed as.
    fn payload_kind(&self, edit: Edit) -> PayloadKind {
        let start = self.work.tape.nodes()[edit.node as usize].start as usize;
        let is_honey = self.record.honey.binary_search(&start).is_ok();
        if is_honey { PayloadKind::Honey } else { PayloadKind::Json }
    }

    /// In the form and under the keys of another system.
    fn encrypt_for_others(
        &mut self,
        value: &[u8],
        edit: Edit,
        field: &Field,
        out: &mut Output,
    ) -> Result<FieldOutcome, Stop> {
        // What is configured was looked at before the schema came into force.
        let Some(keys) = self.plan.interop[usize::from(edit.field)].clone() else {
            return Err(Stop::field(RejectCode::Internal, field));
        };
        self.charge(keys.seal_cost())?;
        let time = self.record.time.unwrap_or(self.record.now);
        out.value.push(b'"');
        interop::seal_value(field, &keys, value, time, self.nonces, &mut out.value).map_err(
            |error| match error {
                SealTextError::Unsupported => Stop::field(RejectCode::UnsupportedValue, field),
                SealTextError::Entropy(_) => Stop::Need(vec![self.plan.data_key()]),
            },
        )?;
        out.value.push(b'"');
        Ok(FieldOutcome::Encrypted)
    }

    fn deterministic(
        &mut self,
        doc: &[u8],
        root: u32,
        edit: Edit,
        field: &Field,
        out: &mut Output,
    ) -> Result<FieldOutcome, Stop> {
        let kind = self.payload_kind(edit);
        let work = &mut *self.work;
        if !seal::canonical_node(doc, &work.tape, edit.node, &mut work.canonical) {
            return Err(Stop::field(RejectCode::UnsupportedValue, field));
        }
        out.value.push(b'"');
        let sealer = self.plan.sealers[usize::from(edit.field)].as_mut().ok_or(SealError::Key);
        let sealed = sealer
            .and_then(|s| s.seal(kind, &work.canonical, 16, None, self.nonces, &mut out.value));
        sealed.map_err(|e| seal_failed(e, deterministic_root(root)))?;
        out.value.push(b'"');
        Ok(FieldOutcome::Encrypted)
    }

    fn hash(
        &mut self,
        doc: &[u8],
        edit: Edit,
        node: &Node,
        field: &Field,
        out: &mut Output,
    ) -> Result<FieldOutcome, Stop> {
        let start = out.value.len();
        out.value.push(b'"');
        if self.append_index(doc, edit.field, node, field, RootVersion::Newest, &mut out.value) {
            out.value.push(b'"');
            return Ok(FieldOutcome::Indexed);
        }
        out.value.truncate(start);
        out.value.extend_from_slice(b"null");
        Ok(FieldOutcome::Null)
    }

    /// Cuts a member out; an element or the root becomes null.
    fn drop_node(
        &mut self,
        doc: &[u8],
        index: u32,
        node: &Node,
        at: &mut Position,
        out: &mut Output,
    ) {
        if node.is_member() {
            cut(doc, &self.work.tape, index, at, &mut out.value);
        } else {
            copy(doc, node.start as usize, at, &mut out.value);
            out.value.extend_from_slice(b"null");
            at.copied = node.end as usize;
        }
    }

    #[inline]
    fn remember_residue(&mut self, doc: &[u8], edit: Edit) {
        if self.schema.residue != Residue::Off {
            let work = &mut *self.work;
            work.residues.add(doc, &work.tape, edit);
        }
    }
}
