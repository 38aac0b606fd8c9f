//! `email`: the domain has one spelling, the local part is text; no dot or plus games.

use idna::AsciiDenyList;

use super::text::fold;

/// Appends the normalised address; what is none becomes `?` and its text.
pub(super) fn normalize(text: &str, out: &mut Vec<u8>) {
    // White space inside is folded by `text`; trimming here keeps it out of the domain.
    let trimmed = text.trim_matches(char::is_whitespace);
    let start = out.len();
    if let Some((local, domain)) = trimmed.rsplit_once('@') {
        fold(local, out);
        out.push(b'@');
        if append_domain(domain, out) {
            return;
        }
        out.truncate(start);
    }
    out.push(b'?');
    fold(text, out);
    if out.len() == start + 1 {
        out.truncate(start);
    }
}

/// Appends the domain in ASCII; `false` when UTS 46 refuses it (nontransitional, without STD3
/// rules) or a label is empty.
fn append_domain(domain: &str, out: &mut Vec<u8>) -> bool {
    if append_plain_domain(domain, out) {
        return true;
    }
    match idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::EMPTY) {
        Ok(ascii) if !ascii.split('.').any(str::is_empty) => {
            out.extend(ascii.bytes().map(|b| b.to_ascii_lowercase()));
            true
        }
        _ => false,
    }
}

/// A domain of letters, digits and single hyphens needs no table: UTS 46 maps it to lower case.
/// `false` for any other, which is not wrong for that.
pub(super) fn append_plain_domain(domain: &str, out: &mut Vec<u8>) -> bool {
    let plain = |label: &str| {
        let bytes = label.as_bytes();
        let ends_in_hyphen = bytes.first() == Some(&b'-') || bytes.last() == Some(&b'-');
        !bytes.is_empty()
            && !ends_in_hyphen
            && bytes.get(2..4) != Some(b"--")
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    let all_plain = domain.split('.').all(plain);
    if all_plain {
        out.extend(domain.bytes().map(|b| b.to_ascii_lowercase()));
    }
    all_plain
}
