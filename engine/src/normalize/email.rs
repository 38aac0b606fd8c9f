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

fn append_domain(domain: &str, out: &mut Vec<u8>) -> bool {
    if domain.split('.').any(str::is_empty) {
        return false;
    }
    // A plain ASCII domain without punycode labels needs no table: UTS 46 maps it to lower case.
    let plain = domain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    let no_hyphen_rules = !domain.split('.').any(|label| label.starts_with('-') || label.ends_with('-') || label.as_bytes().get(2..4) == Some(b"--"));
    if plain && no_hyphen_rules {
        out.extend(domain.bytes().map(|b| b.to_ascii_lowercase()));
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
