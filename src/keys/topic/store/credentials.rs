//! Records of API keys in the topic: one record each, under `credential/<id>`.

use veilstream_keys::credential::CredentialRow;
use veilstream_keys::store::StoreError;

use super::{KafkaStore, View};

impl KafkaStore {
    /// Writes a row where `is_due` says so of the one with its id; tells whether it is there now.
    pub(super) fn write_credential(
        &self,
        row: &CredentialRow,
        is_due: impl Fn(Option<&CredentialRow>) -> bool,
    ) -> Result<bool, StoreError> {
        let inner = &mut *self.lock();
        let done = inner.topic.write(&mut inner.view, |view| {
            let known = view.credential(&row.id);
            if is_due(known) {
                (vec![View::credential_entry(row)], true)
            } else {
                // A try whose answer was lost is found again as what it wrote.
                (Vec::new(), known == Some(row))
            }
        });
        done.map_err(|error| self.unusable(&error))
    }
}
