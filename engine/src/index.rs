//! Blind indexes: one equality tag as text (docs/formats.md, "Blind indexes").

use std::cmp::Reverse;

use zeroize::Zeroizing;

use crate::kdf;
use crate::key::{Key, KeyKind, KeyState, Scope};
use crate::keyring::Keyring;
use crate::mac::HmacSha256;
use crate::schema::IndexRule;
use crate::token::{append_base64, base64_chars};

/// Computes the tags of one field with one root. Keeps the HMAC state.
pub struct Indexer {
    mac: HmacSha256,
    version: u32,
    bits: u16,
}

impl Indexer {
    /// An indexer under `root` for `domain` (the field name or `@<domain>`), tags of `bits` bits (8
    /// to 64, or 128) over `parts` parts. `None` when `root` is no usable index root of that
    /// tenant, or for another number of bits.
    #[must_use]
    pub fn new(
        root: &Key,
        tenant: &str,
        domain: &str,
        normalizer: &str,
        bits: u16,
        parts: u16,
    ) -> Option<Self> {
        let Scope::Version(version) = root.scope else { return None };
        let fits =
            root.kind == KeyKind::Index && *root.tenant == *tenant && matches!(bits, 8..=64 | 128);
        let secret = root.secret.as_ref().filter(|_| fits)?;
        let key = index_key(secret.expose(), tenant, domain, normalizer, bits, parts);
        Some(Self { mac: HmacSha256::new(&key), version, bits })
    }

    /// An indexer under `root` for what a schema document says; `None` as in [`Indexer::new`].
    #[must_use]
    pub fn of_rule(root: &Key, tenant: &str, rule: &IndexRule) -> Option<Self> {
        let parts = u16::try_from(rule.of.len().max(1)).ok()?;
        let normalizer = rule.normalize.to_string();
        Self::new(root, tenant, &rule.domain, &normalizer, rule.bits, parts)
    }

    /// Indexers to search with: one for each root that stored values may be indexed under, the
    /// newest first. Empty: the keyring has no such root.
    #[must_use]
    pub fn to_search(rule: &IndexRule, keyring: &Keyring) -> Vec<Self> {
        let mut roots: Vec<_> = keyring
            .of_kind(KeyKind::Index)
            .filter(|root| matches!(root.state, KeyState::Active | KeyState::DecryptOnly))
            .filter(|root| rule.root.is_none_or(|pinned| root.scope == Scope::Version(pinned)))
            .collect();
        roots.sort_by_key(|root| Reverse(root.version));
        let tenant = keyring.tenant();
        roots.iter().filter_map(|root| Self::of_rule(root, tenant, rule)).collect()
    }

    /// Appends the tag of the normalised `parts` to `out`, without quotes.
    pub fn write<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
        let mut mac = self.mac.clone();
        for part in parts {
            mac.update_part(part);
        }
        let mut tag = mac.publish();
        let bytes = truncate(&mut tag, self.bits);
        append_decimal(self.version, out);
        out.push(b'~');
        append_base64(&tag[..bytes], out);
    }
}

/// Characters of a tag of that many bits whose root's version has that many digits.
#[must_use]
pub fn tag_chars(bits: u16, version_digits: usize) -> usize {
    version_digits + 1 + base64_chars(usize::from(bits).div_ceil(8))
}

/// `K_idx = expand(root, "vs1/idx" | LP(tenant) | LP(domain) | LP(normaliser) | u16 bits | u16 n,
/// 32)`.
fn index_key(
    root: &[u8; 32],
    tenant: &str,
    domain: &str,
    normalizer: &str,
    bits: u16,
    parts: u16,
) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    let lengths = [tenant, domain, normalizer].map(|s| kdf::length_prefix(s.len()));
    let info: [&[u8]; 9] = [
        b"vs1/idx",
        &lengths[0],
        tenant.as_bytes(),
        &lengths[1],
        domain.as_bytes(),
        &lengths[2],
        normalizer.as_bytes(),
        &bits.to_be_bytes(),
        &parts.to_be_bytes(),
    ];
    kdf::expand(root, &info, &mut key[..]);
    key
}

/// Keeps the first `bits` bits: `ceil(bits / 8)` bytes, unused low bits of the last one zero.
fn truncate(tag: &mut [u8; 32], bits: u16) -> usize {
    let bytes = usize::from(bits.div_ceil(8));
    let unused = (8 - bits % 8) % 8;
    tag[bytes - 1] &= 0xff << unused;
    bytes
}

fn append_decimal(mut n: u32, out: &mut Vec<u8>) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(n % 10).unwrap_or_default();
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
