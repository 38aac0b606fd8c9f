use super::*;
use crate::interop::InteropForm;
use crate::seal::NoncePool;
use crate::{Entropy, EntropyError};

/// What `pgp_sym_encrypt('hello', 'pw')` of PostgreSQL 15 wrote: AES-128, SHA-1, a code.
const OF_PGCRYPTO: &str = "c30d04070302016c1b6dd9c2cf9f6bd23601807b4e9f7291f56021276ce686163bc15f2b6b29eaaf67ee12b02eed050347589fb6776d0a4611dea394ca5dd47df3083b6554848e";

fn hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap()).collect()
}

fn passphrases(of: &[&str]) -> Passphrases {
    let bytes = of.iter().map(|one| Zeroizing::new(one.as_bytes().to_vec()));
    Passphrases::new(bytes.collect()).unwrap()
}

fn opened(passphrases: &Passphrases, raw: &[u8]) -> Result<String, OpenError> {
    let mut out = Vec::new();
    passphrases.open(STANDARD.encode(raw).as_bytes(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

struct Counting(u8);

impl Entropy for Counting {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EntropyError> {
        buf.iter_mut().for_each(|byte| {
            self.0 = self.0.wrapping_add(7);
            *byte = self.0;
        });
        Ok(())
    }
}

fn sealed(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut nonces = NoncePool::new(Box::new(Counting(3)));
    passphrases(&["pw", "other"]).seal(text.as_bytes(), 7, &mut nonces, &mut out).unwrap();
    assert!(recognises(&out) && InteropForm::Pgcrypto.recognises(&out));
    STANDARD.decode(out).unwrap()
}

#[test]
fn what_pgcrypto_wrote_opens() {
    let raw = hex(OF_PGCRYPTO);
    assert_eq!(opened(&passphrases(&["other", "pw"]), &raw).unwrap(), "hello");
    assert_eq!(opened(&passphrases(&["other"]), &raw), Err(OpenError::Corrupt));
    // As PostgreSQL's encode() breaks lines.
    let (text, mut out) = (STANDARD.encode(&raw), Vec::new());
    let lines = format!("{}\n{}\n", &text[..76], &text[76..]);
    passphrases(&["pw"]).open(lines.as_bytes(), &mut out).unwrap();
    assert_eq!(out, b"hello");
}

#[test]
fn what_was_sealed_opens_and_nothing_changed_does() {
    for text in ["", "ada@example.com", "\u{1f600}", &"x".repeat(100_000)] {
        assert_eq!(opened(&passphrases(&["other", "pw"]), &sealed(text)).unwrap(), text);
    }
    let raw = sealed("ada@example.com");
    for at in 0..raw.len() {
        let mut changed = raw.clone();
        changed[at] ^= 1;
        assert!(opened(&passphrases(&["pw"]), &changed).is_err(), "byte {at}");
        assert!(opened(&passphrases(&["pw"]), &raw[..at]).is_err(), "the first {at} bytes");
    }
    let longer = [&raw[..], &[0xcb, 0]].concat();
    assert_eq!(opened(&passphrases(&["pw"]), &longer), Err(OpenError::Malformed));
}

/// The count stands in clear before any secret: it is judged before anything is hashed.
#[test]
fn a_huge_count_costs_nothing() {
    let mut raw = sealed("ada");
    assert_eq!(raw[14], SEAL_COUNT_CODE);
    raw[14] = 0xff;
    let huge = STANDARD.encode(&raw);
    assert_eq!(Message::parse(&raw).unwrap().specifier_count(), 65_011_712);
    let (phrases, mut out) = (passphrases(&["pw"]), Vec::new());
    // Ten thousand times 65 MB would take an hour.
    for _ in 0..10_000 {
        assert_eq!(phrases.open(huge.as_bytes(), &mut out), Err(OpenError::Unsupported));
    }
    assert_eq!(phrases.derived_bytes(huge.as_bytes()), 0);
    // 2^20 bytes are allowed, and not one step more.
    for (code, error) in [(0xa0, OpenError::Corrupt), (0xa1, OpenError::Unsupported)] {
        raw[14] = code;
        assert_eq!(opened(&phrases, &raw), Err(error), "{code:x}");
    }
}

#[test]
fn shapes_that_only_migrate_reads_are_unsupported() {
    let phrases = passphrases(&["pw"]);
    let raw = sealed("ada");
    let mut blowfish = raw.clone();
    blowfish[3] = 4;
    assert_eq!(opened(&phrases, &blowfish), Err(OpenError::Unsupported));
    let mut md5 = raw.clone();
    md5[5] = 1;
    assert_eq!(opened(&phrases, &md5), Err(OpenError::Unsupported));
    // The same bytes without a code.
    let mut bare = raw[..15].to_vec();
    packet::write_head(packet::SEALED, raw.len() - 18, &mut bare);
    bare.extend_from_slice(&raw[18..]);
    assert_eq!(opened(&phrases, &bare), Err(OpenError::Unsupported));
    // Compressed, under the right passphrase and with a right code.
    let specifier = Specifier::iterated(SHA_256, [1; 8], SEAL_COUNT_CODE);
    let mut plain = [&[5; 18][..], &[0xc8, 3, 1, 3, 0], &packet::MDC_HEAD].concat();
    let code = Sha1::digest(&plain);
    plain.extend_from_slice(&code);
    encrypt(&Aes::of_256(&specifier.key_of_sha256(b"pw")), &mut plain);
    let mut bomb = vec![0xc3, 13, 4, AES_256];
    specifier.write(&mut bomb);
    packet::write_head(packet::SEALED_WITH_CODE, 1 + plain.len(), &mut bomb);
    bomb.push(1);
    bomb.extend_from_slice(&plain);
    assert_eq!(opened(&phrases, &bomb), Err(OpenError::Unsupported));
}

impl Message<'_> {
    fn specifier_count(&self) -> u64 {
        self.derived_bytes() / 2
    }
}
