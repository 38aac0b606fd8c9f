//! Tokens: arbitrary text never opens, one token has one spelling, and of an authentic frame only
//! what the format allows comes out.

use std::sync::{Arc, LazyLock};

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use veilstream_engine::key::{Key, KeyKind, Scope};
use veilstream_engine::reveal::{KeySource, Report, RevealOptions, Revealer, Status};
use veilstream_engine::scan::Tape;
use veilstream_engine::seal::{Expected, Opener, Owner, PayloadKind, Sealer};
use veilstream_engine::token::{
    FLAG_BOUND, FLAG_PADDED, HEADER_LEN, Header, Suite, TAG_LEN, decode, encode,
};
use veilstream_engine::{Keyring, OpenError, RejectCode, inspect, kdf};

use super::support::{TENANT, document, key, keyring_of, schemas};

const FIELD: &str = "t.a";
/// What bound tokens are bound to here: `n` is 1.
const BINDING: &[u8] = b"\0\0\0\x01n\0\0\0\x011";

struct Keys {
    data: Arc<Key>,
    shared: Arc<Key>,
    deterministic: Arc<Key>,
    ring: Arc<Keyring>,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    data: Arc::new(key(KeyKind::Data, "schema:t")),
    shared: Arc::new(key(KeyKind::Data, "shared:t")),
    deterministic: Arc::new(key(KeyKind::Deterministic, "v1")),
    ring: keyring_of(vec![key(KeyKind::Data, "schema:t"), key(KeyKind::Data, "shared:t")]),
});

/// Input: `t` and the text of a token, or `f`, a byte of flags and a plaintext frame that is sealed
/// as it is. Whether a token opened.
pub fn tokens(data: &[u8]) -> bool {
    match data.split_first() {
        Some((b't', text)) => spelled(text),
        Some((b'f', rest)) => {
            rest.split_first().is_some_and(|(flags, frame)| framed(*flags, frame))
        }
        _ => false,
    }
}

fn open(token: &[u8], binding: Option<&[u8]>) -> (Result<PayloadKind, OpenError>, Vec<u8>) {
    let expected =
        Expected { fid: kdf::field_id(FIELD), tenant: TENANT, binding, owner: Owner::Any };
    let mut out = b"left over".to_vec();
    let opened =
        Opener::default().open(token, &expected, |kid| KEYS.ring.get(kid).cloned(), &mut out);
    (opened, out)
}

fn spelled(token: &[u8]) -> bool {
    let mut raw = Vec::new();
    let header = decode(token, &mut raw);
    assert_eq!(inspect::inspect(token), header);
    let canonical = {
        let mut text = Vec::new();
        encode(&raw, &mut text);
        text == token
    };
    match header {
        Ok(header) => {
            assert!(canonical, "two spellings of one token");
            assert_eq!(raw[..HEADER_LEN], header.encode());
        }
        Err(OpenError::Unsupported) => assert!(canonical, "two spellings of one token"),
        Err(e) => assert_eq!(e, OpenError::Malformed),
    }
    let mut opened_any = false;
    for binding in [None, Some(BINDING)] {
        let (opened, payload) = open(token, binding);
        match (opened, header) {
            (Ok(kind), Ok(header)) => {
                assert_eq!(
                    sealed_again(&header, &raw, kind, &payload, binding),
                    token,
                    "it opens, and is not what sealing makes"
                );
                opened_any = true;
            }
            (Ok(_), Err(e)) => panic!("{e}, and opens"),
            (Err(e), Err(header)) => assert_eq!(e, header),
            (Err(_), Ok(_)) => {}
        }
    }
    in_a_document(token, opened_any);
    opened_any
}

/// The token of a payload under the nonce and the length of another one.
fn sealed_again(
    header: &Header,
    raw: &[u8],
    kind: PayloadKind,
    payload: &[u8],
    binding: Option<&[u8]>,
) -> Vec<u8> {
    let key = [&KEYS.data, &KEYS.shared, &KEYS.deterministic]
        .into_iter()
        .find(|key| key.id == header.kid)
        .unwrap();
    let prefix = header.suite.prefix_len();
    let nonce =
        if header.suite == Suite::AesSiv { &[][..] } else { &raw[HEADER_LEN..HEADER_LEN + prefix] };
    let tag = if header.suite == Suite::AesSiv { 0 } else { TAG_LEN };
    let frame = raw.len() - HEADER_LEN - prefix - tag;
    // A pad of the frame's own length gives that length, whatever the payload's is.
    let pad = if header.padded() { u16::try_from(frame).unwrap() } else { 0 };
    let mut out = Vec::new();
    // Keys of several processes open with suite 1, and do not seal with it.
    let owned = Key { scope: Scope::Schema("t".into()), ..copy(key) };
    let key = if header.suite == Suite::AesGcm { Arc::new(owned) } else { key.clone() };
    Sealer::new(key, header.suite, header.fid)
        .unwrap()
        .seal_with(kind, payload, pad, binding, nonce, &mut out)
        .unwrap();
    out
}

