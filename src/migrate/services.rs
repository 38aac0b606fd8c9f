//! Key services that open values of the old form, a page at a time.

use std::collections::HashMap;

#[cfg(feature = "aws-kms")]
use veilstream_keys::provider::KmsReader;
use veilstream_keys::provider::ProviderError;
#[cfg(feature = "vault")]
use veilstream_keys::provider::TransitReader;
use zeroize::Zeroizing;

use super::forms::{Form, kms_blob};

/// The other system's key services.
#[derive(Default)]
pub struct Services {
    /// Of [`Form::Vault`].
    #[cfg(feature = "vault")]
    pub vault: Option<TransitReader>,
    /// Of [`Form::AwsKms`].
    #[cfg(feature = "aws-kms")]
    pub aws_kms: Option<KmsReader>,
}

/// What a service opened, by the row's place in its page; `None`: it does not open the value.
pub(super) type FromServices = HashMap<usize, Option<Zeroizing<Vec<u8>>>>;

impl Services {
    /// Opens these cells, each with its row's place in the page and its form.
    pub(super) fn open(
        &self,
        cells: &[(usize, Form, &[u8])],
    ) -> Result<FromServices, ProviderError> {
        let mut opened = FromServices::new();
        #[cfg(feature = "vault")]
        if let Some(vault) = &self.vault {
            let texts: Vec<(usize, &str)> = cells
                .iter()
                .filter(|(_, form, _)| *form == Form::Vault)
                .filter_map(|(row, _, cell)| Some((*row, std::str::from_utf8(cell).ok()?)))
                .collect();
            let asked: Vec<&str> = texts.iter().map(|(_, text)| *text).collect();
            opened.extend(texts.iter().map(|(row, _)| *row).zip(vault.open(&asked)?));
        }
        #[cfg(feature = "aws-kms")]
        if let Some(kms) = &self.aws_kms {
            let (rows, blobs): (Vec<usize>, Vec<Vec<u8>>) = cells
                .iter()
                .filter(|(_, form, _)| *form == Form::AwsKms)
                .filter_map(|(row, _, cell)| Some((*row, kms_blob(cell)?)))
                .unzip();
            opened.extend(rows.into_iter().zip(kms.open(blobs)?));
        }
        Ok(opened)
    }
}
