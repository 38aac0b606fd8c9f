//! Opens what an application sealed with a Transit key of its own, value by value.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::ProviderError;
use super::client::Client;
use super::{Data, VaultProvider, VaultSettings, malformed, version_of};

/// A Transit key that another application seals with.
pub struct TransitReader(VaultProvider);

#[derive(Serialize)]
struct Ciphertext<'a> {
    ciphertext: &'a str,
}

#[derive(Serialize)]
struct Ciphertexts<'a> {
    batch_input: Vec<Ciphertext<'a>>,
}

#[derive(Deserialize)]
struct Opened<'a> {
    #[serde(borrow)]
    batch_results: Vec<Plaintext<'a>>,
}

#[derive(Deserialize)]
struct Plaintext<'a> {
    #[serde(borrow, default)]
    plaintext: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
}

impl TransitReader {
    /// Over the key that the settings name. Asks nobody yet.
    ///
    /// # Errors
    /// The address is none, or the certificates cannot be read.
    pub fn new(settings: VaultSettings) -> Result<Self, ProviderError> {
        VaultProvider::new(settings).map(Self)
    }

    /// Whether a text is a ciphertext of Transit, under any key.
    #[must_use]
    pub fn recognises(text: &str) -> bool {
        version_of(text).is_some()
    }

    /// Opens these ciphertexts, a batch a request; `None`: the server does not open it.
    ///
    /// # Errors
    /// The server cannot be reached, or the key may not be used.
    pub fn open(
        &self,
        ciphertexts: &[&str],
    ) -> Result<Vec<Option<Zeroizing<Vec<u8>>>>, ProviderError> {
        let Self(provider) = self;
        let mut opened = Vec::with_capacity(ciphertexts.len());
        for batch in ciphertexts.chunks(provider.batch) {
            let input = batch.iter().map(|ciphertext| Ciphertext { ciphertext }).collect();
            let path = format!("{}/decrypt/{}", provider.mount, provider.key);
            let client: &Client = &provider.client;
            let answer =
                client.ask(Method::POST, &path, &Ciphertexts { batch_input: input }, |body| {
                    let results = serde_json::from_slice::<Data<Opened<'_>>>(body).ok()?;
                    let of_item = |item: Plaintext<'_>| {
                        let failed = item.error.is_some_and(|error| !error.is_empty());
                        let text = item.plaintext.filter(|_| !failed)?;
                        STANDARD.decode(text.as_bytes()).ok().map(Zeroizing::new)
                    };
                    Some(results.data.batch_results.into_iter().map(of_item).collect::<Vec<_>>())
                });
            let results = answer.map_err(|failure| provider.of_key(failure, None))?;
            if results.len() != batch.len() {
                return Err(malformed("as many results as there were ciphertexts"));
            }
            opened.extend(results);
        }
        Ok(opened)
    }
}
