//! Normalisers: no input makes one panic, a reused buffer changes nothing, and a normal form is its
//! own normal form.

use veilstream_engine::normalize::{Input, Normalizer, Scratch};
use veilstream_engine::scan::is_json_text;

const NAMES: [&str; 7] = ["exact", "text", "email", "digits", "alnum", "date", "number"];
/// Regions whose national prefixes, international prefixes and rewritings differ.
const PHONES: [&str; 8] = [
    "phone-us", "phone-de", "phone-it", "phone-br", "phone-nz", "phone-ru", "phone-ar", "phone-bs",
];

/// Input: the name of a normaliser, a line feed, a value. Whether the value has an index.
pub fn normalisers(data: &[u8]) -> bool {
    let Some((name, value)) = super::first_line(data) else { return false };
    if !NAMES.contains(&name) && !PHONES.contains(&name) {
        // A name that is none is refused, and one that is comes back.
        if let Ok(parsed) = name.parse::<Normalizer>() {
            assert_eq!(parsed.to_string(), name);
        }
        return false;
    }
    let normalizer: Normalizer = name.parse().unwrap();
    let raw = normal(normalizer, Input::Raw(value));
    if let Ok(text) = std::str::from_utf8(value) {
        let quoted = serde_json::to_string(text).unwrap();
        assert_eq!(normal(normalizer, Input::Json(quoted.as_bytes())), raw, "as a JSON string");
        // The same string with every character of the basic plane escaped.
        let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
        assert_eq!(
            normal(normalizer, Input::Json(format!("\"{escaped}\"").as_bytes())),
            raw,
            "as an escaped JSON string"
        );
    } else {
        assert!(raw.is_none() || name == "exact", "text that is no text");
    }
    let bare = if is_json_text(value) { normal(normalizer, Input::Json(value)) } else { None };
    for form in [&raw, &bare].into_iter().flatten() {
        check(name, normalizer, form);
    }
    raw.is_some() || bare.is_some()
}

fn normal(normalizer: Normalizer, input: Input<'_>) -> Option<Vec<u8>> {
    let (mut out, mut scratch) = (b"left over".to_vec(), Scratch::default());
    let first = normalizer.normalize(input, &mut scratch, &mut out).then(|| out.clone());
    let again = normalizer.normalize(input, &mut scratch, &mut out).then_some(out);
    assert_eq!(first, again, "a reused buffer");
    first
}

fn check(name: &str, normalizer: Normalizer, form: &[u8]) {
    assert!(!form.is_empty(), "nothing has no index");
    let digits = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    let shaped = match name {
        "digits" => digits(form),
        "alnum" => form.iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()),
        "date" => form.len() == 10,
        "number" => form.iter().all(|b| b.is_ascii_digit() || b"-.".contains(b)) && form != b"-0",
        "exact" => true,
        phone if phone.starts_with("phone-") => b"+?".contains(&form[0]) && digits(&form[1..]),
        _ => std::str::from_utf8(form).is_ok(),
    };
    assert!(shaped, "{name} gives {}", String::from_utf8_lossy(form));
    if name.starts_with("phone-") {
        return check_phone(form);
    }
    // `?` marks what is no address; that mark is no part of one. Nor is white space part of a
    // domain: it is trimmed off, but not when an invisible character stands after it that UTS 46
    // leaves out.
    let domain = std::str::from_utf8(form)
        .ok()
        .and_then(|text| text.rsplit_once('@'))
        .map_or("", |(_, domain)| domain);
    if name != "email" || (form[0] != b'?' && !domain.contains(char::is_whitespace)) {
        let again = normal(normalizer, Input::Raw(form));
        assert_eq!(
            again.as_deref(),
            Some(form),
            "{name}: the normal form {:?} becomes another",
            String::from_utf8_lossy(form)
        );
    }
}

/// E.164 says which country a number is of: anyone who writes it that way means the same number,
/// wherever they are. What is shorter or longer than any number of that country may be read in two
/// ways.
fn check_phone(form: &[u8]) {
    let text = std::str::from_utf8(form).unwrap();
    let valid = |n: phonenumber::PhoneNumber| {
        n.is_valid() && format!("+{}{}", n.code().value(), n.national()) == text
    };
    if phonenumber::parse(None, text).is_ok_and(valid) {
        for region in PHONES {
            let again = normal(region.parse().unwrap(), Input::Raw(form));
            assert_eq!(again.as_deref(), Some(form), "{region} of {text}");
        }
    }
}
