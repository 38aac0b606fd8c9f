//! What to write instead where a path leaves RFC 9535: nearly always it is a path of another
//! dialect.

use super::show::quoted;

/// No remedy quotes more, in bytes.
const LONGEST: usize = 60;
/// Operators that other dialects have.
const OPERATORS: [&str; 20] = [
    "in",
    "nin",
    "subsetof",
    "anyof",
    "noneof",
    "allof",
    "size",
    "empty",
    "is",
    "has",
    "contains",
    "and",
    "or",
    "not",
    "like",
    "startswith",
    "endswith",
    "between",
    "eq",
    "ne",
];

fn quote(text: &str) -> Option<String> {
    (text.len() <= LONGEST).then(|| format!("\"{text}\""))
}

/// The text does not begin with `$`.
pub(super) fn no_root(text: &str) -> String {
    if text.trim_start().starts_with('$') {
        return "has white space before the $; remove it".to_owned();
    }
    let bare = text.trim_start().trim_start_matches(['/', '.', '@']);
    let dotted = bare
        .strip_prefix('[')
        .map_or_else(|| format!("$.{}", bare.replace('/', ".")), |_| format!("${bare}"));
    let remedy = quote(&dotted)
        .filter(|_| bare.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '['));
    format!(
        "does not begin with $; write for example {}",
        remedy.unwrap_or_else(|| "\"$.customer.email\"".to_owned())
    )
}

/// Something follows a segment that begins no other.
pub(super) fn after_segment(text: &str, at: usize) -> String {
    let (before, rest) = text.split_at(at);
    if rest.starts_with('(') {
        return "calls a function outside a filter; RFC 9535 has functions in filters only, like \
            [?length(@.a) > 1]"
            .to_owned();
    }
    if rest.trim_matches([' ', '\t', '\n', '\r']).is_empty() {
        return "has white space at its end; remove it".to_owned();
    }
    if rest.starts_with('~') {
        return "asks for member names (~), which RFC 9535 does not have; name a place whose value \
            is protected".to_owned();
    }
    // A name that goes on with characters a dotted name does not take.
    let dot = before.rfind(['.', ']', '[']).filter(|dot| before[*dot..].starts_with('.'));
    let Some(dot) = dot.filter(|dot| !before[dot + 1..].is_empty() && !before.ends_with('*'))
    else {
        return "goes on with what is no segment; write .name, ['name'], [0] or [*]".to_owned();
    };
    let end = text[at..].find(['.', '[']).map_or(text.len(), |n| at + n);
    let name = text[dot + 1..end].trim_end();
    let base = before[..dot].strip_suffix('.').map_or(&before[..dot], |base| base);
    let dots = if base.len() < dot { ".." } else { "" };
    let what = if rest.starts_with(char::is_whitespace) {
        "has white space inside a name"
    } else {
        "has a character that a name after a dot does not take"
    };
    match quote(&format!("{base}{dots}[{}]{}", quoted(name), &text[end..]))
        .or_else(|| quote(&format!("[{}]", quoted(name))))
    {
        Some(remedy) => format!("{what}; write {remedy}"),
        None => format!("{what}; write the name as ['...']"),
    }
}

/// A dot without a name.
pub(super) fn no_name(text: &str, at: usize) -> String {
    let (before, rest) = text.split_at(at);
    if rest.starts_with('[') {
        // `$..[` is a segment, so this is `$.[`.
        let remedy = quote(&format!("{}{rest}", before.strip_suffix('.').unwrap_or(before)));
        return format!(
            "has a dot before a bracket; write {}",
            remedy.unwrap_or_else(|| "it without the dot".to_owned())
        );
    }
    if rest.starts_with('.') {
        return "has three dots; write .. for any depth".to_owned();
    }
    if rest.starts_with(char::is_whitespace) {
        return "has white space after a dot; remove it, or write the name as ['...']".to_owned();
    }
    let base = before.trim_end_matches('.');
    let dots = if before.len() - base.len() == 2 { ".." } else { "" };
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    if name.is_empty() {
        return "ends in a dot; add a name, or remove it".to_owned();
    }
    let inside =
        if name.bytes().all(|b| b.is_ascii_digit()) { name.to_owned() } else { quoted(name) };
    let remedy = quote(&format!("{base}{dots}[{inside}]{after}"))
        .unwrap_or_else(|| "the name as ['...']".to_owned());
    format!("has a name that may not stand after a dot; write {remedy}")
}

/// Neither a comma nor the closing bracket.
pub(super) fn in_brackets(text: &str, at: usize, filter: bool) -> String {
    unknown_operator(text, at).filter(|_| filter).unwrap_or_else(|| {
        if at == text.len() {
            "has a [ without its ]; add it".to_owned()
        } else {
            "has something after a selector; write , between selectors, ] after the last".to_owned()
        }
    })
}

