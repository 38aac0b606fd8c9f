use proptest::prelude::*;
use unicode_segmentation::UnicodeSegmentation as _;

use super::ReadMask;

fn masked(keep_first: usize, keep_last: usize, text: &str) -> String {
    let value = serde_json::to_vec(text).unwrap();
    let (mut scratch, mut out) = (Vec::new(), b"before".to_vec());
    let mask = ReadMask { keep_first, keep_last };
    assert!(mask.apply(&value, &mut scratch, &mut out));
    serde_json::from_slice(&out[b"before".len()..]).unwrap()
}

#[test]
fn known_answers() {
    for (keep_first, keep_last, text, shown) in [
        (0, 4, "078-05-1120", "********1120"),
        (0, 4, "4111111111111111", "********1111"),
        (2, 0, "4111111111111111", "41********"),
        (1, 2, "4111111111111113", "4********13"),
        // Fewer than 8 characters.
        (4, 4, "", "********"),
        (4, 4, "a", "********"),
        (1, 1, "1234567", "********"),
        (1, 1, "12345678", "1********8"),
        // Never more than half, the end first.
        (0, 4, "12345678", "********5678"),
        (0, 5, "12345678", "********5678"),
        (0, 1024, "123456789", "********6789"),
        (1024, 0, "123456789", "1234********"),
        (3, 3, "12345678", "1********678"),
        (4, 4, "12345678", "********5678"),
        (4, 4, "1234567890", "1********7890"),
        // Escapes count as their character and stay escaped.
        (2, 2, "\"\\34567\n\u{1}", "********"),
        (2, 2, "\"\\345678\\\"", "\"\\********\\\""),
        // What only fills a column is no length, inside neither, and is not shown at the ends.
        (4, 4, "Jo          ", "********"),
        (4, 4, "  Lovelace  ", "********lace"),
        (2, 2, "\u{200b}\u{feff}Lovelace\u{2060}\u{3000}\n", "Lo********ce"),
        (2, 0, "J o                  B", "********"),
        (4, 0, "Jo\u{200b}\u{200b}\u{200b}\u{200b}hn", "********"),
        (4, 0, "Ada Lovelace", "Ada ********"),
        (0, 2, "\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}", "********"),
    ] {
        assert_eq!(masked(keep_first, keep_last, text), shown, "{keep_first} {keep_last} {text:?}");
    }
}

/// Unicode's characters are several code points, and none is cut.
#[test]
fn known_answers_beyond_ascii() {
    for (keep_first, keep_last, text, shown) in [
        (1, 2, "Ångström", "Å********öm"),
        // The same, decomposed.
        (1, 2, "A\u{30a}ngstro\u{308}m", "A\u{30a}********o\u{308}m"),
        // 8 code points, 4 characters.
        (1, 1, "a\u{301}b\u{301}c\u{301}d\u{301}", "********"),
        (0, 2, "李小龍李小龍李小", "********李小"),
        (0, 1, "👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦👩‍👩‍👧‍👦👨‍👩‍👧", "********👨‍👩‍👧"),
        // Flags pair from the front.
        (1, 1, "🇩🇪🇫🇷🇩🇪🇫🇷🇩🇪🇫🇷🇩🇪🇯🇵", "🇩🇪********🇯🇵"),
        // Syllables: Hangul of parts, Devanagari with a conjunct.
        (1, 1, "한국한국한국한구", "한********구"),
        (0, 1, "कककककककक्षि", "********क्षि"),
        // Right to left: the order of the text, not of the screen.
        (2, 1, "אבגדהוזח", "אב********ח"),
        // A letter with many accents would be most of the text.
        (
            0,
            1,
            "abcdefgz\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}\u{307}\u{308}\u{309}",
            "********",
        ),
        (
            1,
            1,
            "abcdefgz\u{300}\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}\u{307}\u{308}\u{309}",
            "a********",
        ),
    ] {
        assert_eq!(masked(keep_first, keep_last, text), shown, "{keep_first} {keep_last} {text:?}");
    }
}

#[test]
fn what_is_no_text_has_no_mask() {
    let mask = ReadMask { keep_first: 0, keep_last: 4 };
    for value in [
        "1234567890123456",
        "null",
        "true",
        "[\"4111111111111111\"]",
        "{\"a\":\"4111111111111111\"}",
        "\"41111111\\ud83d11111111\"",
        "\"",
        "",
    ] {
        let mut out = Vec::new();
        assert!(!mask.apply(value.as_bytes(), &mut Vec::new(), &mut out), "{value}");
        assert!(out.is_empty());
    }
}

/// Texts that are hard to cut: pads, accents, flags, joiners, quotes.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => "[a-zA-Z0-9]",
        1 => "[ \t\n\"\\\\]",
        1 => "[\u{300}-\u{305}\u{200b}-\u{200d}\u{1f1e6}-\u{1f1ff}]",
        1 => "[👩👧🏽क्षि한]",
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn at_most_half_is_shown(text in text(), keep_first in 0..20_usize, keep_last in 0..20_usize) {
        let (first, last) = ReadMask { keep_first, keep_last }.pieces(&text);
        prop_assert_eq!(masked(keep_first, keep_last, &text), format!("{first}********{last}"));
        let points = |t: &str| t.chars().count();
        let characters = |t: &str| t.graphemes(true).count();
        prop_assert!(points(first) + points(last) <= points(&text) / 2);
        prop_assert!(characters(first) + characters(last) <= characters(&text) / 2);
        prop_assert!(characters(first) <= keep_first && characters(last) <= keep_last);
        prop_assert!(characters(&text) >= 8 || first.is_empty() && last.is_empty());
        prop_assert!(text.contains(first) && text.contains(last));
        // A space shows where it carries an accent.
        let blank = |c: char| c.is_control() || c.is_whitespace();
        let ends = first.graphemes(true).next().into_iter().chain(last.graphemes(true).next_back());
        for end in ends {
            prop_assert!(!end.chars().all(blank), "{:?}", end);
        }
    }

    #[test]
    fn a_mask_that_shows_no_more_never_does(
        text in text(), a in (0..6_usize, 0..6_usize), b in (0..6_usize, 0..6_usize),
    ) {
        let mask = |(keep_first, keep_last)| ReadMask { keep_first, keep_last };
        let ((first_a, last_a), (first_b, last_b)) = (mask(a).pieces(&text), mask(b).pieces(&text));
        if !mask(a).shows_more_than(mask(b)) {
            prop_assert!(first_a.len() <= first_b.len() && last_a.len() <= last_b.len());
        }
    }
}
