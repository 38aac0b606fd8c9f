//! Fernet, version 0x80 (<https://github.com/fernet/spec>): AES-128-CBC, then HMAC-SHA-256 over all
//! before it; several keys as `MultiFernet` has them.

use std::fmt;

use aes::Aes128;
use aes::cipher::{Array, BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::EntropyError;
use crate::error::OpenError;
use crate::mac::HmacSha256;
use crate::seal::NoncePool;

const VERSION: u8 = 0x80;
const BLOCK: usize = 16;
/// Version, time and initialisation vector.
const HEAD: usize = 1 + 8 + BLOCK;
const TAG: usize = 32;
/// With padding as the reference writes it; other writers leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key: 16 bytes sign, 16 bytes encrypt. Zeroized when dropped; `Debug` hides it.
#[derive(Clone)]
pub struct FernetKey(Zeroizing<[u8; 32]>);

impl FernetKey {
    /// Reads a key: the base64url of 32 bytes, as `Fernet.generate_key()` writes it.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 33]);
        let length = BASE64.decode_slice(text, &mut *bytes).ok()?;
        Self::of_bytes(bytes.get(..length)?)
    }

    /// A key of these 32 bytes.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        (bytes.len() == key.len()).then(|| key.copy_from_slice(bytes))?;
        Some(Self(key))
    }

    /// The tag over what comes before it. HMAC fills a key up with zeros.
    fn tag(&self, signed: &[u8]) -> HmacSha256 {
        let mut key = Zeroizing::new([0; 32]);
        key[..16].copy_from_slice(&self.0[..16]);
        let mut tag = HmacSha256::new(&key);
        tag.update(signed);
        tag
    }

    fn cipher(&self) -> Aes128 {
        // 16 bytes of 32.
        Aes128::new_from_slice(&self.0[16..]).unwrap_or_else(|_| unreachable!("a key of 16 bytes"))
    }
}

impl PartialEq for FernetKey {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

impl fmt::Debug for FernetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FernetKey(..)")
    }
}

/// Keys in order: the first seals, all open. At least one.
#[derive(Debug, Clone)]
pub struct FernetKeys(Vec<FernetKey>);

