//! Opens what an application sealed with KMS directly (`Encrypt` of each value).

use std::sync::Arc;

use aws_sdk_kms::error::ProvideErrorMetadata as _;
use aws_sdk_kms::primitives::Blob;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::{AwsKmsProvider, AwsKmsSettings, ProviderError, failure, malformed};

/// Requests at once: KMS limits requests a second, and answers each in some milliseconds.
const AT_ONCE: usize = 16;

/// KMS keys that another application seals with.
pub struct KmsReader(AwsKmsProvider);

impl KmsReader {
    /// Over the keys that the settings name. Asks nobody yet.
    ///
    /// # Errors
    /// An ARN is none of a key, or no runtime can be started.
    pub fn new(settings: &AwsKmsSettings) -> Result<Self, ProviderError> {
        AwsKmsProvider::new(settings).map(Self)
    }

    /// Opens these ciphertexts, without an encryption context; `None`: none of the keys opens it.
    ///
    /// # Errors
    /// KMS cannot be reached, or a key may not be used.
    pub fn open(
        &self,
        ciphertexts: Vec<Vec<u8>>,
    ) -> Result<Vec<Option<Zeroizing<Vec<u8>>>>, ProviderError> {
        let Self(provider) = self;
        let at_once = Arc::new(Semaphore::new(AT_ONCE));
        provider.runtime.block_on(async {
            let mut tasks = Vec::with_capacity(ciphertexts.len());
            for ciphertext in ciphertexts {
                let at_once = at_once.clone();
                let keys: Vec<_> =
                    provider.keys.iter().map(|key| (key.arn.clone(), key.client.clone())).collect();
                tasks.push(tokio::spawn(async move {
                    let Ok(_turn) = at_once.acquire().await else {
                        return Err(malformed("a turn"));
                    };
                    open(&keys, ciphertext).await
                }));
            }
            let mut opened = Vec::with_capacity(tasks.len());
            for task in tasks {
                opened.push(task.await.map_err(|_| malformed("an answer"))??);
            }
            Ok(opened)
        })
    }
}

async fn open(
    keys: &[(String, aws_sdk_kms::Client)],
    ciphertext: Vec<u8>,
) -> Result<Option<Zeroizing<Vec<u8>>>, ProviderError> {
    for (arn, client) in keys {
        let request = client.decrypt().key_id(arn).ciphertext_blob(Blob::new(ciphertext.clone()));
        match request.send().await {
            Ok(answer) => {
                let plain = answer.plaintext.ok_or_else(|| malformed("a plaintext"))?;
                return Ok(Some(Zeroizing::new(plain.into_inner())));
            }
            // Another key's, or no ciphertext.
            Err(error)
                if matches!(
                    error.code(),
                    Some("InvalidCiphertextException" | "IncorrectKeyException")
                ) => {}
            Err(error) => return Err(failure(&error, arn, None)),
        }
    }
    Ok(None)
}
