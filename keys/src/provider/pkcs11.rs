//! Provider `pkcs11`: AES keys in a token (a hardware security module) that never leave it. Keys of
//! one label are versions of one key-encrypting key; their `CKA_ID`, read as a number, is the
//! version, and the highest wraps.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::WrapContext;
use zeroize::Zeroizing;

use super::{Kek, Provider, ProviderError, Rotation, SecretText};
use crate::store::Wrap;

const NAME: &str = "pkcs11";
/// Bytes of a nonce and of a wrap: nonce, key, tag.
const NONCE: usize = 12;
const WRAPPED: usize = NONCE + 32 + 16;

/// Which key, and how the token is reached.
#[derive(Debug, Clone)]
pub struct Pkcs11Settings {
    /// Path of the vendor's shared library.
    pub module: PathBuf,
    /// The token's label: slots have other numbers tomorrow.
    pub token_label: String,
    /// Label of the AES keys, one object a version.
    pub key_label: String,
    /// PIN of the token's user. A refused one is not tried again.
    pub pin: SecretText,
}

/// Asks the token at each use, in one session that is opened again where it was lost.
pub struct Pkcs11Provider {
    settings: Pkcs11Settings,
    module: Pkcs11,
    uri: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    /// A PIN that was refused. It is not tried again: a few tries lock the token for everybody.
    refused: Option<Zeroizing<String>>,
}

/// A key of the token.
struct Version {
    id: Vec<u8>,
    handle: ObjectHandle,
}

/// Why the token did not do it.
enum TokenFailure {
    Token(Error),
    Other(ProviderError),
}

impl From<Error> for TokenFailure {
    fn from(error: Error) -> Self {
        Self::Token(error)
    }
}

