//! Decimal digits of every script as ASCII (general category Nd of Unicode 17, which is part of the
//! normalisers' names).

/// The zeros; the nine digits after each follow it.
const ZEROS: [u32; 77] = [
    0x30, 0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66,
    0xde6, 0xe50, 0xed0, 0xf20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90,
    0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
    0x104a0, 0x10d30, 0x10d40, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0, 0x11450, 0x114d0,
    0x11650, 0x116c0, 0x116d0, 0x116da, 0x11730, 0x118e0, 0x11950, 0x11bf0, 0x11c50, 0x11d50,
    0x11da0, 0x11de0, 0x11f50, 0x16130, 0x16a60, 0x16ac0, 0x16b50, 0x16d70, 0x1ccf0, 0x1d7ce,
    0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e4f0, 0x1e5f1, 0x1e950, 0x1fbf0,
];

/// The value of a decimal digit of any script.
fn decimal(c: char) -> Option<u8> {
    let code = u32::from(c);
    let zero = ZEROS[..ZEROS.partition_point(|zero| *zero <= code)].last()?;
    u8::try_from(code - zero).ok().filter(|value| *value < 10)
}

/// Appends the text with its decimal digits as ASCII.
pub(super) fn to_ascii(text: &str, out: &mut Vec<u8>) {
    for c in text.chars() {
        match decimal(c) {
            Some(value) => out.push(b'0' + value),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// A full-width form (U+FF01 to U+FF5E) as its ASCII.
pub(super) fn narrow(c: char) -> char {
    match u32::from(c) {
        code @ 0xff01..=0xff5e => char::from_u32(code - 0xfee0).unwrap_or(c),
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use icu_properties::CodePointMapData;
    use icu_properties::props::GeneralCategory;

    use super::*;

    /// The tables of the library are those of Unicode 17, too.
    #[test]
    fn every_decimal_digit_is_known_and_nothing_else() {
        let category = CodePointMapData::<GeneralCategory>::new();
        for c in '\0'..=char::MAX {
            assert_eq!(
                decimal(c).is_some(),
                category.get(c) == GeneralCategory::DecimalNumber,
                "U+{:04x}",
                u32::from(c)
            );
        }
        assert_eq!(
            [
                decimal('7'),
                decimal('\u{0669}'),
                decimal('\u{1d7d8}'),
                decimal('\u{1ccf9}'),
                decimal('\u{b2}')
            ],
            [Some(7), Some(9), Some(0), Some(9), None]
        );
    }
}
