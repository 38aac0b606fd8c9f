//! The short ways of the normalisers come to what the long ways come to, and what each makes of
//! hard inputs.

use idna::AsciiDenyList;
use proptest::prelude::*;

use super::{Input, Normalizer, Scratch, email, text};

/// The normal form of a JSON scalar.
fn json(normalizer: &str, value: &str) -> Option<String> {
    let mut out = b"left over".to_vec();
    let normalizer: Normalizer = normalizer.parse().unwrap();
    let indexed =
        normalizer.normalize(Input::Json(value.as_bytes()), &mut Scratch::default(), &mut out);
    indexed.then(|| String::from_utf8(out).unwrap())
}

/// The normal form of a text.
fn of(normalizer: &str, value: &str) -> Option<String> {
    json(normalizer, &serde_json::to_string(value).unwrap())
}

fn assert_forms(normalizer: &str, forms: &[(&str, Option<&str>)]) {
    for (value, expected) in forms {
        assert_eq!(json(normalizer, value).as_deref(), *expected, "{normalizer} of {value}");
    }
}

proptest! {
    #[test]
    fn ascii_text_takes_the_short_way_to_the_same_place(value in "[\\x00-\\x7f]{0,40}") {
        let (mut short, mut long) = (Vec::new(), Vec::new());
        text::fold(&value, &mut short);
        text::fold_unicode(&value, &mut long);
        prop_assert_eq!(short, long);
    }

    #[test]
    fn a_plain_domain_takes_the_short_way_to_the_same_place(domain in "[A-Za-z0-9.-]{1,30}") {
        let mut short = Vec::new();
        if email::append_plain_domain(&domain, &mut short) {
            let long = idna::domain_to_ascii_cow(domain.as_bytes(), AsciiDenyList::EMPTY).unwrap();
            prop_assert_eq!(long.as_bytes(), short);
        }
    }

    /// A normal form is its own normal form, for the normalisers whose result is a text like their
    /// input.
    #[test]
    fn normalising_twice_changes_nothing(value in any::<String>()) {
        for name in ["exact", "text", "digits", "alnum", "date"] {
            if let Some(once) = of(name, &value) {
                prop_assert_eq!(of(name, &once), Some(once), "{}", name);
            }
        }
    }

    #[test]
    fn whatever_a_telephone_number_is_its_form_is_digits(value in "[+0-9 ().;:=a-zA-Z\u{ff10}-\u{ff19}\u{660}-\u{669}-]{0,40}|.{0,80}") {
        for name in ["phone-us", "phone-br", "phone-it"] {
            if let Some(form) = of(name, &value) {
                let (first, digits) = form.split_at(1);
                prop_assert!("+?".contains(first) && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()), "{}", form);
            }
        }
    }

    #[test]
    fn numbers_of_one_value_have_one_form(whole in 0_u64..10_000_000, fraction in "[0-9]{0,6}", exponent in -20_i32..20) {
        let fraction = fraction.trim_end_matches('0');
        let plain = if fraction.is_empty() { format!("{whole}") } else { format!("{whole}.{fraction}") };
        prop_assert_eq!(json("number", &plain), Some(plain.clone()));
        // The same value with its point moved and an exponent to make up for it.
        let digits = format!("{whole}{fraction}");
        let moved = format!("{digits}.0e{}", -i32::try_from(fraction.len()).unwrap());
        prop_assert_eq!(json("number", &moved), Some(plain.clone()));
        let there = json("number", &format!("{plain}E{exponent:+}")).unwrap();
        prop_assert_eq!(json("number", &format!("{there}e{}", -exponent)), Some(plain));
    }
}