impl Pkcs11Provider {
    /// Over the module that the settings name.
    ///
    /// # Errors
    /// The module cannot be loaded, or a label is not one.
    pub fn new(settings: Pkcs11Settings) -> Result<Self, ProviderError> {
        let is_label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|b| (b' '..=b'~').contains(&b) && !b";%/=".contains(&b))
        };
        if !is_label(&settings.token_label) || !is_label(&settings.key_label) {
            return Err(unusable("labels are printable ASCII without ; % / and =".to_owned()));
        }
        let uri = format!("{NAME}:token={};object={}", settings.token_label, settings.key_label);
        Ok(Self { module: module(&settings.module)?, settings, uri, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something in the session; once more in a new one where the session turns out to be
    /// gone.
    fn with<T>(
        &self,
        act: impl Fn(&Session) -> Result<T, TokenFailure>,
    ) -> Result<T, ProviderError> {
        let mut state = self.state();
        for is_second in [false, true] {
            if state.session.is_none() {
                state.session = Some(self.open(&mut state)?);
            }
            let Some(session) = &state.session else { continue };
            match act(session) {
                Ok(done) => return Ok(done),
                Err(TokenFailure::Other(error)) => return Err(error),
                Err(TokenFailure::Token(error)) if is_gone(&error) => {
                    state.session = None;
                    if is_second {
                        return Err(away(&error));
                    }
                }
                Err(TokenFailure::Token(error)) => return Err(failure(&error)),
            }
        }
        Err(unusable("no session".to_owned()))
    }

    fn open(&self, state: &mut State) -> Result<Session, ProviderError> {
        initialized(&self.module).map_err(|e| {
            unusable(format!("{} does not start ({e})", self.settings.module.display()))
        })?;
        let label = &self.settings.token_label;
        let slots = self.module.get_slots_with_initialized_token().map_err(|e| away(&e))?;
        let slot = slots.into_iter().find(|slot| {
            self.module.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == label)
        });
        let Some(slot) = slot else {
            let message = format!(
                "there is no token labelled {label}; plug it in, or correct keys.pkcs11.token_label"
            );
            return Err(ProviderError::Unavailable { provider: NAME, message, retry_after: None });
        };
        let pin = self.settings.pin.read().map_err(|error| unusable(error.to_string()))?;
        if state.refused.as_ref() == Some(&pin) {
            return Err(denied("the PIN was refused; correct keys.pkcs11.pin_file"));
        }
        // A session that may write: only `rotate` does.
        let session = self.module.open_rw_session(slot).map_err(|e| away(&e))?;
        match session.login(UserType::User, Some(&AuthPin::from(pin.to_string()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(Error::Pkcs11(
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange,
                _,
            )) => {
                state.refused = Some(pin);
                Err(denied(
                    "the PIN is refused; correct keys.pkcs11.pin_file. It is not tried again: a \
                    few tries lock the token",
                ))
            }
            Err(Error::Pkcs11(RvError::PinLocked | RvError::PinExpired, _)) => Err(denied(
                "the PIN is locked or expired; the token's security officer sets a new one",
            )),
            Err(error) => Err(away(&error)),
        }
    }

    /// The keys with the label, the newest last.
    fn versions(&self, session: &Session) -> Result<Vec<Version>, TokenFailure> {
        let wanted = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(true),
            Attribute::Label(self.settings.key_label.clone().into_bytes()),
        ];
        let mut versions = Vec::new();
        for handle in session.find_objects(&wanted)? {
            let id = session
                .get_attributes(handle, &[AttributeType::Id])?
                .into_iter()
                .find_map(|found| if let Attribute::Id(id) = found { Some(id) } else { None });
            let id: Vec<u8> =
                id.unwrap_or_default().into_iter().skip_while(|byte| *byte == 0).collect();
            if id.is_empty() {
                return Err(TokenFailure::Other(unusable(format!(
                    "a key labelled {} has no id; give it one (CKA_ID), which is its version",
                    self.settings.key_label
                ))));
            }
            versions.push(Version { id, handle });
        }
        versions.sort_by(|a, b| (a.id.len(), &a.id).cmp(&(b.id.len(), &b.id)));
        if let Some(twice) = versions.windows(2).find(|pair| pair[0].id == pair[1].id) {
            let message = format!(
                "two keys labelled {} have the id {}; a version is one key",
                self.settings.key_label,
                hex(&twice[0].id)
            );
            return Err(TokenFailure::Other(unusable(message)));
        }
        Ok(versions)
    }

    fn newest(&self, session: &Session) -> Result<Version, TokenFailure> {
        let label = &self.settings.key_label;
        self.versions(session)?.pop().ok_or_else(|| {
            TokenFailure::Other(unusable(format!(
                "the token has no AES key labelled {label}; make one, \
                for example: pkcs11-tool --login --keygen --key-type AES:32 --id 01 --label \
                {label} --sensitive"
            )))
        })
    }
}

impl Provider for Pkcs11Provider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn opens(&self, kek_uri: &str) -> bool {
        kek_uri == self.uri
    }

    fn describe(&self) -> Result<Kek, ProviderError> {
        let newest = self.with(|session| self.newest(session))?;
        // A token has a backup of its own, which must not fall behind unseen.
        Ok(Kek {
            uri: self.uri.clone(),
            version: hex(&newest.id),
            since: None,
            rotation: Rotation::Operator,
        })
    }

    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        self.with(|session| {
            let newest = self.newest(session)?;
            let mut nonce = [0; NONCE];
            getrandom::fill(&mut nonce).map_err(|_| {
                TokenFailure::Other(unusable("the system gives no random bytes".to_owned()))
            })?;
            let associated = context.associated_data();
            let sealed = session.encrypt(
                &Mechanism::AesGcm(GcmParams::new(&mut nonce, &associated, 128.into())?),
                newest.handle,
                key.expose(),
            )?;
            // Modules that insist on a nonce of their own have put it there.
            let wrapped = [&nonce[..], &sealed].concat();
            if wrapped.len() != WRAPPED {
                return Err(TokenFailure::Other(malformed(&format!(
                    "a ciphertext of {} bytes",
                    WRAPPED - NONCE
                ))));
            }
            Ok(Wrap { kek_uri: self.uri.clone(), kek_version: hex(&newest.id), wrapped })
        })
    }

    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        let refused =
            || ProviderError::Refused { provider: NAME, kid: context.kid, what: "another key" };
        let Some((nonce, sealed)) =
            wrap.wrapped.split_at_checked(NONCE).filter(|_| wrap.wrapped.len() == WRAPPED)
        else {
            return Err(refused());
        };
        self.with(|session| {
            let version = self
                .versions(session)?
                .into_iter()
                .find(|version| hex(&version.id) == wrap.kek_version)
                .ok_or_else(|| {
                    let message = format!(
                        "the token has no key labelled {} with the id {}, which wraps key {}",
                        self.settings.key_label, wrap.kek_version, context.kid
                    );
                    TokenFailure::Other(ProviderError::Disabled { provider: NAME, message })
                })?;
            let (mut nonce, associated) = (nonce.to_vec(), context.associated_data());
            let opened = session.decrypt(
                &Mechanism::AesGcm(GcmParams::new(&mut nonce, &associated, 128.into())?),
                version.handle,
                sealed,
            );
            let plain = match opened {
                Ok(plain) => Zeroizing::new(plain),
                // Tokens answer a wrong tag with whatever they like, also with what they answer
                // when they are ill. One that is well otherwise refused the wrap.
                Err(error)
                    if !is_gone(&error)
                        && !is_forbidden(&error)
                        && session.generate_random_vec(1).is_ok() =>
                {
                    return Err(TokenFailure::Other(refused()));
                }
                Err(error) => return Err(error.into()),
            };
            Ok(SecretKey::new(
                plain
                    .as_slice()
                    .try_into()
                    .map_err(|_| TokenFailure::Other(malformed("a key of 32 bytes")))?,
            ))
        })
    }

    fn rotate(&self, _: u64) -> Result<Kek, ProviderError> {
        self.with(|session| {
            let id = successor(&self.newest(session)?.id);
            let template = [
                Attribute::Class(ObjectClass::SECRET_KEY),
                Attribute::KeyType(KeyType::AES),
                Attribute::ValueLen(32.into()),
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
                Attribute::Label(self.settings.key_label.clone().into_bytes()),
                Attribute::Id(id),
            ];
            session.generate_key(&Mechanism::AesKeyGen, &template)?;
            Ok(())
        })?;
        self.describe()
    }
}

