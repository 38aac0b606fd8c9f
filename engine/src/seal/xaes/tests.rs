//! The specification's known answers, and the library's cipher as an oracle.

use aes_gcm::{AeadInOut, KeyInit};
use proptest::prelude::*;
use xaes_256_gcm::Xaes256Gcm;

use super::Xaes;

/// The known answers of <https://c2sp.org/XAES-256-GCM>; with the second key `K1` is reduced.
#[test]
fn known_answers() {
    for (key, aad, sealed, tag) in [
        (
            1,
            "",
            0xce54_6ef6_3c9c_c607_6592_3609_u128,
            0xb33a_9a19_74e9_6e52_daf2_fcf7_075e_2271_u128,
        ),
        (
            3,
            "c2sp.org/XAES-256-GCM",
            0x986e_c183_2593_df54_43a1_7943,
            0x7fd0_83bf_3fdb_41ab_d740_a21f_71eb_769d,
        ),
    ] {
        let mut text = *b"XAES-256-GCM";
        let cipher = Xaes::new(&[key; 32]).subkey(b"ABCDEFGHIJKL");
        let found = cipher
            .encrypt_inout_detached(b"MNOPQRSTUVWX".into(), aad.as_bytes(), (&mut text[..]).into())
            .unwrap();
        assert_eq!(
            (&text[..], found[..].as_ref()),
            (&sealed.to_be_bytes()[4..], &tag.to_be_bytes()[..])
        );
    }
}

proptest! {
    #[test]
    fn as_the_library_encrypts(
        key: [u8; 32],
        nonce: [u8; 24],
        aad in proptest::collection::vec(any::<u8>(), 0..40),
        text in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let (first, second) = nonce.split_at(12);
        let ours = Xaes::new(&key).subkey(first.try_into().unwrap());
        let library = Xaes256Gcm::new(&key.into());
        let (mut sealed, mut expected) = (text.clone(), text);
        let tag = ours.encrypt_inout_detached(second.try_into().unwrap(), &aad, (&mut sealed[..]).into()).unwrap();
        let expected_tag = library.encrypt_inout_detached(&nonce.into(), &aad, (&mut expected[..]).into()).unwrap();
        prop_assert_eq!((sealed, tag), (expected, expected_tag));
    }

    /// Short messages are decrypted in another way than long ones.
    #[test]
    fn what_the_library_encrypted_is_decrypted_unless_it_was_changed(
        key: [u8; 32],
        nonce: [u8; 24],
        aad in proptest::collection::vec(any::<u8>(), 0..150),
        text in proptest::collection::vec(any::<u8>(), 0..150),
        at: proptest::sample::Index,
    ) {
        let (xaes, mut sealed) = (Xaes::new(&key), text.clone());
        let tag: [u8; 16] = Xaes256Gcm::new(&key.into())
            .encrypt_inout_detached(&nonce.into(), &aad, (&mut sealed[..]).into()).unwrap().into();
        let (halves, _) = nonce.as_chunks();
        let halves = halves.try_into().unwrap();
        let mut opened = sealed.clone();
        xaes.decrypt(halves, &aad, &mut opened, &tag).unwrap();
        prop_assert_eq!(&opened, &text);
        // One bit of the data, the text or the tag.
        let whole = [&aad[..], &sealed[..], &tag[..]].concat();
        let mut changed = whole.clone();
        let bit = at.index(8 * whole.len());
        changed[bit / 8] ^= 1 << (bit % 8);
        let (data, rest) = changed.split_at_mut(aad.len());
        let (body, tag) = rest.split_last_chunk_mut::<16>().unwrap();
        let before = body.to_vec();
        prop_assert!(xaes.decrypt(halves, data, body, tag).is_err());
        prop_assert_eq!(&*body, &before[..], "nothing is decrypted");
    }
}
