//! Fields in the form of another system: Fernet tokens, and messages of PostgreSQL's pgcrypto.
//!
//! Such a text knows neither row nor data subject, and its key is not among ours.

use std::sync::Arc;

use veilstream::keys::{self, KeyFault};
use veilstream_engine::interop::{self, InteropForm, InteropKeySet, SealTextError};
use veilstream_engine::reveal::{BareToken, Decision, HeldKeys, Revealer, Status};
use veilstream_engine::schema::Field;
use veilstream_engine::seal::NoncePool;
use veilstream_engine::token::PREFIX;
use veilstream_engine::{Keyring, OpenError, RejectCode};
use veilstream_keys::OsEntropy;

use crate::fault::VeilFault;
use crate::held::Held;
use crate::target::Target;

/// Seals values of one field in its form.
pub(crate) struct InteropSealer {
    keys: Arc<InteropKeySet>,
    nonces: NoncePool,
}

impl InteropSealer {
    /// The sealer of a field; `None`: its form is ours.
    ///
    /// # Errors
    /// The keys of the other system are not there.
    pub(crate) fn of(target: &Target, keyring: &Keyring) -> Result<Option<Self>, VeilFault> {
        let Some(interop) = target.field().and_then(|field| field.interop.as_ref()) else {
            return Ok(None);
        };
        let missing = || {
            let form = interop.form.as_str();
            KeyFault(format!("{} is {form}, and its keys were not loaded", target.id))
        };
        let keys = keyring.interop().get(interop).ok_or_else(missing)?.clone();
        Ok(Some(Self { keys, nonces: NoncePool::new(Box::new(OsEntropy)) }))
    }

    /// Appends a JSON value's text, sealed, to `out`.
    ///
    /// # Errors
    /// The value has no text in this form, or there are no random bytes.
    pub(crate) fn seal(
        &mut self,
        target: &Target,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), VeilFault> {
        let field = target.field().ok_or_else(|| target.rejected(RejectCode::WrongType))?;
        interop::seal_value(field, &self.keys, payload, keys::now(), &mut self.nonces, out).map_err(
            |error| match error {
                SealTextError::Unsupported => target.rejected(RejectCode::UnsupportedValue),
                SealTextError::Entropy(_) => {
                    KeyFault(format!("a key does not seal: {error}")).into()
                }
            },
        )
    }
}

/// Opens a text into a JSON text, which replaces the content of `out`.
pub(crate) fn open(
    revealer: &mut Revealer,
    field: &Field,
    held: &Held<'_>,
    text: &[u8],
    out: &mut Vec<u8>,
) -> Status {
    let item = BareToken {
        fid: field.fid,
        mask: None,
        interop: Some(field),
        token: text,
        decoded: None,
        bind: &[],
        subject: None,
        subject_domain: None,
    };
    let keys = HeldKeys { keyring: &held.keyring, fetched: &held.fetched };
    let (_, place, _) = revealer.disclose_token(keys, &item, Decision::Reveal, out);
    let form = field.interop.as_ref().map(|interop| interop.form);
    match place.status {
        Status::Clear if form.is_some_and(|form| is_ciphertext(form, text)) => {
            Status::Failed(OpenError::Malformed)
        }
        status => status,
    }
}

/// Whether a text without the whole form is ciphertext all the same: cut by a narrow column, or a
/// token of ours. Anyone who lets clear values through must not show it.
fn is_ciphertext(form: InteropForm, text: &[u8]) -> bool {
    let begins_its_form = match form {
        // The version, and the high bits of every time.
        InteropForm::Fernet => text.starts_with(b"gAAAA"),
        // A first packet of version 4 and under 64 bytes, in the new format or the old.
        InteropForm::Pgcrypto => {
            matches!(text, [b'w', b'w'..=b'z', _, b'E', ..] | [b'j', b'A'..=b'D', _, b'E', ..])
        }
    };
    begins_its_form || text.starts_with(PREFIX)
}
