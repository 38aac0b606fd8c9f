#![allow(clippy::unwrap_used, reason = "a test")]

use super::*;

/// (pattern, texts it matches as a whole, texts it does not)
const WHOLE: &[(&str, &[&str], &[&str])] = &[
    ("", &[""], &["a"]),
    ("ab", &["ab"], &["a", "abc", "xab"]),
    ("a|bc|", &["a", "bc", ""], &["abc", "b"]),
    ("a.c", &["abc", "a.c", "a\u{2028}c", "a\u{1f600}c"], &["a\nc", "a\rc", "ac"]),
    ("a\\.c", &["a.c"], &["abc"]),
    ("[a-c]+", &["abcabc"], &["", "abd"]),
    ("[^a-c]", &["d", "é"], &["a", "dd"]),
    ("[-a]*", &["-a-"], &["b"]),
    ("[a-]*", &["a-"], &["b"]),
    ("[^-a]", &["b"], &["-", "a"]),
    ("[.]", &["."], &["a"]),
    ("[$^]", &["$", "^"], &["a"]),
    ("[\\]\\[\\\\\\-]", &["]", "[", "\\", "-"], &["a"]),
    ("[&~|]{2}", &["&&", "~~", "|&"], &["a"]),
    ("(a|b)?c", &["c", "ac", "bc"], &["abc"]),
    ("a{2}b{1,}c{0,2}", &["aab", "aabbbcc"], &["ab", "aa", "aabccc"]),
    ("\\p{Lu}\\p{L}*", &["Éa", "A"], &["éa"]),
    ("\\P{Nd}", &["a"], &["1"]),
    ("[\\p{Nd}x]+", &["1x٣"], &["y"]),
    ("\\n\\t\\r", &["\n\t\r"], &["ntr"]),
    ("#,:/@", &["#,:/@"], &["a"]),
    ("é{2}", &["éé"], &["é"]),
];

#[test]
fn a_match_takes_the_whole_text_and_a_search_any_part() {
    for (pattern, matching, others) in WHOLE {
        let (whole, part) =
            (Pattern::new(pattern, true).unwrap(), Pattern::new(pattern, false).unwrap());
        for text in *matching {
            assert_eq!(whole.matches(text.as_bytes()), Some(true), "{pattern} {text}");
            let around = format!("\n{text}\n");
            assert_eq!(part.matches(around.as_bytes()), Some(true), "{pattern} {text}");
            assert_eq!(whole.matches(around.as_bytes()), Some(false), "{pattern} {text}");
        }
        for text in *others {
            assert_eq!(whole.matches(text.as_bytes()), Some(false), "{pattern} {text}");
        }
    }
    assert_eq!(Pattern::new("b", false).unwrap().matches(b"aaac"), Some(false));
}

#[test]
fn what_is_no_i_regexp_is_refused() {
    for (pattern, words) in [
        ("^a", "^ is no anchor"),
        ("a$", "$ is no anchor"),
        ("\\d", "[0-9]"),
        ("\\bword", "an escape it does not have"),
        ("\\", "an escape it does not have"),
        ("(?i)a", "(? has no meaning"),
        ("a*?", "a quantifier follows a quantifier"),
        ("a{2}{3}", "a quantifier follows a quantifier"),
        ("*a", "* has nothing to repeat"),
        ("(a", "a ( without its )"),
        ("a)", "a ) without its ("),
        ("[a", "a [ without its ]"),
        ("[]", "an empty class"),
        ("[a-c-e]", "a - inside a class"),
        ("[b-a]", "turn them round"),
        ("[[:alpha:]]", "a [ inside a class"),
        ("a{,2}", "write {2}, {2,} or {2,4}"),
        ("a{x}", "write {2}, {2,} or {2,4}"),
        ("a{3,2}", "must rise"),
        ("a{1001}", "at most 1000"),
        ("\\p{Greek}", "character category"),
        ("\\p{Cs}", "character category"),
        ("}", "} stands alone"),
        ("]", "] stands alone"),
    ] {
        for whole in [true, false] {
            let refused = Pattern::new(pattern, whole).unwrap_err().to_string();
            assert!(
                refused.contains(words) && refused.starts_with("is no regular expression"),
                "{pattern}: {refused}"
            );
        }
    }
}

#[test]
fn a_pattern_that_would_take_too_much_room_is_refused_soon() {
    for pattern in [
        "(a|b)*a(a|b){30}",
        "\\p{L}{1000}",
        "((a{0,1000}){0,1000}){0,1000}",
        "(((((.{9}){9}){9}){9}){9}){9}",
    ] {
        let started = std::time::Instant::now();
        let refused = Pattern::new(pattern, false).unwrap_err().to_string();
        assert!(refused.contains("too large"), "{pattern}: {refused}");
        assert!(started.elapsed().as_secs() < 20, "{pattern} took {:?}", started.elapsed());
    }
}
