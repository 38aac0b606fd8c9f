//! Reading one bare token under a decision.

use std::cell::RefCell;

use super::{Decision, Disclosed, FoundPlace, HeldKeys, Place, Revealer, Status};
use crate::budget::Budget;
use crate::error::OpenError;
use crate::key::KeyId;
use crate::mask::ReadMask;
use crate::schema::Field;
use crate::seal::{Expected, Owner, PayloadKind};
use crate::subject;
use crate::token::{Decoded, FieldId, PREFIX};

/// A token out of its record, and what it must be.
#[derive(Debug, Clone, Copy)]
pub struct BareToken<'a> {
    /// Its field by [`crate::kdf::field_id`] of the cryptographic name: `<schema>.<id>`,
    /// `@<domain>`, `<schema>#key` or `<schema>#header:<name>`. The caller looks for it in the
    /// schemas.
    pub fid: FieldId,
    /// The field's mask; of a domain the one that all fields in it have.
    pub mask: Option<ReadMask>,
    /// The field, where its form is another system's.
    pub interop: Option<&'a Field>,
    /// The token's text, without quotes.
    pub token: &'a [u8],
    /// The same, where the caller has decoded it already.
    pub decoded: Option<&'a Decoded>,
    /// Values the token is bound to: names, and JSON texts.
    pub bind: &'a [(&'a str, &'a [u8])],
    /// Whose row it stands in, as a JSON text: the token must be under that subject's key.
    pub subject: Option<&'a [u8]>,
    /// Whose ids the subjects of its schema are.
    pub subject_domain: Option<&'a str>,
}

impl Revealer {
    /// Reads a bare token into `out` (whose content is replaced): a JSON text, raw bytes of a
    /// record key or header where the result says so, nothing where the status is neither
    /// `revealed` nor `masked`.
    ///
    /// The place has index 0 as its field and no path. Bytes have no mask.
    pub fn disclose_token(
        &mut self,
        keys: HeldKeys<'_>,
        item: &BareToken<'_>,
        decision: Decision,
        out: &mut Vec<u8>,
    ) -> (Disclosed, Place, PayloadKind) {
        out.clear();
        let missing = RefCell::default();
        let mut found = FoundPlace::new(0, 0);
        let mut kind = PayloadKind::Json;
        found.status = match decision {
            Decision::Mask if item.mask.is_none() => Status::Withheld,
            Decision::Withhold => Status::Withheld,
            _ if !self.is_bare_sealed(item) => Status::Clear,
            _ if item.interop.is_some() => self.open_bare_of_others(keys, item, decision, out),
            Decision::Reveal | Decision::Mask => {
                match self.open_bare(keys, item, &missing, &mut found) {
                    Ok(opened) => {
                        kind = opened;
                        let mask = item.mask.filter(|_| decision == Decision::Mask);
                        self.show_bare(opened, mask, out)
                    }
                    Err(error) => Status::Failed(error),
                }
            }
        };
        let missing = missing.into_inner();
        let disclosed =
            if missing.is_empty() { Disclosed::Whole } else { Disclosed::NeedKeys(missing) };
        let FoundPlace { field, status, kid, subject, .. } = found;
        (disclosed, Place { field, status, kid, subject, node: 0, path: None }, kind)
    }

    fn open_bare(
        &mut self,
        keys: HeldKeys<'_>,
        item: &BareToken<'_>,
        missing: &RefCell<Vec<KeyId>>,
        found: &mut FoundPlace,
    ) -> Result<PayloadKind, OpenError> {
        let owner = match item.subject {
            None => Owner::Any,
            Some(json) if subject::scalar_text(json, &mut self.scalar) => self
                .references
                .of(keys.keyring, item.subject_domain, &self.scalar)
                .map(Owner::Subject)
                .ok_or(OpenError::KeyUnavailable)?,
            Some(_) => return Err(OpenError::Binding),
        };
        self.binding.encode_values(item.bind).map_err(|_| OpenError::Binding)?;
        let expected = Expected {
            fid: item.fid,
            tenant: keys.keyring.tenant(),
            binding: (!item.bind.is_empty()).then_some(self.binding.encoded()),
            owner,
        };
        let lookup = |kid: &KeyId| found.key(kid, keys.get(kid, missing));
        match item.decoded {
            Some(decoded) => {
                self.opener.open_decoded(decoded, &expected, lookup, &mut self.payload)
            }
            None => self.opener.open(item.token, &expected, lookup, &mut self.payload),
        }
    }

    fn is_bare_sealed(&mut self, item: &BareToken<'_>) -> bool {
        let form = item.interop.and_then(|field| field.interop.as_ref()).map(|of| of.form);
        form.map_or_else(|| item.token.starts_with(PREFIX), |form| form.recognises(item.token))
    }

    /// A text that knows no row: what it is said to be tied to cannot be told.
    fn open_bare_of_others(
        &mut self,
        keys: HeldKeys<'_>,
        item: &BareToken<'_>,
        decision: Decision,
        out: &mut Vec<u8>,
    ) -> Status {
        let Some(field) = item.interop else { return Status::Failed(OpenError::Unsupported) };
        if !item.bind.is_empty() || item.subject.is_some() {
            return Status::Failed(OpenError::Binding);
        }
        self.scalar.clear();
        self.scalar.extend_from_slice(item.token);
        *self.selection.budget() = Budget::of_protected(item.token.len());
        let status = self.open_of_others(field, keys.keyring);
        if status != Status::Revealed {
            return status;
        }
        self.show_bare(PayloadKind::Json, item.mask.filter(|_| decision == Decision::Mask), out)
    }

    fn show_bare(
        &mut self,
        kind: PayloadKind,
        mask: Option<ReadMask>,
        out: &mut Vec<u8>,
    ) -> Status {
        match (kind, mask) {
            (PayloadKind::Honey, _) => Status::Honey,
            (PayloadKind::Json, Some(mask)) if mask.apply(&self.payload, &mut self.scalar, out) => {
                Status::Masked
            }
            (_, Some(_)) => Status::NotText,
            (_, None) => {
                out.extend_from_slice(&self.payload);
                Status::Revealed
            }
        }
    }
}
