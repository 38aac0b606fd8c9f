//! `text`: default-ignorable code points removed, NFC, full case folding, NFC, White_Space runs to
//! one space, trimmed.

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizer;
use icu_properties::CodePointSetData;
use icu_properties::props::{DefaultIgnorableCodePoint, WhiteSpace};

/// Appends the folded text.
pub(super) fn fold(text: &str, out: &mut Vec<u8>) {
    if text.is_ascii() { fold_ascii(text.as_bytes(), out) } else { fold_unicode(text, out) }
}

/// ASCII has no default-ignorable code point, is NFC, and folds by lower-casing.
fn fold_ascii(text: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let mut gap = false;
    for b in text {
        if matches!(b, b' ' | b'\t'..=b'\r') {
            gap = out.len() > start;
        } else {
            if std::mem::take(&mut gap) {
                out.push(b' ');
            }
            out.push(b.to_ascii_lowercase());
        }
    }
}

pub(super) fn fold_unicode(text: &str, out: &mut Vec<u8>) {
    let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
    let space = CodePointSetData::new::<WhiteSpace>();
    let nfc = ComposingNormalizer::new_nfc();
    let visible: String = text.chars().filter(|c| !ignorable.contains(*c)).collect();
    let folded = CaseMapper::new().fold_string(&nfc.normalize(&visible)).into_owned();
    let start = out.len();
    let mut gap = false;
    for c in nfc.normalize(&folded).chars() {
        if space.contains(c) {
            gap = out.len() > start;
        } else {
            if std::mem::take(&mut gap) {
                out.push(b' ');
            }
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}