impl FernetKeys {
    /// `None`: there is no key.
    #[must_use]
    pub fn new(keys: Vec<FernetKey>) -> Option<Self> {
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// Whether a key is in both.
    #[must_use]
    pub fn shares_a_key(&self, other: &Self) -> bool {
        self.0.iter().any(|key| other.0.contains(key))
    }

    /// Appends a token of `text` to `out`.
    pub(super) fn seal(
        &self,
        text: &[u8],
        time: u64,
        nonces: &mut NoncePool,
        out: &mut Vec<u8>,
    ) -> Result<(), EntropyError> {
        let mut iv = [0; BLOCK];
        nonces.bytes(&mut iv)?;
        self.seal_with(text, time, iv, out);
        Ok(())
    }

    fn seal_with(&self, text: &[u8], time: u64, iv: [u8; BLOCK], out: &mut Vec<u8>) {
        let pad = BLOCK - text.len() % BLOCK;
        let mut raw = Zeroizing::new(Vec::with_capacity(HEAD + text.len() + pad + TAG));
        raw.push(VERSION);
        raw.extend_from_slice(&time.to_be_bytes());
        raw.extend_from_slice(&iv);
        raw.extend_from_slice(text);
        // PKCS #7: each byte says how many there are.
        raw.resize(HEAD + text.len() + pad, pad as u8);
        let cipher = self.0[0].cipher();
        let (mut before, (blocks, _)) = (Array::from(iv), raw[HEAD..].as_chunks_mut::<BLOCK>());
        for block in blocks {
            before.iter_mut().zip(block.iter()).for_each(|(a, b)| *a ^= b);
            cipher.encrypt_block(&mut before);
            block.copy_from_slice(&before);
        }
        let tag = self.0[0].tag(&raw).publish();
        raw.extend_from_slice(&tag);
        let start = out.len();
        out.resize(start + base64::encoded_len(raw.len(), true).unwrap_or_default(), 0);
        let written = BASE64.encode_slice(&*raw, &mut out[start..]).unwrap_or_default();
        out.truncate(start + written);
    }

    /// Opens a token; the text replaces the content of `out`. The key is the one whose tag holds.
    pub(super) fn open(&self, token: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        out.clear();
        let raw = decode(token).ok_or(OpenError::Malformed)?;
        let (signed, tag) = raw.split_at(raw.len() - TAG);
        let key = self.0.iter().find(|key| key.tag(signed).verify(tag));
        let key = key.ok_or(OpenError::Corrupt)?;
        let cipher = key.cipher();
        let mut before = [0; BLOCK];
        before.copy_from_slice(&signed[HEAD - BLOCK..HEAD]);
        out.extend_from_slice(&signed[HEAD..]);
        let (blocks, _) = out.as_chunks_mut::<BLOCK>();
        for block in blocks {
            let sealed = *block;
            let mut opened = Array::from(sealed);
            cipher.decrypt_block(&mut opened);
            block.iter_mut().zip(opened.iter().zip(before)).for_each(|(to, (a, b))| *to = a ^ b);
            before = sealed;
        }
        let pad = usize::from(out.last().copied().unwrap_or_default());
        let text = out.len().checked_sub(pad).filter(|_| (1..=BLOCK).contains(&pad));
        match text {
            Some(text) if out[text..].iter().all(|byte| usize::from(*byte) == pad) => {
                out.truncate(text);
                Ok(())
            }
            _ => Err(OpenError::Corrupt),
        }
    }
}

/// Bytes of a token of a text.
pub(super) fn sealed_bytes(text: usize) -> usize {
    HEAD + text / BLOCK * BLOCK + BLOCK + TAG
}

/// Whether a text is a token, under any key.
pub(super) fn recognises(text: &[u8]) -> bool {
    // The first six bits of the version: most other texts end here.
    text.first() == Some(&b'g') && decode(text).is_some()
}

/// The bytes of a token: whole, and long enough for every part.
fn decode(token: &[u8]) -> Option<Vec<u8>> {
    let raw = BASE64.decode(token).ok()?;
    let body = raw.len().checked_sub(HEAD + TAG)?;
    (raw[0] == VERSION && body > 0 && body.is_multiple_of(BLOCK)).then_some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(texts: &[&str]) -> FernetKeys {
        let parsed = texts.iter().map(|text| FernetKey::parse(text.as_bytes()).unwrap());
        FernetKeys::new(parsed.collect()).unwrap()
    }

    const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
    const OTHER: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    /// generate.json and verify.json of the specification.
    const TOKEN: &str = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";

    #[test]
    fn the_specification_s_answers() {
        let iv: [u8; 16] = std::array::from_fn(|i| i as u8);
        let (mut token, mut text) = (Vec::new(), Vec::new());
        keys(&[KEY]).seal_with(b"hello", 499_162_800, iv, &mut token);
        assert_eq!(String::from_utf8(token).unwrap(), TOKEN);
        keys(&[OTHER, KEY]).open(TOKEN.as_bytes(), &mut text).unwrap();
        assert_eq!(text, b"hello");
        keys(&[KEY]).open(TOKEN.trim_end_matches('=').as_bytes(), &mut text).unwrap();
        assert_eq!(keys(&[OTHER]).open(TOKEN.as_bytes(), &mut text), Err(OpenError::Corrupt));
    }

    /// invalid.json of the specification, as far as it does not ask for an age.
    #[test]
    fn what_is_changed_does_not_open() {
        let keys = keys(&[KEY]);
        let raw = decode(TOKEN.as_bytes()).unwrap();
        for at in 0..raw.len() {
            let mut changed = raw.clone();
            changed[at] ^= 1;
            let error = keys.open(BASE64.encode(&changed).as_bytes(), &mut Vec::new()).unwrap_err();
            let expected = if at == 0 { OpenError::Malformed } else { OpenError::Corrupt };
            assert_eq!(error, expected, "byte {at}");
        }
        for short in [&raw[..raw.len() - 1], &raw[..HEAD + TAG], &[]] {
            let text = BASE64.encode(short);
            assert!(!recognises(text.as_bytes()), "{text}");
            assert_eq!(keys.open(text.as_bytes(), &mut Vec::new()), Err(OpenError::Malformed));
        }
        // Signed by the key, and padded wrongly.
        let mut padded = raw[..HEAD + BLOCK].to_vec();
        padded[HEAD - 1] ^= 1;
        let tag = keys.0[0].tag(&padded).publish();
        padded.extend_from_slice(&tag);
        let token = BASE64.encode(&padded);
        assert_eq!(keys.open(token.as_bytes(), &mut Vec::new()), Err(OpenError::Corrupt));
        assert!(FernetKey::parse(b"AAAA").is_none() && FernetKey::parse(b"").is_none());
    }
}
