//! Provider `password`: key-encrypting keys derived with PBKDF2-HMAC-SHA-256, salt and iterations
//! named in each wrap.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use icu_normalizer::ComposingNormalizerBorrowed;
use sha2::Sha256;
use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::{WrapContext, unwrap_local, wrap_local};
use zeroize::Zeroizing;

use super::{Kek, Provider, ProviderError, Rotation, nonce, refused, replaced_by_another};
use crate::store::Wrap;

const NAME: &str = "password";
const PREFIX: &str = "pbkdf2-sha256:";
/// Another password is another key, not another version.
const VERSION: &str = "1";
/// Iterations of new wraps, and the least of them.
pub const ITERATIONS: u32 = 600_000;
/// Iterations accepted in a wrap that is opened: fewer is no protection, more is an attack on our
/// time.
const ACCEPTED: std::ops::RangeInclusive<u32> = 100_000..=10_000_000;
/// Salts are at most so long in a wrap that is opened.
const SALT_MAX: usize = 64;
const SALT: usize = 16;

/// Salt and iterations, as a wrap names them.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Parameters {
    iterations: u32,
    salt: Vec<u8>,
}

/// Derivations are slow on purpose; each set of parameters is derived once in a process.
pub struct PasswordProvider {
    password: Zeroizing<String>,
    iterations: u32,
    derived: Mutex<HashMap<Parameters, SecretKey>>,
}

impl PasswordProvider {
    /// From a password, of which one final line feed does not count; wraps with so many iterations.
    ///
    /// # Errors
    /// The password is empty or the iterations are too few or too many.
    pub fn new(password: &str, iterations: u32) -> Result<Self, ProviderError> {
        let unusable =
            |message: &str| ProviderError::Unusable { provider: NAME, message: message.to_owned() };
        // Editors end a file with one; more of them are part of the password.
        let password = password.strip_suffix('\n').unwrap_or(password);
        if password.is_empty() {
            return Err(unusable("the password is empty"));
        }
        if !(ITERATIONS..=*ACCEPTED.end()).contains(&iterations) {
            return Err(unusable("iterations are 600000 to 10000000"));
        }
        // Two keyboards may spell one password with different code points. The normaliser grows its
        // result, so room for all of it is made first: a reallocation would leave a copy behind.
        let mut normal = Zeroizing::new(String::with_capacity(password.len() * 3));
        let normalizer = ComposingNormalizerBorrowed::new_nfc();
        normalizer
            .normalize_to(password, &mut *normal)
            .map_err(|_| unusable("the password cannot be normalised"))?;
        Ok(Self { password: normal, iterations, derived: Mutex::default() })
    }

    fn kek(&self, parameters: &Parameters) -> SecretKey {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        derived
            .entry(parameters.clone())
            .or_insert_with(|| derive(&self.password, parameters))
            .clone()
    }

    /// What new wraps use: parameters already derived, so that a store does not collect a salt per
    /// process start.
    fn present(&self) -> Result<Parameters, ProviderError> {
        let derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) =
            derived.keys().find(|p| p.iterations == self.iterations && p.salt.len() >= SALT)
        {
            return Ok(known.clone());
        }
        Ok(Parameters { iterations: self.iterations, salt: nonce(NAME)?[..SALT].to_vec() })
    }
}

