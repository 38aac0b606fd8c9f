//! Where strings end: the quotes, backslashes and control characters of a document.

use wide::u8x16;

/// Bytes that are looked at together.
const BLOCK: usize = 64;

/// Which bytes of one block are a quote, a backslash or a control character.
///
/// Blocks are looked at as they come, not from the front of each string on. So the processor works
/// on the next one before it knows where the last string ended.
pub(super) struct Specials {
    /// Offset of the block, a multiple of its length.
    base: usize,
    /// Bit n is of byte `base + n`. What lies beyond the document counts as a control character.
    bits: u64,
}

impl Specials {
    /// Those of the first block.
    pub(super) fn new(doc: &[u8]) -> Self {
        Self::at(doc, 0)
    }

    fn at(doc: &[u8], base: usize) -> Self {
        let bits = match doc.get(base..).and_then(<[u8]>::first_chunk) {
            Some(block) => specials(block),
            None => last_specials(doc.get(base..).unwrap_or_default()),
        };
        Self { base, bits }
    }

    /// The first one from `at` on, or the end of the document. `at` is at most the document's
    /// length.
    #[inline(always)]
    pub(super) fn next(&mut self, doc: &[u8], at: usize) -> usize {
        if at - at % BLOCK != self.base {
            *self = Self::at(doc, at - at % BLOCK);
        }
        let ahead = self.bits >> (at % BLOCK);
        if ahead != 0 { at + ahead.trailing_zeros() as usize } else { self.first_behind(doc) }
    }

    /// The first one behind this block.
    #[inline(always)]
    fn first_behind(&mut self, doc: &[u8]) -> usize {
        loop {
            *self = Self::at(doc, self.base + BLOCK);
            if self.bits != 0 {
                return self.base + self.bits.trailing_zeros() as usize;
            }
        }
    }
}

/// A document's last bytes, fewer than a block.
#[cold]
#[inline(never)]
fn last_specials(rest: &[u8]) -> u64 {
    let mut block = [0; BLOCK];
    block[..rest.len()].copy_from_slice(rest);
    specials(&block)
}

#[inline(always)]
fn specials(block: &[u8; BLOCK]) -> u64 {
    let (parts, _) = block.as_chunks::<16>();
    parts.iter().rev().fold(0, |bits, part| bits << 16 | u64::from(of_sixteen(u8x16::new(*part))))
}

#[inline(always)]
fn of_sixteen(part: u8x16) -> u32 {
    // With its bit 1 turned, a quote is 0x20, a space 0x22 and a control character still below
    // 0x20: one comparison finds both.
    let turned = part ^ u8x16::splat(2);
    let quote_or_control = turned.min(u8x16::splat(0x20)).simd_eq(turned);
    let backslash = part.simd_eq(u8x16::splat(b'\\'));
    (quote_or_control | backslash).to_bitmask()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_from_wherever_one_looks() {
        for length in [0, 1, 15, 16, 63, 64, 65, 127, 128, 129, 200] {
            let plain: Vec<u8> =
                (0..length).map(|i| [0x80, 0xff, 0x7f, b'!', b'#', b' ', b'['][i % 7]).collect();
            for special in (0..0x20).chain([b'"', b'\\']) {
                for place in 0..length {
                    let mut doc = plain.clone();
                    doc[place] = special;
                    let mut specials = Specials::new(&doc);
                    for at in 0..=length {
                        let expected = if at <= place { place } else { length };
                        assert_eq!(specials.next(&doc, at), expected, "{special:#x} {place} {at}");
                    }
                    assert_eq!(specials.next(&doc, 0), place, "backwards");
                }
            }
            assert_eq!(Specials::new(&plain).next(&plain, 0), length);
        }
    }
}
