//! Records of API keys in the topic: one record each, under `credential/<id>`.

use veilstream_keys::credential::CredentialRow;
use veilstream_keys::store::StoreError;

use super::{KafkaStore, View};

impl KafkaStore {
    /// Writes a row, unless `settled` has an answer for the one with its id; tells whether it did.
    pub(super) fn write_credential(
        &self,
        row: &CredentialRow,
        settled: impl Fn(Option<&CredentialRow>) -> Option<bool>,
    ) -> Result<bool, StoreError> {
        let inner = &mut *self.lock();
        let done =
            inner.topic.write(&mut inner.view, |view| match settled(view.credential(&row.id)) {
                Some(answer) => (Vec::new(), answer),
                None => (vec![View::credential_entry(row)], true),
            });
        done.map_err(|error| self.unusable(&error))
    }
}