fn copy(from: &Key) -> Key {
    Key {
        id: from.id,
        kcv: from.kcv,
        tenant: from.tenant.clone(),
        secret: from.secret.clone(),
        ..key(from.kind, "v1")
    }
}

/// As a value of a document, a token is opened or stays as it is.
fn in_a_document(token: &[u8], opens: bool) {
    let Ok(text) = std::str::from_utf8(token) else { return };
    let set = schemas(&[&document(r#""fields":[{"id":"a","path":"$.a"}]"#)]);
    let doc = format!("{{\"n\":1,\"a\":{},\"b\":\"\"}}", serde_json::to_string(text).unwrap());
    let (mut out, mut report) = (Vec::new(), Report::default());
    let (source, options) = (KeySource::of(&KEYS.ring), RevealOptions::default());
    Revealer::default()
        .reveal(&set.schemas()[0], source, doc.as_bytes(), &options, &mut out, &mut report)
        .unwrap();
    match report.fields[..] {
        [(0, Status::Revealed)] => {
            assert!(opens);
            let mut tape = Tape::default();
            // A payload may be as deep as a document; in a document it is one deeper.
            assert!(
                tape.scan(&out)
                    .map_or_else(|e| e.code == RejectCode::TooDeep, |()| tape.nodes().len() > 3)
            );
        }
        [(0, _)] => assert_eq!(out, doc.as_bytes()),
        _ => panic!("{report:?}"),
    }
}

/// Seals `frame` as it is, by another way than the engine's, and opens it.
fn framed(flags: u8, frame: &[u8]) -> bool {
    let flags = flags & (FLAG_PADDED | FLAG_BOUND);
    let binding = (flags & FLAG_BOUND != 0).then_some(BINDING);
    let fid = kdf::field_id(FIELD);
    let header = Header { suite: Suite::AesGcm, flags, kid: KEYS.data.id, fid }.encode();
    let mut aad = b"vs1/aad".to_vec();
    for part in [&header[..], TENANT.as_bytes(), binding.unwrap_or_default()] {
        aad.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
        aad.extend_from_slice(part);
    }
    let mut secret = [0; 32];
    kdf::expand(
        KEYS.data.secret.as_ref().unwrap().expose(),
        &[b"vs1/enc", &[1], &fid],
        &mut secret,
    );
    let mut raw = [&header[..], &[7; 12], frame].concat();
    let tag = Aes256Gcm::new((&secret).into())
        .encrypt_inout_detached(&[7; 12].into(), &aad, (&mut raw[HEADER_LEN + 12..]).into())
        .unwrap();
    raw.extend_from_slice(&tag);
    let mut token = Vec::new();
    encode(&raw, &mut token);

    let (opened, payload) = open(&token, binding);
    let allowed = if frame.is_empty() {
        Err(OpenError::Malformed)
    } else {
        payload_of(flags & FLAG_PADDED != 0, frame).ok_or(OpenError::Corrupt)
    };
    // Bait stays where it is.
    let allowed = allowed
        .map(|(kind, payload)| (kind, if kind == PayloadKind::Honey { &b""[..] } else { payload }));
    assert_eq!(opened.map(|kind| (kind, &*payload)), allowed);
    assert!(opened.is_ok() || payload.is_empty(), "what does not open leaves nothing");
    assert_eq!(
        open(&token, if binding.is_some() { None } else { Some(BINDING) }).0,
        if frame.is_empty() { Err(OpenError::Malformed) } else { Err(OpenError::Binding) }
    );
    if binding.is_none() {
        in_a_document(&token, opened == Ok(PayloadKind::Json));
    }
    opened.is_ok()
}

/// What the format says of a frame (docs/formats.md, "Plaintext frame").
fn payload_of(padded: bool, frame: &[u8]) -> Option<(PayloadKind, &[u8])> {
    let mut inner = frame;
    if padded {
        while let Some(less) = inner.strip_suffix(b"\0") {
            inner = less;
        }
        inner = inner.strip_suffix(b"\x80")?;
        if !frame.len().is_multiple_of(16) || frame.len() - inner.len() > 4096 {
            return None;
        }
    }
    let (kind, payload) = inner.split_first()?;
    let json = || {
        let mut tape = Tape::default();
        tape.scan(payload).is_ok() && tape.nodes()[0].span() == (0..payload.len())
    };
    match kind {
        b'J' if json() => Some((PayloadKind::Json, payload)),
        b'B' => Some((PayloadKind::Bytes, payload)),
        b'H' => Some((PayloadKind::Honey, payload)),
        _ => None,
    }
}
