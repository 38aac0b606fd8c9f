//! Properties of tokens: every payload comes back, and nothing but the token as it was written
//! opens.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use support::{OsRandom, TENANT, key};
use veilstream_engine::key::{Budget, Key, KeyKind, KeyState};
use veilstream_engine::seal::{Expected, NoncePool, Opener, Owner, PayloadKind, SealError, Sealer};
use veilstream_engine::token::Suite;
use veilstream_engine::{OpenError, SecretKey};

const FID: [u8; 6] = [1, 2, 3, 4, 5, 6];

fn key_for(suite: Suite) -> Arc<Key> {
    Arc::new(match suite {
        Suite::AesGcm => key(KeyKind::Data, "schema:t"),
        Suite::XaesGcm => key(KeyKind::Data, "shared:t"),
        Suite::AesSiv => key(KeyKind::Deterministic, "v1"),
    })
}

fn seal(
    key: &Arc<Key>,
    suite: Suite,
    kind: PayloadKind,
    payload: &[u8],
    pad: u16,
    binding: Option<&[u8]>,
) -> Vec<u8> {
    let mut token = Vec::new();
    let mut nonces = NoncePool::new(Box::new(OsRandom));
    Sealer::new(key.clone(), suite, FID)
        .unwrap()
        .seal(kind, payload, pad, binding, &mut nonces, &mut token)
        .unwrap();
    token
}

fn open(
    key: &Arc<Key>,
    token: &[u8],
    binding: Option<&[u8]>,
) -> Result<(PayloadKind, Vec<u8>), OpenError> {
    let expected = Expected { fid: FID, tenant: TENANT, binding, owner: Owner::Any };
    let mut out = Vec::new();
    let kind = Opener::default().open(
        token,
        &expected,
        |kid| (*kid == key.id).then(|| key.clone()),
        &mut out,
    )?;
    Ok((kind, out))
}

fn suites() -> impl Strategy<Value = Suite> {
    prop_oneof![Just(Suite::AesGcm), Just(Suite::XaesGcm), Just(Suite::AesSiv)]
}

proptest! {
    #[test]
    fn what_is_sealed_opens(
        suite in suites(),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        pad in (0_u16..=256).prop_map(|n| n * 16),
        binding in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)),
    ) {
        let key = key_for(suite);
        let token = seal(&key, suite, PayloadKind::Bytes, &payload, pad, binding.as_deref());
        prop_assert!(token.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b)), "fits between quotes");
        prop_assert_eq!(token.len(), suite.token_chars(pad, payload.len()));
        prop_assert_eq!(open(&key, &token, binding.as_deref()), Ok((PayloadKind::Bytes, payload)));
        let absent = if binding.is_some() { None } else { Some(&b"x"[..]) };
        prop_assert_eq!(open(&key, &token, absent), Err(OpenError::Binding));
    }

    #[test]
    fn padding_hides_the_length(suite in suites(), a in 0_usize..200, b in 0_usize..200) {
        let key = key_for(suite);
        let length = |n: usize| seal(&key, suite, PayloadKind::Bytes, &vec![7; n], 256, None).len();
        // Kind and marker take two bytes of every frame.
        prop_assert_eq!(length(a) == length(b), (a + 2).div_ceil(256) == (b + 2).div_ceil(256));
    }

    #[test]
    fn noise_never_opens_and_never_panics(text in "(vs1\\.)?[A-Za-z0-9_=-]{0,120}") {
        prop_assert!(open(&key_for(Suite::AesGcm), text.as_bytes(), None).is_err());
    }
}

