//! Packets of a message (RFC 4880, section 4).

use std::borrow::Cow;

/// A session key that a passphrase gives or wraps (SKESK).
pub(super) const SESSION_KEY: u8 = 3;
/// Compressed packets.
pub(super) const COMPRESSED: u8 = 8;
/// Sealed without a code.
pub(super) const SEALED: u8 = 9;
/// A text.
pub(super) const LITERAL: u8 = 11;
/// Sealed with a code (SEIPD).
pub(super) const SEALED_WITH_CODE: u8 = 18;
/// Head of the packet with the modification detection code; the code is part of what it hashes.
pub(super) const MDC_HEAD: [u8; 2] = [0xd3, 0x14];

/// One packet.
pub(super) struct Packet<'a> {
    pub(super) tag: u8,
    pub(super) body: Cow<'a, [u8]>,
}

/// Takes the first packet off; `None`: there is no whole one.
pub(super) fn next<'a>(bytes: &mut &'a [u8]) -> Option<Packet<'a>> {
    let head = take(bytes, 1)?[0];
    match head {
        0xc0.. => Some(Packet { tag: head & 0x3f, body: body(bytes)? }),
        0x80.. => {
            let tag = head >> 2 & 0x0f;
            let length = match head & 3 {
                0 => number(take(bytes, 1)?),
                1 => number(take(bytes, 2)?),
                2 => number(take(bytes, 4)?),
                // Of what was compressed: all there is.
                _ => bytes.len(),
            };
            Some(Packet { tag, body: take(bytes, length)?.into() })
        }
        _ => None,
    }
}

/// A body of the new format, in one part or many.
fn body<'a>(bytes: &mut &'a [u8]) -> Option<Cow<'a, [u8]>> {
    let (length, is_last) = length(bytes)?;
    let first = take(bytes, length)?;
    if is_last {
        return Some(first.into());
    }
    let mut whole = first.to_vec();
    loop {
        let (length, is_last) = self::length(bytes)?;
        whole.extend_from_slice(take(bytes, length)?);
        if is_last {
            return Some(whole.into());
        }
    }
}

/// A length, and whether it is that of the last part.
fn length(bytes: &mut &[u8]) -> Option<(usize, bool)> {
    let first = take(bytes, 1)?[0];
    Some(match first {
        ..=191 => (usize::from(first), true),
        192..=223 => {
            ((usize::from(first) - 192) * 256 + usize::from(take(bytes, 1)?[0]) + 192, true)
        }
        224..=254 => (1 << (first & 0x1f), false),
        255 => (number(take(bytes, 4)?), true),
    })
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Takes so many bytes off.
pub(super) fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// Writes the head of a packet of the new format, in the shortest of its lengths but that of two
/// bytes.
pub(super) fn write_head(tag: u8, length: usize, out: &mut Vec<u8>) {
    out.push(0xc0 | tag);
    match u8::try_from(length) {
        Ok(short @ ..=191) => out.push(short),
        _ => {
            out.push(255);
            // Texts are at most 15 MiB.
            out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
}