impl Provider for PasswordProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn describe(&self) -> Result<Kek, ProviderError> {
        Ok(Kek {
            uri: self.present()?.uri(),
            version: VERSION.to_owned(),
            since: None,
            rotation: Rotation::Elsewhere,
        })
    }

    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        let parameters = self.present()?;
        let wrapped = wrap_local(&self.kek(&parameters), nonce(NAME)?, key, context);
        Ok(Wrap { kek_uri: parameters.uri(), kek_version: VERSION.to_owned(), wrapped })
    }

    fn opens(&self, kek_uri: &str) -> bool {
        kek_uri.starts_with(PREFIX)
    }

    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        let parameters = Parameters::parse(&wrap.kek_uri).ok_or_else(|| ProviderError::Unusable {
            provider: NAME,
            message: format!(
                "key {}: its kek_uri is not {PREFIX}i=<100000 to 10000000>,s=<base64url of 16 to \
                {SALT_MAX} bytes>; the row was changed",
                context.kid
            ),
        })?;
        unwrap_local(&self.kek(&parameters), &wrap.wrapped, context).map_err(refused(
            NAME,
            context,
            "another password",
        ))
    }

    fn rotate(&self, _: u64) -> Result<Kek, ProviderError> {
        Err(replaced_by_another(NAME))
    }
}

impl Parameters {
    fn uri(&self) -> String {
        format!("{PREFIX}i={},s={}", self.iterations, URL_SAFE_NO_PAD.encode(&self.salt))
    }

    fn parse(uri: &str) -> Option<Self> {
        let (iterations, salt) = uri.strip_prefix(PREFIX)?.strip_prefix("i=")?.split_once(",s=")?;
        let iterations = iterations.parse().ok().filter(|i| ACCEPTED.contains(i))?;
        let salt =
            URL_SAFE_NO_PAD.decode(salt).ok().filter(|s| (SALT..=SALT_MAX).contains(&s.len()))?;
        let parsed = Self { iterations, salt };
        // "+600000" or leading zeros would name the same parameters by another text.
        (parsed.uri() == uri).then_some(parsed)
    }
}

fn derive(password: &str, parameters: &Parameters) -> SecretKey {
    let mut kek = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<Sha256>(
        password.as_bytes(),
        &parameters.salt,
        parameters.iterations,
        &mut *kek,
    );
    SecretKey::new(*kek)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// Known answer of an independent implementation (tests/vectors/v1.json, password_kek).
    #[test]
    fn the_kek_is_the_known_answer() {
        let parameters = Parameters { iterations: 600_000, salt: (0..16).collect() };
        let kek = derive("correct horse battery staple", &parameters);
        assert_eq!(
            hex(kek.expose()),
            "ef177144eec9420cbc1093d2a8b344a92bc506d0d4ec9c028dd19f8324d8c1e6"
        );
    }

    #[test]
    fn two_spellings_of_one_password_are_one_password() {
        let composed = PasswordProvider::new("p\u{e9}", ITERATIONS).unwrap();
        let decomposed = PasswordProvider::new("pe\u{301}", ITERATIONS).unwrap();
        assert_eq!(composed.password, decomposed.password);
    }

    #[test]
    fn parameters_out_of_bounds_are_refused_before_any_work() {
        let salt = URL_SAFE_NO_PAD.encode([7; 16]);
        assert!(Parameters::parse(&format!("pbkdf2-sha256:i=100000,s={salt}")).is_some());
        let short = URL_SAFE_NO_PAD.encode([7; 15]);
        let long = URL_SAFE_NO_PAD.encode([7; 65]);
        for wrong in [
            format!("pbkdf2-sha256:i=99999,s={salt}"),
            format!("pbkdf2-sha256:i=10000001,s={salt}"),
            format!("pbkdf2-sha256:i=+600000,s={salt}"),
            format!("pbkdf2-sha256:i=0600000,s={salt}"),
            format!("pbkdf2-sha256:i=600000,s={short}"),
            format!("pbkdf2-sha256:i=600000,s={long}"),
            format!("pbkdf2-sha256:i=600000,s={salt}="),
            format!("pbkdf2-sha512:i=600000,s={salt}"),
            "pbkdf2-sha256:".to_owned(),
        ] {
            assert!(Parameters::parse(&wrong).is_none(), "{wrong}");
        }
        assert!(PasswordProvider::new("x", 599_999).is_err());
        assert!(PasswordProvider::new("", ITERATIONS).is_err());
    }
}