#[test]
fn no_flipped_bit_opens() {
    for suite in [Suite::AesGcm, Suite::XaesGcm, Suite::AesSiv] {
        let key = key_for(suite);
        for binding in [None, Some(&b"bound"[..])] {
            let token = seal(&key, suite, PayloadKind::Json, br#""jane@example.com""#, 16, binding);
            for bit in 0..token.len() * 8 {
                let mut edited = token.clone();
                edited[bit / 8] ^= 1 << (bit % 8);
                assert!(open(&key, &edited, binding).is_err(), "{suite:?}, bit {bit}");
            }
        }
    }
}

/// A token has one spelling: what some decoder would read as the same bytes is malformed.
#[test]
fn other_spellings_are_malformed() {
    let key = key_for(Suite::AesGcm);
    // Bodies of 44, 45 and 46 bytes: base64 with 0, 2 and 4 unused bits.
    for length in [17, 18, 19] {
        let token = String::from_utf8(seal(
            &key,
            Suite::AesGcm,
            PayloadKind::Bytes,
            &vec![7; length - 2],
            0,
            None,
        ))
        .unwrap();
        let used = token.len() - 4;
        let mut spellings: Vec<String> =
            [" ", "\n", "=", "==", "\0", ".", "A", "AA", "AAA", "AAAA"]
                .map(|tail| format!("{token}{tail}"))
                .into();
        spellings.push(format!(" {token}"));
        spellings.push(format!("{}\n{}", &token[..40], &token[40..]));
        spellings.push(token[4..].to_owned());
        spellings.push(token.replacen("vs1.", "vs1", 1));
        let unused_bits = [0, 0, 4, 2][used % 4];
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let last = ALPHABET.iter().position(|c| *c == *token.as_bytes().last().unwrap()).unwrap();
        for low in 1..1 << unused_bits {
            spellings.push(format!(
                "{}{}",
                &token[..token.len() - 1],
                char::from(ALPHABET[last | low])
            ));
        }
        for spelling in &spellings {
            let error = open(&key, spelling.as_bytes(), None).unwrap_err();
            let longer = spelling.len() > token.len()
                && spelling.starts_with(&token)
                && spelling.ends_with('A')
                && spelling.len() % 4 != 1;
            // A longer body is one more spelling only of other bytes, which do not authenticate.
            assert!(
                error == OpenError::Malformed || longer && error == OpenError::Corrupt,
                "{spelling}: {error}"
            );
        }
    }
}

#[test]
fn a_spent_key_refuses() {
    let mut spent = key(KeyKind::Data, "schema:t");
    spent.budget = Budget::new(3);
    let spent = Arc::new(spent);
    let mut nonces = NoncePool::new(Box::new(OsRandom));
    let mut sealer = Sealer::new(spent.clone(), Suite::AesGcm, FID).unwrap();
    let mut out = Vec::new();
    for _ in 0..3 {
        sealer.seal(PayloadKind::Json, b"1", 16, None, &mut nonces, &mut out).unwrap();
    }
    let length = out.len();
    assert_eq!(
        sealer.seal(PayloadKind::Json, b"1", 16, None, &mut nonces, &mut out),
        Err(SealError::Spent)
    );
    assert_eq!(out.len(), length, "nothing was appended");
    let mut second = Sealer::new(spent, Suite::AesGcm, FID).unwrap();
    assert_eq!(
        second.seal(PayloadKind::Json, b"1", 16, None, &mut nonces, &mut out),
        Err(SealError::Spent),
        "another sealer has no more"
    );
}

#[test]
fn a_key_that_others_may_use_does_not_seal_with_short_nonces() {
    let refused = |kind, scope| Sealer::new(Arc::new(key(kind, scope)), Suite::AesGcm, FID).err();
    assert_eq!(refused(KeyKind::Data, "schema:t"), None);
    for scope in ["shared:t", "subject:00000000000000000000000000000000", "v1"] {
        assert_eq!(refused(KeyKind::Data, scope), Some(SealError::Key), "{scope}");
    }
    assert_eq!(refused(KeyKind::DeadLetter, "v1"), Some(SealError::Key));
}

/// What a key's state, check value and tenant make of a good token, with an opener that opened it
/// before.
#[test]
fn keys_that_must_not_open_do_not() {
    let good = key_for(Suite::AesGcm);
    let token = seal(&good, Suite::AesGcm, PayloadKind::Json, b"1", 16, None);
    let expected = Expected { fid: FID, tenant: TENANT, binding: None, owner: Owner::Any };
    let mut opener = Opener::default();
    let mut with = |edit: &dyn Fn(&mut Key)| {
        let mut out = Vec::new();
        opener.open(&token, &expected, |_| Some(good.clone()), &mut out).unwrap();
        let mut edited = key(KeyKind::Data, "schema:t");
        edit(&mut edited);
        opener.open(&token, &expected, |_| Some(Arc::new(edited)), &mut out)
    };
    assert_eq!(with(&|_| {}), Ok(PayloadKind::Json));
    assert_eq!(with(&|k| k.state = KeyState::DecryptOnly), Ok(PayloadKind::Json));
    assert_eq!(with(&|k| k.state = KeyState::Shredded), Err(OpenError::Erased));
    assert_eq!(with(&|k| k.state = KeyState::Retired), Err(OpenError::KeyUnavailable));
    assert_eq!(with(&|k| k.state = KeyState::Compromised), Err(OpenError::KeyUnavailable));
    assert_eq!(with(&|k| k.secret = None), Err(OpenError::KeyUnavailable));
    assert_eq!(with(&|k| k.secret = Some(SecretKey::new([9; 32]))), Err(OpenError::Corrupt));
    assert_eq!(with(&|k| k.kcv[31] ^= 1), Err(OpenError::Corrupt));
    assert_eq!(with(&|k| k.tenant = "another".into()), Err(OpenError::Corrupt));
    assert_eq!(with(&|k| k.kind = KeyKind::DeadLetter), Err(OpenError::Corrupt));
}
