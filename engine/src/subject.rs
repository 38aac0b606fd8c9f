//! Data subjects: scalar text and reference (docs/formats.md).
use crate::key::{Key, KeyKind, SubjectRef};
use crate::mac::HmacSha256;
use crate::scan;

/// Writes the scalar text of a JSON value to `out`: a string's unescaped UTF-8, or an integer's
/// digits as written. `false` for anything else: fraction, exponent, `-0`, lone surrogate, literal,
/// container.
pub fn scalar_text(json: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    match json.first() {
        Some(b'"') => json.len() >= 2 && scan::unescape(&json[1..json.len() - 1], out),
        Some(_) if json != b"-0" && is_integer(json) => {
            out.extend_from_slice(json);
            true
        }
        _ => false,
    }
}

/// `-?(0|[1-9][0-9]*)`.
pub(crate) fn is_integer(json: &[u8]) -> bool {
    let digits = json.strip_prefix(b"-").unwrap_or(json);
    !digits.is_empty()
        && digits.iter().all(u8::is_ascii_digit)
        && (digits.len() == 1 || digits[0] != b'0')
}

/// Makes references of the data subjects of one domain (docs/formats.md, "Keys"): the first 16
/// bytes of an HMAC under the `subject_ref` key.
pub struct Referrer {
    /// Keyed, and with everything taken but the text.
    mac: HmacSha256,
}

impl Referrer {
    /// `domain` says whose ids these are; `None` and `""` are the formula without a domain. `None`
    /// when `key` is no usable `subject_ref` key of that tenant.
    #[must_use]
    pub fn new(key: &Key, tenant: &str, domain: Option<&str>) -> Option<Self> {
        let secret = key
            .secret
            .as_ref()
            .filter(|_| key.kind == KeyKind::SubjectRef && *key.tenant == *tenant)?;
        let mut mac = HmacSha256::new(secret.expose());
        match domain.filter(|domain| !domain.is_empty()) {
            None => {
                mac.update(b"vs1/ref");
                mac.update_part(tenant.as_bytes());
            }
            Some(domain) => {
                mac.update(b"vs1/ref/domain");
                mac.update_part(tenant.as_bytes());
                mac.update_part(domain.as_bytes());
            }
        }
        Some(Self { mac })
    }

    /// The reference of a subject with this scalar text.
    #[must_use]
    pub fn reference(&self, scalar: &[u8]) -> SubjectRef {
        let mut mac = self.mac.clone();
        mac.update_part(scalar);
        let mut out = [0; 16];
        out.copy_from_slice(&mac.publish()[..16]);
        SubjectRef(out)
    }
}

/// The reference of the data subject with that scalar text in `domain` (`None` and `""`: no
/// domain); see [`Referrer`].
#[must_use]
pub fn subject_reference(
    key: &Key,
    tenant: &str,
    domain: Option<&str>,
    scalar: &[u8],
) -> Option<SubjectRef> {
    Some(Referrer::new(key, tenant, domain)?.reference(scalar))
}

/// [`subject_reference`] without a domain.
#[must_use]
pub fn subject_ref(key: &Key, tenant: &str, scalar: &[u8]) -> Option<SubjectRef> {
    subject_reference(key, tenant, None, scalar)
}
