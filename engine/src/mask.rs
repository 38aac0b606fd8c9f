//! The mask of a field on the way back: what those see of a value who may only mask.

/// `mask` of a field. `keep_first` and `keep_last` count characters, 0..=1024, not both 0.
///
/// Nothing is kept of a value of fewer than 8 characters, and at most half of a longer one. Where
/// both ends ask for more than that, the last characters come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadMask {
    /// Characters shown of the front.
    pub keep_first: usize,
    /// Characters shown of the end.
    pub keep_last: usize,
}

/// Of a value with fewer characters nothing is shown.
const SHORTEST: usize = 8;

impl ReadMask {
    /// Whether some value shows a character under this mask that it does not show under `other`.
    /// Also a mask that keeps less at the end may: a short value then has more left for the front.
    #[must_use]
    pub fn shows_more_than(self, other: Self) -> bool {
        let longest = (self.keep_first + self.keep_last) * 2 + SHORTEST;
        (SHORTEST..=longest).any(|length| {
            let ((first, last), (other_first, other_last)) =
                (self.shown(length), other.shown(length));
            first > other_first || last > other_last
        })
    }

    /// How many characters of `length` are shown of the front and of the end.
    fn shown(self, length: usize) -> (usize, usize) {
        let most = if length < SHORTEST { 0 } else { length / 2 };
        let last = self.keep_last.min(most);
        (self.keep_first.min(most - last), last)
    }
}