/// No selector where one must stand.
pub(super) fn no_selector(text: &str, at: usize) -> String {
    let rest = &text[at..];
    if rest.starts_with('(') {
        return "has a script in brackets, which RFC 9535 does not have; write [-1] for the last \
            element, [?...] for a filter"
            .to_owned();
    }
    if rest.starts_with(']') && text[..at].trim_end().ends_with(',') {
        return "has no selector here, after a comma; remove the comma".to_owned();
    }
    if rest.starts_with(']') {
        return "has an empty bracket; write a selector in it, [*] for all".to_owned();
    }
    let name = rest[..rest.find([']', ',']).unwrap_or(rest.len())].trim();
    match quote(&format!("[{}]", quoted(name)))
        .filter(|_| !name.is_empty() && !name.contains(['\'', '"', '@', '?', '[']))
    {
        Some(remedy) => format!("has a name in brackets without quotes; write {remedy}"),
        None => "has no selector here; write a name in quotes, an index, a slice, * or ?filter"
            .to_owned(),
    }
}

/// An operator of another dialect stands here.
pub(super) fn unknown_operator(text: &str, at: usize) -> Option<String> {
    let rest = &text[at..];
    let word =
        &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())];
    if rest.starts_with("=~") {
        return Some(
            "has the operator =~, which RFC 9535 does not have; write match(@.a, \
            'pattern') or search(@.a, 'pattern')"
                .to_owned(),
        );
    }
    for (one, two) in [('&', "&&"), ('|', "||")] {
        if rest.starts_with(one) && !rest.starts_with(two) {
            return Some(format!("has a single {one}; write {two}"));
        }
    }
    if rest.starts_with("==") {
        return Some(
            "compares what is a comparison already; write && between two of them".to_owned(),
        );
    }
    if rest.starts_with('=') {
        return Some("has a single =; write == for equal".to_owned());
    }
    if rest.starts_with(['+', '*', '/', '%']) || rest.starts_with("- ") {
        return Some(
            "calculates, which RFC 9535 does not; compare with a constant or another member"
                .to_owned(),
        );
    }
    let lower = word.to_ascii_lowercase();
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let remedy = match lower.as_str() {
        "in" | "anyof" => "write @.a == 'x' || @.a == 'y'",
        "nin" | "noneof" => "write @.a != 'x' && @.a != 'y'",
        "size" => "write length(@.a) == 2",
        "empty" => "write length(@.a) == 0",
        "and" => "write &&",
        "or" => "write ||",
        "contains" | "like" | "startswith" | "endswith" => {
            "write search(@.a, 'pattern') or match(@.a, 'pattern')"
        }
        _ => "write ==, !=, <, <=, > or >=",
    };
    let kind = if OPERATORS.contains(&lower.as_str()) {
        "an operator of another dialect"
    } else {
        "no operator of RFC 9535"
    };
    Some(format!("has {word}, {kind}; {remedy}"))
}

/// Neither an operator nor the end of the expression.
pub(super) fn in_filter(text: &str, at: usize) -> String {
    unknown_operator(text, at).unwrap_or_else(|| "has a ( without its ); add it".to_owned())
}

/// A value stands alone, where something must be compared or tested.
pub(super) fn no_comparison(text: &str, at: usize) -> String {
    unknown_operator(text, at).unwrap_or_else(|| {
        "has a value that is compared with nothing; write for example \
            length(@.a) > 1, or @.a to ask whether it is there"
            .to_owned()
    })
}

/// Neither a constant nor a path nor a function.
pub(super) fn no_operand(text: &str, at: usize) -> String {
    let rest = &text[at..];
    if rest.starts_with('[') {
        return "has a list in a filter, which RFC 9535 does not have; write @.a == 'x' || @.a == \
            'y'"
        .to_owned();
    }
    if rest.starts_with('/') {
        return "has a pattern between slashes, which RFC 9535 does not have; write match(@.a, \
            'pattern') or search(@.a, 'pattern')"
            .to_owned();
    }
    "has no value here; write @.name, a constant ('x', 1, true, false, null) or a function"
        .to_owned()
}

/// A function RFC 9535 does not have.
pub(super) fn unknown_function(name: &str) -> String {
    let name = if name.len() <= LONGEST { name } else { "a function" };
    format!(
        "uses {name}(), which is no function of RFC 9535; use length, count, value, match or search"
    )
}

/// How a function is called.
pub(super) fn usage(name: &str) -> String {
    let usage = match name {
        "length" => "length(@.a), of one place or one constant",
        "count" => "count(@.a[*]), of a path",
        "value" => "value(@..a), of a path",
        "match" => "match(@.a, 'pattern'), of one place and a string",
        _ => "search(@.a, 'pattern'), of one place and a string",
    };
    format!("calls {name}() with other arguments than it takes; write {usage}")
}
