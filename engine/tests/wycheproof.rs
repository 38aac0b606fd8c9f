//! Wycheproof's cases for every primitive of the format, run against the crates and with the calls
//! the engine makes, and the two known answers of XAES-256-GCM, which Wycheproof lacks.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use aes_siv::siv::Aes256Siv;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use support::hex;
use wycheproof::{TestResult, aead, hkdf, mac, pbkdf2};
use xaes_256_gcm::Xaes256Gcm;

/// Runs `check` (whether the implementation accepts the case) against the verdict of each case;
/// returns how many ran.
macro_rules! verdicts {
    ($set:expr, $group:ident => $applies:expr, $case:ident => $accepts:expr) => {{
        let mut ran = 0;
        for $group in &$set.test_groups {
            if !$applies {
                continue;
            }
            for $case in &$group.tests {
                let expected = match $case.result {
                    TestResult::Valid => true,
                    TestResult::Invalid => false,
                    TestResult::Acceptable => panic!("case {}: no verdict", $case.tc_id),
                };
                assert_eq!($accepts, expected, "case {}: {}", $case.tc_id, $case.comment);
                ran += 1;
            }
        }
        ran
    }};
}

#[test]
fn aes_256_gcm() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let ran = verdicts!(set, group => (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128), case => {
        let cipher = Aes256Gcm::new_from_slice(&case.key).unwrap();
        let nonce = case.nonce[..].try_into().unwrap();
        let mut text = case.pt.to_vec();
        let tag = cipher.encrypt_inout_detached(&nonce, &case.aad, (&mut text[..]).into()).unwrap();
        let sealed = text == case.ct[..] && tag[..] == case.tag[..];
        let mut text = case.ct.to_vec();
        let tag = case.tag[..].try_into().unwrap();
        let opened = cipher.decrypt_inout_detached(&nonce, &case.aad, (&mut text[..]).into(), &tag).is_ok() && text == case.pt[..];
        assert_eq!(sealed, opened, "case {}: sealing and opening agree", case.tc_id);
        opened
    });
    assert_eq!(ran, 66);
}

/// The engine gives SIV one component of associated data and no nonce; these cases give two, the
/// second being the nonce (RFC 5297, section 3). Cases of one component alone (`aes_siv_cmac`) are
/// not in the crate.
#[test]
fn aes_256_siv() {
    let set = aead::TestSet::load(aead::TestName::AesSivCmac).unwrap();
    let ran = verdicts!(set, group => (group.key_size, group.tag_size) == (512, 128), case => {
        let mut cipher = Aes256Siv::new_from_slice(&case.key).unwrap();
        let components = [&case.aad[..], &case.nonce[..]];
        let mut text = case.pt.to_vec();
        let iv = cipher.encrypt_inout_detached(components, (&mut text[..]).into()).unwrap();
        let sealed = text == case.ct[..] && iv[..] == case.tag[..];
        let mut text = case.ct.to_vec();
        let iv = case.tag[..].try_into().unwrap();
        let opened = cipher.decrypt_inout_detached(components, (&mut text[..]).into(), &iv).is_ok() && text == case.pt[..];
        assert_eq!(sealed, opened, "case {}: sealing and opening agree", case.tc_id);
        opened
    });
    assert_eq!(ran, 300);
}

#[test]
fn hmac_sha_256() {
    let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
    let ran = verdicts!(set, group => true, case => {
        let mut mac = Hmac::<Sha256>::new_from_slice(&case.key).unwrap();
        mac.update(&case.msg);
        mac.verify_truncated_left(&case.tag).is_ok()
    });
    assert_eq!(ran, 174);
}

#[test]
fn hkdf_sha_256() {
    let set = hkdf::TestSet::load(hkdf::TestName::HkdfSha256).unwrap();
    let ran = verdicts!(set, group => true, case => {
        let mut okm = vec![0; case.size];
        let kdf = ::hkdf::Hkdf::<Sha256>::new(Some(&case.salt), &case.ikm);
        kdf.expand(&case.info, &mut okm).is_ok() && okm == case.okm[..]
    });
    assert_eq!(ran, 86);
}

#[test]
fn pbkdf2_hmac_sha_256() {
    let set = pbkdf2::TestSet::load(pbkdf2::TestName::Pbkdf2HmacSha256).unwrap();
    let ran = verdicts!(set, group => true, case => {
        let mut key = vec![0; case.dk_len];
        let rounds = case.iteration_count.try_into().unwrap();
        ::pbkdf2::pbkdf2_hmac::<Sha256>(&case.password, &case.salt, rounds, &mut key);
        key == case.dk[..]
    });
    assert_eq!(ran, 60);
}

/// The known answers of the C2SP specification (<https://c2sp.org/XAES-256-GCM>).
#[test]
fn xaes_256_gcm() {
    let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX".into();
    for (key, aad, answer) in [
        ([1; 32], "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (
            [3; 32],
            "c2sp.org/XAES-256-GCM",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ] {
        let cipher = Xaes256Gcm::new(&key.into());
        let mut text = b"XAES-256-GCM".to_vec();
        let tag =
            cipher.encrypt_inout_detached(nonce, aad.as_bytes(), (&mut text[..]).into()).unwrap();
        assert_eq!([&text, &tag[..]].concat(), hex(answer));
        cipher.decrypt_inout_detached(nonce, aad.as_bytes(), (&mut text[..]).into(), &tag).unwrap();
        assert_eq!(text, b"XAES-256-GCM");
        let wrong = cipher.decrypt_inout_detached(nonce, b"another", (&mut text[..]).into(), &tag);
        assert!(wrong.is_err());
    }
}