fn module(path: &Path) -> Result<Pkcs11, ProviderError> {
    Pkcs11::new(path).map_err(|e| {
        unusable(format!(
            "{} is no PKCS#11 module ({e}); correct keys.pkcs11.module",
            path.display()
        ))
    })
}

/// The module's state is the process's: others may have initialised it, or finalised it.
fn initialized(module: &Pkcs11) -> Result<(), Error> {
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        answer => answer,
    }
}

/// The session, or the token in it, is not there any more.
fn is_gone(error: &Error) -> bool {
    use RvError::{
        CryptokiNotInitialized, DeviceError, DeviceMemory, DeviceRemoved, SessionClosed,
        SessionHandleInvalid, TokenNotPresent, UserNotLoggedIn,
    };
    let Error::Pkcs11(rv, _) = error else { return false };
    matches!(
        rv,
        CryptokiNotInitialized
            | DeviceError
            | DeviceMemory
            | DeviceRemoved
            | SessionClosed
            | SessionHandleInvalid
            | TokenNotPresent
            | UserNotLoggedIn
    )
}

fn is_forbidden(error: &Error) -> bool {
    matches!(error, Error::Pkcs11(RvError::KeyFunctionNotPermitted, _))
}

fn failure(error: &Error) -> ProviderError {
    if is_forbidden(error) {
        let message =
            "the token does not let it do that; allow CKA_ENCRYPT and CKA_DECRYPT".to_owned();
        return ProviderError::Disabled { provider: NAME, message };
    }
    if matches!(error, Error::Pkcs11(RvError::MechanismInvalid, _)) {
        return unusable("the token does not do AES-GCM (CKM_AES_GCM)".to_owned());
    }
    away(error)
}

fn away(error: &Error) -> ProviderError {
    ProviderError::Unavailable { provider: NAME, message: error.to_string(), retry_after: None }
}

fn unusable(message: String) -> ProviderError {
    ProviderError::Unusable { provider: NAME, message }
}

fn denied(message: &str) -> ProviderError {
    ProviderError::Denied { provider: NAME, message: message.to_owned() }
}

fn malformed(expected: &str) -> ProviderError {
    ProviderError::Malformed { provider: NAME, message: format!("it should be {expected}") }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The number after this one.
fn successor(id: &[u8]) -> Vec<u8> {
    let mut next = id.to_vec();
    for byte in next.iter_mut().rev() {
        let (sum, carry) = byte.overflowing_add(1);
        *byte = sum;
        if !carry {
            return next;
        }
    }
    next.insert(0, 1);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        for (id, next) in [
            (&[1][..], &[2][..]),
            (&[0xff], &[1, 0]),
            (&[1, 0xff], &[2, 0]),
            (&[0xff, 0xff], &[1, 0, 0]),
        ] {
            assert_eq!(successor(id), next);
        }
    }
}
