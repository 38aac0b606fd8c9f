//! Opening texts in the form of other systems.

use zeroize::Zeroizing;

use super::{Revealer, Status};
use crate::error::OpenError;
use crate::interop::to_json;
use crate::keyring::Keyring;
use crate::scan::unescape;
use crate::schema::Field;
use crate::token::PREFIX;

impl Revealer {
    /// Whether a string's inside is a token, or a text of its field's form, which then is
    /// `self.scalar`.
    pub(super) fn is_sealed(&mut self, field: &Field, inner: &[u8]) -> bool {
        let Some(interop) = &field.interop else { return inner.starts_with(PREFIX) };
        self.scalar.clear();
        unescape(inner, &mut self.scalar) && interop.form.recognises(&self.scalar)
    }

    /// Opens `self.scalar`, a text in the form of another system.
    pub(super) fn open_of_others(&mut self, field: &Field, keys: &Keyring) -> Status {
        let keys = field.interop.as_ref().and_then(|interop| keys.interop().get(interop));
        let Some(keys) = keys else { return Status::Failed(OpenError::KeyUnavailable) };
        if !self.selection.budget().charge(keys.open_cost(&self.scalar)) {
            return Status::Failed(OpenError::Unsupported);
        }
        let mut text = Zeroizing::new(Vec::new());
        match keys.open(&self.scalar, &mut text) {
            Ok(()) if to_json(field, &text, &mut self.payload) => Status::Revealed,
            Ok(()) => Status::Failed(OpenError::Corrupt),
            Err(error) => Status::Failed(error),
        }
    }
}
