//! Providers of the key-encrypting key: what wraps keys before they are stored and unwraps them
//! again. Each is plain; [`layered`] adds what all of them need.

#[cfg(feature = "aws-kms")]
mod aws_kms;
mod clock;
mod env;
mod file;
mod layers;
mod password;
#[cfg(feature = "pkcs11")]
mod pkcs11;
mod secret;
#[cfg(feature = "vault")]
mod vault;

#[cfg(feature = "aws-kms")]
pub use aws_kms::{AwsKmsProvider, AwsKmsSettings, KmsReader};
pub use clock::{Clock, SystemClock};
pub use env::EnvProvider;
pub use file::{FileProvider, create_kek_file};
pub use layers::{CachePolicy, Observer, RetryPolicy, layered};
pub use password::{ITERATIONS, PasswordProvider};
#[cfg(feature = "pkcs11")]
pub use pkcs11::{Pkcs11Provider, Pkcs11Settings};
pub use secret::SecretText;
#[cfg(feature = "vault")]
pub use vault::{TransitReader, VaultAuth, VaultProvider, VaultSettings};

use std::time::Duration;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::{UnwrapError, WrapContext};
use zeroize::Zeroizing;

use crate::store::Wrap;

/// Wraps and unwraps keys under a key-encrypting key. Blocks.
pub trait Provider: Send + Sync {
    /// Its name in the configuration, metrics and messages.
    fn name(&self) -> &'static str;

    /// Whether a wrap with this `kek_uri` is this provider's. Asks nobody.
    fn opens(&self, kek_uri: &str) -> bool;

    /// The key-encrypting key that wraps now.
    ///
    /// # Errors
    /// [`ProviderError`].
    fn describe(&self) -> Result<Kek, ProviderError>;

    /// Whether it would wrap and unwrap now.
    ///
    /// # Errors
    /// [`ProviderError`]: why not.
    fn health(&self) -> Result<(), ProviderError> {
        self.describe().map(drop)
    }

    /// Wraps `key` under the key-encrypting key that wraps now.
    ///
    /// # Errors
    /// [`ProviderError`]; the key must not be used then.
    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError>;

    /// Unwraps a wrap that it [`opens`](Provider::opens).
    ///
    /// # Errors
    /// [`ProviderError`]; [`ProviderError::Refused`] for a wrap of another key-encrypting key or an
    /// edited row.
    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError>;

    /// Moves wraps that it [`opens`](Provider::opens) to the key-encrypting key that wraps now; one
    /// answer each, in their order. The wrapped keys stay the same. A key service does it without
    /// the keys leaving it.
    ///
    /// # Errors
    /// [`ProviderError`] where the request itself failed, for all of them.
    fn rewrap(
        &self,
        wraps: &[(&Wrap, WrapContext<'_>)],
    ) -> Result<Vec<Result<Wrap, ProviderError>>, ProviderError> {
        Ok(wraps
            .iter()
            .map(|(wrap, context)| {
                self.unwrap(wrap, context).and_then(|key| self.wrap(&key, context))
            })
            .collect())
    }

    /// Makes a new version of the key-encrypting key, which wraps from then on. `now` in Unix
    /// seconds.
    ///
    /// # Errors
    /// [`ProviderError`]; [`ProviderError::Unusable`] says how it is done where this program cannot
    /// do it.
    fn rotate(&self, now: u64) -> Result<Kek, ProviderError>;
}

/// What a provider tells about its key-encrypting key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kek {
    /// `kek_uri` of the wraps it makes now.
    pub uri: String,
    /// `kek_version` of the wraps it makes now.
    pub version: String,
    /// Unix seconds since when that version wraps; `None`: the provider does not know.
    pub since: Option<u64>,
    /// Who makes its next version.
    pub rotation: Rotation,
}

/// Who makes the next version of a key-encrypting key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// A running sidecar may: the key-encrypting key and its backups are the key service's.
    Here,
    /// An operator, by `keys rotate --kek`: what holds it has a backup that must not fall behind
    /// unseen.
    Operator,
    /// Its owner, elsewhere.
    Elsewhere,
}

