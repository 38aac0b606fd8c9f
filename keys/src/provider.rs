//! Providers of the key-encrypting key: what wraps keys before they are stored and unwraps them again.

mod env;
mod file;
mod password;

pub use env::EnvProvider;
pub use file::{FileProvider, create_kek_file};
pub use password::{ITERATIONS, PasswordProvider};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::{UnwrapError, WrapContext};
use zeroize::Zeroizing;

use crate::store::Wrap;

/// Wraps and unwraps keys. Blocks.
pub trait Provider: Send + Sync {
    /// Its name in the configuration, metrics and messages.
    fn name(&self) -> &'static str;

    /// Wraps `key` under the active key-encrypting key.
    ///
    /// # Errors
    /// [`ProviderError`]; the key must not be used then.
    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError>;

    /// Whether a wrap with this `kek_uri` is this provider's.
    fn opens(&self, kek_uri: &str) -> bool;

    /// Unwraps a wrap that it [`opens`](Provider::opens).
    ///
    /// # Errors
    /// [`ProviderError`]; [`ProviderError::Refused`] for a wrap of another key-encrypting key or an edited row.
    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError>;
}

/// The provider cannot do it.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// The key-encrypting key is not usable; says where and what to do.
    #[error("key provider {provider}: {message}")]
    Unusable {
        /// The provider.
        provider: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// The wrap does not open.
    #[error("key {kid} does not open with provider {provider}: it was wrapped with {what}, or its row was changed")]
    Refused {
        /// The provider.
        provider: &'static str,
        /// The key.
        kid: veilstream_engine::KeyId,
        /// What the user may have mixed up.
        what: &'static str,
    },
}

/// 24 bytes for a wrap's nonce, from the operating system.
fn nonce(provider: &'static str) -> Result<[u8; 24], ProviderError> {
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).map_err(|_| ProviderError::Unusable { provider, message: "the system gives no random bytes".to_owned() })?;
    Ok(nonce)
}

fn refused(provider: &'static str, context: &WrapContext<'_>, what: &'static str) -> impl FnOnce(UnwrapError) -> ProviderError {
    let kid = context.kid;
    move |UnwrapError| ProviderError::Refused { provider, kid, what }
}

/// 32 bytes from standard or url-safe base64, padded or not.
fn decode_key(text: &str) -> Option<SecretKey> {
    const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    // Longer texts than a key's are refused before they are decoded; the decoder wants room for its estimate.
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
        for wrong in ["", "=", "not base64!", short, &long, &format!("{standard}\n"), &standard.replace('+', "+-")] {
            assert!(decode_key(wrong).is_none(), "{wrong:?}");
        }
    }
}
