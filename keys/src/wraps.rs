//! The wraps of a record: who made them, who opens them, and the secret that they hold.

use veilstream_engine::kdf;
use veilstream_engine::key::{Key, KeyId, SecretKey};
use veilstream_engine::wrap::{WrapContext, unwrap_local, wrap_local};

use crate::KeyError;
use crate::provider::{Provider, ProviderError};
use crate::store::{KeyRecord, Wrap};

/// `kek_uri` of a wrap under a wrapping key.
pub(crate) const BY_KEY: &str = "kid:";
/// Start of the `kek_uri` of a wrap of the recovery provider: it may be of the same kind as the
/// other.
pub(crate) const RECOVERY: &str = "recovery:";

/// What a wrap of the record is bound to.
pub(crate) fn context_of(record: &KeyRecord) -> WrapContext<'_> {
    WrapContext { kid: record.kid, kind: record.kind, tenant: &record.tenant, scope: &record.scope }
}

/// The secret, if it is the record's. The wrap is bound to the id; this compares the whole check
/// value.
pub(crate) fn checked(record: &KeyRecord, secret: SecretKey) -> Result<SecretKey, KeyError> {
    if kdf::key_check_value(&secret) == record.kcv {
        Ok(secret)
    } else {
        Err(KeyError::CheckValue { kid: record.kid })
    }
}

/// A key's secret by the provider, else by the recovery provider.
pub(crate) fn secret_of(
    record: &KeyRecord,
    provider: &dyn Provider,
    recovery: Option<&dyn Provider>,
) -> Result<SecretKey, KeyError> {
    match (provider_secret(record, provider), recovery) {
        (Err(_), Some(recovery)) => recovered_secret(record, recovery),
        (secret, _) => secret,
    }
}

/// The secret by the first wrap that the provider opens.
pub(crate) fn provider_secret(
    record: &KeyRecord,
    provider: &dyn Provider,
) -> Result<SecretKey, KeyError> {
    let wrap = by_provider(record, provider).ok_or_else(|| other_provider(record, provider))?;
    checked(record, provider.unwrap(wrap, &context_of(record))?)
}

/// The secret by way of the recovery provider: from a wrap made for recovery, or from one of the
/// lost provider, if that is what was configured for recovery.
pub(crate) fn recovered_secret(
    record: &KeyRecord,
    recovery: &dyn Provider,
) -> Result<SecretKey, KeyError> {
    let (for_recovery, lost): (Vec<&Wrap>, Vec<&Wrap>) =
        record.wraps.iter().partition(|wrap| wrap.kek_uri.starts_with(RECOVERY));
    let opens =
        |wrap: &&Wrap| recovery.opens(wrap.kek_uri.strip_prefix(RECOVERY).unwrap_or(&wrap.kek_uri));
    let wrap = for_recovery
        .iter()
        .chain(&lost)
        .copied()
        .find(opens)
        .ok_or(KeyError::NotForRecovery { kid: record.kid })?;
    checked(record, recovery.unwrap(&without_prefix(wrap), &context_of(record))?)
}

/// The first wrap that the provider opens.
pub(crate) fn by_provider<'r>(record: &'r KeyRecord, provider: &dyn Provider) -> Option<&'r Wrap> {
    record.wraps.iter().find(|wrap| provider.opens(&wrap.kek_uri))
}

pub(crate) fn other_provider(record: &KeyRecord, provider: &dyn Provider) -> KeyError {
    KeyError::OtherProvider {
        kid: record.kid,
        kind: record.kind,
        scope: record.scope.clone(),
        wrapped_by: record
            .wraps
            .first()
            .map_or_else(|| "nobody".to_owned(), |wrap| wrap.kek_uri.clone()),
        provider: provider.name(),
    }
}

/// A wrap as its provider knows it.
pub(crate) fn without_prefix(wrap: &Wrap) -> Wrap {
    let kek_uri = wrap.kek_uri.strip_prefix(RECOVERY).unwrap_or(&wrap.kek_uri).to_owned();
    Wrap { kek_uri, ..wrap.clone() }
}

/// Which wrapping key made a wrap, if one did.
pub(crate) fn wrapping_kid(wrap: &Wrap) -> Option<KeyId> {
    wrap.kek_uri.strip_prefix(BY_KEY).and_then(|hex| hex.parse().ok())
}

pub(crate) fn wrap_under(
    wrapping: &Key,
    secret: &SecretKey,
    context: &WrapContext<'_>,
) -> Result<Wrap, KeyError> {
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).map_err(|_| KeyError::Random)?;
    let key = usable(wrapping)?;
    Ok(Wrap {
        kek_uri: format!("{BY_KEY}{}", wrapping.id),
        kek_version: wrapping.version.to_string(),
        wrapped: wrap_local(key, nonce, secret, context),
    })
}

pub(crate) fn unwrap_under(
    wrapping: &Key,
    wrap: &Wrap,
    context: &WrapContext<'_>,
) -> Result<SecretKey, KeyError> {
    let refused = ProviderError::Refused {
        provider: "wrapping key",
        kid: context.kid,
        what: "another wrapping key",
    };
    unwrap_local(usable(wrapping)?, &wrap.wrapped, context).map_err(|_| refused.into())
}

/// The secret of a wrapping key; a retired or shredded one has none.
fn usable(wrapping: &Key) -> Result<&SecretKey, KeyError> {
    wrapping.secret.as_ref().ok_or_else(|| KeyError::NotActive {
        kind: wrapping.kind,
        scope: wrapping.scope.clone(),
        state: wrapping.state,
    })
}
