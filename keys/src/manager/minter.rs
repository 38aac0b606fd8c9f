//! A new key: its random bytes, its id, its wraps and its record.

use std::sync::Arc;

use veilstream_engine::kdf;
use veilstream_engine::key::{Key, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::wrap::WrapContext;
use zeroize::Zeroizing;

use crate::KeyError;
use crate::provider::Provider;
use crate::store::{KeyRecord, Wrap};
use crate::wraps::{RECOVERY, wrap_under};

/// What a new key is wrapped under.
pub(super) enum Wrapper<'a> {
    /// The key-encrypting keys of the provider and, if there is one, the recovery provider.
    Providers,
    /// A wrapping key of this tenant.
    Key(&'a Key),
}

/// Makes keys and wraps them. Stores none.
pub(super) struct Minter<'a> {
    tenant: &'a Arc<str>,
    provider: &'a dyn Provider,
    /// Wraps each key a second time; `None`: keys have one wrap.
    recovery: Option<&'a dyn Provider>,
}

impl<'a> Minter<'a> {
    pub(super) fn new(
        tenant: &'a Arc<str>,
        provider: &'a dyn Provider,
        recovery: Option<&'a dyn Provider>,
    ) -> Self {
        Self { tenant, provider, recovery }
    }

    /// A fresh key and its record, without a MAC and not stored yet: it must not seal before it is.
    pub(super) fn mint(
        &self,
        kind: KeyKind,
        scope: &Scope,
        version: u32,
        now: u64,
        wrapper: &Wrapper<'_>,
    ) -> Result<(KeyRecord, SecretKey), KeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(|_| KeyError::Random)?;
        let secret = SecretKey::new(*bytes);
        let kcv = kdf::key_check_value(&secret);
        let kid = kdf::key_id(&kcv);
        let context = WrapContext { kid, kind, tenant: self.tenant, scope };
        let wraps = match wrapper {
            Wrapper::Key(wrapping) => vec![wrap_under(wrapping, &secret, &context)?],
            Wrapper::Providers => {
                let mut wraps = vec![self.provider.wrap(&secret, &context)?];
                wraps.extend(self.wrap_for_recovery(&secret, &context)?);
                wraps
            }
        };
        let record = KeyRecord {
            kid,
            kcv,
            kind,
            tenant: self.tenant.clone(),
            scope: scope.clone(),
            version,
            state: KeyState::Active,
            created: now,
            retired: None,
            wraps,
            uses: None,
            mac: None,
        };
        Ok((record, secret))
    }

    /// The second wrap. A key without it would be lost with the key-encrypting key, so it is not
    /// made.
    pub(super) fn wrap_for_recovery(
        &self,
        secret: &SecretKey,
        context: &WrapContext<'_>,
    ) -> Result<Option<Wrap>, KeyError> {
        let Some(recovery) = self.recovery else { return Ok(None) };
        let wrap = recovery.wrap(secret, context)?;
        Ok(Some(Wrap { kek_uri: format!("{RECOVERY}{}", wrap.kek_uri), ..wrap }))
    }
}
