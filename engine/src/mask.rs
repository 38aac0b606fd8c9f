//! The mask of a field on the way back: what those see of a value who may only mask.

#[cfg(test)]
mod tests;

use icu_properties::CodePointSetData;
use icu_properties::props::{DefaultIgnorableCodePoint, WhiteSpace};
use unicode_segmentation::UnicodeSegmentation as _;

use crate::scan::{append_escaped, unescape};

/// What stands for everything that is not shown.
const HIDDEN: &[u8] = b"********";
/// Of a value with fewer characters nothing is shown.
const SHORTEST: usize = 8;

/// `mask` of a field. `keep_first` and `keep_last` count characters, 0..=1024, not both 0.
///
/// A character is an extended grapheme cluster (UAX 29). The length of a value is the number of
/// those that show: white space, control and default-ignorable code points alone do not, and are
/// left out at both ends. Nothing is kept of a value shorter than 8, and at most half of a longer
/// one, by characters and by code points. Where both ends ask for more, the last characters come
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadMask {
    /// Characters shown of the front.
    pub keep_first: usize,
    /// Characters shown of the end.
    pub keep_last: usize,
}

impl ReadMask {
    /// Whether some value shows a character under this mask that it does not show under `other`.
    /// Also a mask that keeps less at the end may: a short value then has more left for the front.
    #[must_use]
    pub fn shows_more_than(self, other: Self) -> bool {
        self.keep_first > other.keep_first
            || self.keep_last > other.keep_last
            || (self.keep_first > 0 && self.keep_last < other.keep_last)
    }

    /// Appends the masked string, as JSON. `false`, and nothing is appended, when the JSON text
    /// `value` is no string, or one with half a surrogate pair. `text` is scratch.
    #[must_use]
    pub fn apply(self, value: &[u8], text: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        let Some(inner) = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")) else {
            return false;
        };
        text.clear();
        let Some(text) = unescape(inner, text).then(|| std::str::from_utf8(text).ok()).flatten()
        else {
            return false;
        };
        let (first, last) = self.pieces(text);
        out.push(b'"');
        first.chars().for_each(|c| append_escaped(c, out));
        out.extend_from_slice(HIDDEN);
        last.chars().for_each(|c| append_escaped(c, out));
        out.push(b'"');
        true
    }

    /// What is shown of the front and of the end.
    fn pieces(self, text: &str) -> (&str, &str) {
        let visible = Visible::of(text);
        let (first, last) = self.shown(visible.length);
        let mut end = skip(visible.text, visible.characters - last);
        let (mut left, mut points) = (visible.points / 2, end.chars().count());
        // One character may have many code points: a letter with all its accents.
        for character in end.graphemes(true) {
            if points <= left {
                break;
            }
            points -= character.chars().count();
            end = &end[character.len()..];
        }
        left -= points;
        let fits = visible.text.graphemes(true).take(first).take_while(|character| {
            let points = character.chars().count();
            let fits = points <= left;
            left = left.saturating_sub(points);
            fits
        });
        (&visible.text[..fits.map(str::len).sum()], end)
    }

    /// How many characters of `length` are shown of the front and of the end.
    fn shown(self, length: usize) -> (usize, usize) {
        let most = if length < SHORTEST { 0 } else { length / 2 };
        let last = self.keep_last.min(most);
        (self.keep_first.min(most - last), last)
    }
}

/// A text between its first and its last character that shows.
struct Visible<'t> {
    text: &'t str,
    /// Its characters, of any kind.
    characters: usize,
    /// Those that show.
    length: usize,
    /// Code points that show.
    points: usize,
}

impl<'t> Visible<'t> {
    fn of(text: &'t str) -> Self {
        let ignorable = CodePointSetData::new::<DefaultIgnorableCodePoint>();
        let space = CodePointSetData::new::<WhiteSpace>();
        let shows = |c: &char| !(c.is_control() || space.contains(*c) || ignorable.contains(*c));
        let mut found = Self { text: "", characters: 0, length: 0, points: 0 };
        let (mut start, mut characters) = (None, 0);
        for (at, character) in text.grapheme_indices(true) {
            let points = character.chars().filter(shows).count();
            if points > 0 {
                let start = *start.get_or_insert(at);
                found.text = &text[start..at + character.len()];
                found.length += 1;
                found.points += points;
            }
            characters += usize::from(start.is_some());
            if points > 0 {
                found.characters = characters;
            }
        }
        found
    }
}

/// The text without its first characters. From the front: where a flag begins is told by all the
/// flags before it.
fn skip(text: &str, characters: usize) -> &str {
    let at = text.grapheme_indices(true).nth(characters).map_or(text.len(), |(at, _)| at);
    &text[at..]
}
