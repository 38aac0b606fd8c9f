//! How much work one record may cost.
//!
//! Selecting, judging filters, looking for required members and residues, mending envelopes and
//! writing index members draw on one account, so that no event and no document makes a record take
//! longer than in proportion to its size. A unit is about one step of an inner loop: a nanosecond
//! or a few.

/// What a record of any size may cost, in units.
const BASE: u64 = 1 << 26;
/// What each of its bytes adds, in units.
const PER_BYTE: u64 = 12;
/// Reveal reads what transform wrote, which may be much shorter than what transform read: it may do
/// what the largest record may.
const LARGEST: usize = 64 << 20;

/// An account of work.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Budget {
    spent: u64,
    limit: u64,
}

impl Budget {
    /// For a record of that many bytes.
    pub(crate) fn of_record(bytes: usize) -> Self {
        Self { spent: 0, limit: BASE + PER_BYTE * bytes as u64 }
    }

    /// For a record that was protected, and whose input's length nobody knows any more.
    pub(crate) fn of_protected(bytes: usize) -> Self {
        Self::of_record(bytes.max(LARGEST))
    }

    /// Spends units; `false`: more than there were, now or before.
    #[inline(always)]
    pub(crate) fn charge(&mut self, units: u64) -> bool {
        self.spent = self.spent.saturating_add(units);
        !self.is_overdrawn()
    }

    /// Whether more was spent than there was.
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.spent > self.limit
    }
}