#[test]
fn exact_is_the_value_as_it_is() {
    assert_forms(
        "exact",
        &[
            (r#""\u0041 b""#, Some("A b")),
            ("1.10", Some("1.10")),
            ("true", Some("true")),
            ("null", None),
            (r#""""#, None),
            ("[1]", None),
            (r#""\ud800""#, None),
        ],
    );
    let mut out = Vec::new();
    assert!(Normalizer::Exact.normalize(
        Input::Raw(b"\xff\x00"),
        &mut Scratch::default(),
        &mut out
    ));
    assert_eq!(out, b"\xff\x00", "raw bytes need no UTF-8");
    assert!(
        !Normalizer::Text.normalize(Input::Raw(b"\xff"), &mut Scratch::default(), &mut out),
        "text does"
    );
}

#[test]
fn text_folds() {
    assert_forms(
        "text",
        &[
            (
                "\"\u{3a3}\u{3af}\u{3c3}\u{3c5}\u{3c6}\u{3bf}\u{3c2}\"",
                Some("\u{3c3}\u{3af}\u{3c3}\u{3c5}\u{3c6}\u{3bf}\u{3c3}"),
            ),
            ("\"\u{130}\"", Some("i\u{307}")),
            ("\"a\u{ad}b\u{fe0f}\"", Some("ab")),
            ("\"\u{2003}a\u{a0}\u{2029}b\u{3000}\"", Some("a b")),
            (r#"" \t ""#, None),
            ("\"\u{200b}\"", None),
            ("42", Some("42")),
            ("\"\u{fb01}\"", Some("fi")),
        ],
    );
}

#[test]
fn email_has_one_domain() {
    assert_forms(
        "email",
        &[
            (r#""Jane@EXAMPLE.COM""#, Some("jane@example.com")),
            (r#""a@b@Example.com""#, Some("a@b@example.com")),
            (r#""jane@example.com.""#, Some("?jane@example.com.")),
            (r#""jane@.com""#, Some("?jane@.com")),
            (r#""jane@""#, Some("?jane@")),
            (r#""@Example.com""#, Some("@example.com")),
            ("\"jane@b\u{fc}cher\u{3002}example\"", Some("jane@xn--bcher-kva.example")),
            (r#""jane@XN--BCHER-KVA.example""#, Some("jane@xn--bcher-kva.example")),
            (r#""jane@xn--a.example""#, Some("?jane@xn--a.example")),
            (r#""jane@exa_mple.com""#, Some("jane@exa_mple.com")),
            ("\"jane@stra\u{df}e.example\"", Some("jane@xn--strae-oqa.example")),
            (r#"" ""#, None),
        ],
    );
}

#[test]
fn phone_is_e164_or_its_digits() {
    assert_forms(
        "phone-us",
        &[
            (r#""+1 (415) 555-2671""#, Some("+14155552671")),
            (r#""415.555.2671 ext. 5""#, Some("+14155552671")),
            ("4155552671", Some("+14155552671")),
            (r#""call me""#, None),
            (r#""12""#, Some("?12")),
            (r#""ext 12""#, Some("?12")),
            (r#""911""#, Some("+1911")),
            (r#""1""#, Some("?1")),
            (r#""1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2""#, Some("?1234567890123456789012")),
        ],
    );
    assert_eq!("phone-xx".parse::<Normalizer>().ok(), None);
    assert_eq!("phone-US".parse::<Normalizer>().ok(), None);
}

#[test]
fn a_number_of_another_country_keeps_its_digits() {
    for (normalizer, forms) in [
        (
            "phone-us",
            &[
                ("+86 131 2345 6789", "+8613123456789"),
                ("011 86 131 2345 6789", "+8613123456789"),
                ("011-33-1-23-45-67-89 ext. 12", "+33123456789"),
                ("+49 (0) 1512 3456789", "+4915123456789"),
                ("+44 121 234 5678", "+441212345678"),
                ("+1 242 345 6789", "+12423456789"),
                ("+39 06 698 12345", "+390669812345"),
            ][..],
        ),
        (
            "phone-de",
            &[
                ("+39 06 698 12345", "+390669812345"),
                ("0039 06 698 12345", "+390669812345"),
                ("0049 30 123456", "+4930123456"),
            ],
        ),
        (
            "phone-ru",
            &[
                ("+65 8123 4567", "+6581234567"),
                ("8~10 65 8123 4567", "+6581234567"),
                ("8 (912) 345-67-89", "+79123456789"),
            ],
        ),
        (
            "phone-br",
            &[("+229 01 95 12 34 56", "+2290195123456"), ("(11) 96123-4567", "+5511961234567")],
        ),
    ] {
        for (value, expected) in forms {
            assert_eq!(
                of(normalizer, value).as_deref(),
                Some(*expected),
                "{normalizer} of {value}"
            );
        }
    }
}

#[test]
fn digits_and_alnum_are_of_strings_and_integers() {
    assert_forms(
        "digits",
        &[
            (r#""078-05-1120""#, Some("078051120")),
            ("-12", Some("12")),
            ("1.5", None),
            ("1e3", None),
            ("true", None),
            ("\"\u{661}\"", Some("1")),
        ],
    );
    assert_forms(
        "alnum",
        &[
            (r#""ab-1""#, Some("AB1")),
            ("-12", Some("12")),
            ("1.5", None),
            ("false", None),
            ("\"\u{e9}\"", None),
        ],
    );
}

#[test]
fn dates_stand_alone_or_before_a_time() {
    assert_forms(
        "date",
        &[
            (r#""1980-02-29""#, Some("1980-02-29")),
            (r#""1980-02-29 10:00""#, Some("1980-02-29")),
            (r#""1980-02-29Z""#, None),
            (r#""1980-2-9""#, None),
            (r#""1980-13-01""#, None),
            (r#""1980-00-01""#, None),
            (r#""1980-01-00""#, None),
            (r#""1980-01-32""#, None),
            (r#"" 1980-02-29""#, None),
            ("\"198\u{660}-02-29\"", Some("1980-02-29")),
            ("19800229", None),
        ],
    );
}

#[test]
fn numbers_are_plain_decimals() {
    assert_forms(
        "number",
        &[
            ("-0.0", Some("0")),
            ("-0e5", Some("0")),
            (r#"" +007.50\n""#, Some("7.5")),
            ("1e-3", Some("0.001")),
            ("-1.5E+2", Some("-150")),
            ("9007199254740993", Some("9007199254740993")),
            ("1e401", None),
            ("1e-401", None),
            ("0e401", None),
            ("1e99999999999999999999", None),
            (r#""1,000""#, None),
            (r#"".5""#, None),
            (r#""1.""#, None),
            (r#""e5""#, None),
            (r#""""#, None),
            (r#""--1""#, None),
            ("true", None),
        ],
    );
    assert_eq!(json("number", "1e400").map(|n| n.len()), Some(401));
}

#[test]
fn names_come_back() {
    for name in
        ["exact", "text", "email", "phone-us", "phone-de", "digits", "alnum", "date", "number"]
    {
        assert_eq!(name.parse::<Normalizer>().unwrap().to_string(), name);
    }
    for name in ["", "Exact", "phone", "phone-", "phone-u", "phone-usa", "text2"] {
        assert!(name.parse::<Normalizer>().is_err(), "{name}");
    }
}

/// Independent readers agree with us on which numbers parse, and to what.
#[test]
fn telephone_numbers_parse_as_in_libphonenumber() {
    let answers = include_str!("../../../tests/vectors/phone-numbers.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for answer in answers {
        let [region, text, expected] = answer.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{answer}")
        };
        let expected = Some(expected).filter(|e| !e.is_empty());
        assert_eq!(of(&format!("phone-{region}"), text).as_deref(), expected, "{region}: {text}");
        count += 1;
    }
    assert!(count > 500, "{count}");
}

#[test]
fn the_longest_number_has_250_characters() {
    let long = |blanks: usize| format!("415{}5552671", " ".repeat(blanks));
    assert_eq!(of("phone-us", &long(240)).as_deref(), Some("+14155552671"));
    assert_eq!(of("phone-us", &long(241)).as_deref(), Some("?4155552671"));
}
