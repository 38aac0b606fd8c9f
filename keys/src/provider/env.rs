//! Provider `env`: a key-encrypting key derived from 32 bytes of the environment.

use veilstream_engine::kdf;
use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::{WrapContext, unwrap_local, wrap_local};
use zeroize::Zeroizing;

use super::{
    Kek, Provider, ProviderError, Rotation, decode_key, nonce, refused, replaced_by_another,
};
use crate::store::Wrap;

const NAME: &str = "env";

/// `KEK = expand(the 32 bytes of ENCRYPTION_KEY, "vs1/kek", 32)`, so that a key also used for
/// Fernet elsewhere is safe to reuse.
pub struct EnvProvider {
    kek: SecretKey,
    /// Which key it is, so that wraps of two keys are told apart.
    version: String,
}

impl EnvProvider {
    /// From 32 bytes in base64 or base64url.
    ///
    /// # Errors
    /// [`ProviderError::Unusable`]: it is not 32 bytes in base64.
    pub fn new(encoded: &str) -> Result<Self, ProviderError> {
        let message =
            "ENCRYPTION_KEY is not 32 bytes in base64; make one with `openssl rand -base64 32`"
                .to_owned();
        let given = decode_key(encoded.trim())
            .ok_or(ProviderError::Unusable { provider: NAME, message })?;
        let mut kek = Zeroizing::new([0; 32]);
        kdf::expand(given.expose(), &[b"vs1/kek"], &mut *kek);
        let kek = SecretKey::new(*kek);
        let version = kdf::key_id(&kdf::key_check_value(&kek)).to_string();
        Ok(Self { kek, version })
    }
}

impl Provider for EnvProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn describe(&self) -> Result<Kek, ProviderError> {
        Ok(Kek {
            uri: NAME.to_owned(),
            version: self.version.clone(),
            since: None,
            rotation: Rotation::Elsewhere,
        })
    }

    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        let wrapped = wrap_local(&self.kek, nonce(NAME)?, key, context);
        Ok(Wrap { kek_uri: NAME.to_owned(), kek_version: self.version.clone(), wrapped })
    }

    fn opens(&self, kek_uri: &str) -> bool {
        kek_uri == NAME
    }

    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        unwrap_local(&self.kek, &wrap.wrapped, context).map_err(refused(
            NAME,
            context,
            "another ENCRYPTION_KEY",
        ))
    }

    fn rotate(&self, _: u64) -> Result<Kek, ProviderError> {
        Err(replaced_by_another(NAME))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answer of an independent implementation (tests/vectors/v1.json, env_kek).
    #[test]
    fn the_kek_is_the_known_answer() {
        for spelling in [
            "4OHi4+Tl5ufo6err7O3u7/Dx8vP09fb3+Pn6+/z9/v8=",
            "4OHi4-Tl5ufo6err7O3u7_Dx8vP09fb3-Pn6-_z9_v8=",
        ] {
            let kek = EnvProvider::new(spelling).unwrap().kek;
            let hex: String = kek.expose().iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, "c8016e491a9fb3ab9aba3bd5e50446ad6d0b61f8cef79fde4d4a6cb508fc9d89");
        }
    }

    #[test]
    fn a_wrong_key_says_how_to_make_one_and_not_what_it_was() {
        let Err(error) = EnvProvider::new("c2VjcmV0") else { panic!("accepted") };
        assert!(error.to_string().contains("openssl rand -base64 32"), "{error}");
        assert!(!error.to_string().contains("c2VjcmV0"), "{error}");
    }
}