/// The provider cannot do it. Holds names and reasons: no key bytes, no token, no answer's body.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProviderError {
    /// The key-encrypting key is not usable as configured; says where and what to do.
    #[error("key provider {provider}: {message}")]
    Unusable {
        /// [`Provider::name`] of the one that was asked.
        provider: &'static str,
        /// Which file, setting or key is wrong and what to do.
        message: String,
    },
    /// No answer, or one that says "later". The only failure that is worth another try.
    #[error("key provider {provider} is not available: {message}")]
    Unavailable {
        /// [`Provider::name`] of the one that was asked.
        provider: &'static str,
        /// The status or the cause of the connection; no body of an answer.
        message: String,
        /// When the service wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The service does not let this process do it.
    #[error("key provider {provider} denies it: {message}")]
    Denied {
        /// [`Provider::name`] of the one that was asked.
        provider: &'static str,
        /// What to grant.
        message: String,
    },
    /// The key-encrypting key, or the version that wrapped, is disabled, to be deleted or gone.
    #[error("key provider {provider}: the key-encrypting key cannot be used: {message}")]
    Disabled {
        /// [`Provider::name`] of the one that was asked.
        provider: &'static str,
        /// Which key or version, and what to do.
        message: String,
    },
    /// The wrap does not open.
    #[error(
        "key {kid} does not open with provider {provider}: it was wrapped with {what}, or its row \
        was changed"
    )]
    Refused {
        /// [`Provider::name`] of the one that was asked.
        provider: &'static str,
        /// Id of the wrapped key.
        kid: veilstream_engine::KeyId,
        /// What the user may have mixed up.
        what: &'static str,
    },
    /// The answer is not what the service answers.
    #[error("key provider {provider} gave an answer that makes no sense: {message}")]
    Malformed {
        /// [`Provider::name`] of the one that was asked.
        provider: &'static str,
        /// What was expected; never the answer.
        message: String,
    },
}

impl ProviderError {
    /// Whether another try may succeed without anybody doing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// Its name as the label of a metric.
    #[must_use]
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Unusable { .. } => "unusable",
            Self::Unavailable { .. } => "unavailable",
            Self::Denied { .. } => "denied",
            Self::Disabled { .. } => "disabled",
            Self::Refused { .. } => "refused",
            Self::Malformed { .. } => "malformed",
        }
    }
}

/// 24 bytes for a wrap's nonce, from the operating system.
fn nonce(provider: &'static str) -> Result<[u8; 24], ProviderError> {
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).map_err(|_| ProviderError::Unusable {
        provider,
        message: "the system gives no random bytes".to_owned(),
    })?;
    Ok(nonce)
}

/// How a key-encrypting key without versions is rotated.
fn replaced_by_another(provider: &'static str) -> ProviderError {
    let message = "has one key-encrypting key; to replace it, configure the new one, name the old \
        one as keys.recovery and run `veilstream keys rewrap --recover`";
    ProviderError::Unusable { provider, message: message.to_owned() }
}

fn refused(
    provider: &'static str,
    context: &WrapContext<'_>,
    what: &'static str,
) -> impl FnOnce(UnwrapError) -> ProviderError {
    let kid = context.kid;
    move |UnwrapError| ProviderError::Refused { provider, kid, what }
}

/// 32 bytes from standard or url-safe base64, padded or not.
fn decode_key(text: &str) -> Option<SecretKey> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet =
        if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    // Longer texts than a key's are refused before they are decoded; the decoder wants room for its
    // estimate.
    let mut bytes = Zeroizing::new([0; 36]);
    if text.len() > 44 {
        return None;
    }
    let length = GeneralPurpose::new(alphabet, LENIENT).decode_slice(text, &mut *bytes).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(bytes.get(..32).filter(|_| length == 32)?);
    Some(SecretKey::new(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_decode_in_every_usual_spelling() {
        let standard = "4OHi4+Tl5ufo6err7O3u7/Dx8vP09fb3+Pn6+/z9/v8=";
        let url = standard.replace('+', "-").replace('/', "_");
        let key = *decode_key(standard).unwrap().expose();
        for same in [url.as_str(), standard.trim_end_matches('='), url.trim_end_matches('=')] {
            assert_eq!(*decode_key(same).unwrap().expose(), key);
        }
        let short = &standard[..40];
        let long = format!("{}AAAA", standard.trim_end_matches('='));
        for wrong in [
            "",
            "=",
            "not base64!",
            short,
            &long,
            &format!("{standard}\n"),
            &standard.replace('+', "+-"),
        ] {
            assert!(decode_key(wrong).is_none(), "{wrong:?}");
        }
    }
}
