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
    if is_plain(domain.as_bytes()) {
        out.extend(domain.bytes().map(|b| b.to_ascii_lowercase()));
        return true;
    }
    if domain.split('.').any(str::is_empty) {
        return false;
    }
    match idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::EMPTY) {
        Ok(ascii) if !ascii.split('.').any(str::is_empty) => {
            out.extend(ascii.bytes().map(|b| b.to_ascii_lowercase()));
            true
        }
        _ => false,
    }
}

/// Letters, digits and dots, and hyphens only inside labels and not in their third and fourth place: UTS 46 maps it to lower case and nothing else.
fn is_plain(domain: &[u8]) -> bool {
    let mut label = 0;
    let mut last = b'.';
    for &b in domain {
        match b {
            b'.' if matches!(last, b'.' | b'-') => return false,
            b'.' => label = 0,
            b'-' if label == 0 || (label == 3 && last == b'-') => return false,
            b'-' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => label += 1,
            _ => return false,
        }
        last = b;
    }
    !matches!(last, b'.' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_domain_is_what_uts_46_only_lower_cases() {
        for domain in ["a", "Example.COM", "a-b.c", "1.2", "ab-c-.x", "ab--c.x", "xn--a.x", "-a.x", "a-.x", ".a", "a.", "a..b", "", "-", "a_b.c", "a b", "abc--d.e", "a--b.c", "é.x"] {
            let with_tables = idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::EMPTY);
            let mapped = with_tables.is_ok_and(|ascii| ascii == domain.to_ascii_lowercase() && !domain.split('.').any(str::is_empty));
            assert!(!is_plain(domain.as_bytes()) || mapped, "{domain}");
        }
        assert!(["a", "Example.COM", "a-b.c", "abc--d.e", "a--b.c"].iter().all(|d| is_plain(d.as_bytes())));
        assert!(!["xn--a.x", "ab--c.x", "-a.x", "a-.x", "a."].iter().any(|d| is_plain(d.as_bytes())));
    }
}
