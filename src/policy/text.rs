//! Where in the text of a policy a literal stands: Cedar's syntax tree does not tell.

/// A token of Cedar's syntax that may be part of a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'t> {
    /// An identifier or keyword.
    Word(&'t str),
    /// A string without its quotes, escapes as written.
    Text(&'t str),
    /// Any other character.
    Mark(char),
}

/// Offset of the entity literal `kind::"id"`; `None` where it is written with escapes.
pub(super) fn entity(text: &str, kind: &str, id: &str) -> Option<usize> {
    let tokens: Vec<(usize, Token<'_>)> = tokens(text).collect();
    let wanted = [Token::Word(kind), Token::Mark(':'), Token::Mark(':'), Token::Text(id)];
    tokens
        .windows(wanted.len())
        .find(|found| found.iter().zip(wanted).all(|((_, token), wanted)| *token == wanted))
        .and_then(|found| found.first())
        .map(|(offset, _)| *offset)
}

/// Offset of the string `"content"` that is no entity's id.
pub(super) fn string(text: &str, content: &str) -> Option<usize> {
    let mut before = Token::Mark(' ');
    for (offset, token) in tokens(text) {
        if token == Token::Text(content) && before != Token::Mark(':') {
            return Some(offset);
        }
        before = token;
    }
    None
}

/// Tokens with their offsets; comments and white space are left out.
fn tokens(text: &str) -> impl Iterator<Item = (usize, Token<'_>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = text.get(at..)?;
            let first = rest.chars().next()?;
            let start = at;
            if first.is_whitespace() {
                at += first.len_utf8();
            } else if rest.starts_with("//") {
                at += rest.find('\n').unwrap_or(rest.len());
            } else if first == '"' {
                let end = string_end(rest);
                at += end;
                let content = rest.get(1..end.saturating_sub(1)).unwrap_or_default();
                return Some((start, Token::Text(content)));
            } else if first.is_ascii_alphabetic() || first == '_' {
                let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                at += end;
                return Some((start, Token::Word(&rest[..end])));
            } else {
                at += first.len_utf8();
                return Some((start, Token::Mark(first)));
            }
        }
    })
}

/// Length of the string that `text` starts with, its quotes included.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return i + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "// Tag::\"a\" is not here\nforbid(principal, action, resource in Tag :: \"a\")\nwhen { context.purpose == \"Tag::\\\"b\\\"\" || \"b\" == context.purpose };";

    #[test]
    fn literals_are_found_where_they_stand() {
        assert_eq!(entity(POLICY, "Tag", "a"), POLICY.find("Tag :: "));
        assert_eq!(string(POLICY, "b"), POLICY.find("\"b\" =="));
        assert_eq!(entity(POLICY, "Tag", "b"), None, "inside a string");
        assert_eq!(string(POLICY, "a"), None, "an entity's id");
        assert_eq!(string("\"never closed", "x"), None);
    }
}
