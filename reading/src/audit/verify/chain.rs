//! One chain, line by line.

use std::collections::{BTreeMap, HashMap};

use super::{Copies, CopyHash, Keys, Wrong};
use crate::audit::chain::LineKey;
use crate::audit::checkpoint::Covered;
use crate::audit::hex::Hex;
use crate::audit::line::{Event, LedgerHead, Line, mac_place, without_mac};
use crate::audit::merkle::{self, Node};

/// The newest head of each store's ledger.
pub(super) type Heads = HashMap<Hex<16>, (u64, Hex<32>)>;

/// Follows a chain.
#[cfg_attr(test, derive(Clone))]
pub(super) struct ChainVerifier<'a> {
    pub(super) chain: Hex<16>,
    keys: &'a Keys,
    copies: Option<&'a BTreeMap<u64, CopyHash>>,
    /// The checkpoint line that follows line 1 where lines were pruned.
    pruned_to: Option<u64>,
    /// The number of the next line.
    next: u64,
    prev: [u8; 32],
    /// Of the next line; `None`: before line 1, or without a private key.
    key: Option<LineKey>,
    /// The first line that no checkpoint covers, and the leaves from there.
    from: u64,
    leaves: Vec<Node>,
    pub(super) heads: Heads,
    /// The last line that a copy proved.
    copied: u64,
    /// Lines were left out behind line 1.
    was_pruned: bool,
}

impl<'a> ChainVerifier<'a> {
    pub(super) fn new(
        chain: Hex<16>,
        keys: &'a Keys,
        copies: &'a Copies,
        pruned_to: Option<u64>,
        heads: Heads,
    ) -> Self {
        Self {
            chain,
            keys,
            copies: copies.of(chain),
            pruned_to,
            next: 1,
            prev: [0; 32],
            key: None,
            from: 1,
            leaves: Vec::new(),
            heads,
            copied: 0,
            was_pruned: false,
        }
    }

    /// Takes the next line. Of it hold, in this order: form, `chain`, `seq`, `prev`, `mac`,
    /// `ledger`; of a checkpoint `from`, `root`, `signer`, `signature`; and a copy of it is it.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<Line, Wrong> {
        let line = Line::read(bytes).map_err(|_| Wrong::Form)?;
        if line.chain != self.chain {
            return Err(Wrong::Chain);
        }
        let is_behind_gap = self.is_behind_gap(&line);
        if is_behind_gap {
            self.skip_to(&line);
        }
        if line.seq != self.next {
            return Err(Wrong::Seq);
        }
        if line.prev.0 != self.prev {
            return Err(Wrong::Prev);
        }
        self.check_mac(&line, bytes)?;
        line.entry.ledger.as_ref().map_or(Ok(()), |head| self.check_ledger(head))?;
        if let Some(covered) = Covered::of(&line) {
            self.check_checkpoint(&line, &covered, is_behind_gap)?;
            (self.from, self.leaves) = (line.seq, Vec::new());
        }
        if let Some(copy) = self.copies.and_then(|copies| copies.get(&line.seq)) {
            if *copy != Some(Line::hash(bytes)) {
                return Err(Wrong::Copy);
            }
            self.copied = line.seq;
        }
        self.leaves.push(merkle::leaf(bytes));
        (self.next, self.prev) = (line.seq + 1, Line::hash(bytes));
        Ok(line)
    }

    /// The number of the last line that was taken.
    pub(super) fn last(&self) -> u64 {
        self.next - 1
    }

    /// SHA-256 of it.
    pub(super) fn hash(&self) -> Hex<32> {
        Hex(self.prev)
    }

    /// Up to here everything is proved.
    pub(super) fn known_to(&self) -> u64 {
        if self.key.is_some() { self.last() } else { self.copied }
    }

    /// The line before which lines were left out.
    pub(super) fn pruned_to(&self) -> Option<u64> {
        self.pruned_to.filter(|_| self.was_pruned)
    }

    /// Whether lines are missing that a second place has.
    pub(super) fn is_short(&self) -> bool {
        self.copies
            .and_then(|copies| copies.last_key_value())
            .is_some_and(|(seq, _)| *seq >= self.next)
    }

    /// Whether this is the checkpoint that pruning kept.
    fn is_behind_gap(&self, line: &Line) -> bool {
        self.next == 2
            && line.seq > 2
            && self.pruned_to == Some(line.seq)
            && line.entry.event == Event::Checkpoint
    }

    /// Takes the kept checkpoint at its word for what it covers: its own MAC and signature hold it.
    fn skip_to(&mut self, line: &Line) {
        while self.next < line.seq {
            self.next += 1;
            if let Some(key) = &mut self.key {
                key.advance();
            }
        }
        self.prev = line.prev.0;
        self.was_pruned = true;
    }

    fn check_mac(&mut self, line: &Line, bytes: &[u8]) -> Result<(), Wrong> {
        if let Some(sealed) = &line.k1
            && !self.keys.verifier.is_empty()
        {
            let open = |key: &crate::audit::VerifierKey| key.open(self.chain.0, sealed);
            let k1 = self.keys.verifier.iter().find_map(open).ok_or(Wrong::Recipient)?;
            self.key = Some(LineKey::new(k1));
        }
        if let Some(key) = &mut self.key {
            let digits = mac_place(bytes).ok_or(Wrong::Form)?;
            if !key.holds(without_mac(bytes, digits), &line.mac) {
                return Err(Wrong::Mac);
            }
            key.advance();
        }
        Ok(())
    }

    fn check_ledger(&mut self, head: &LedgerHead) -> Result<(), Wrong> {
        let known = self.heads.entry(head.store).or_insert((head.seq, head.sha256));
        if head.seq < known.0 || (head.seq == known.0 && head.sha256 != known.1) {
            return Err(Wrong::Ledger);
        }
        *known = (head.seq, head.sha256);
        Ok(())
    }

    fn check_checkpoint(
        &self,
        line: &Line,
        covered: &Covered,
        is_behind_gap: bool,
    ) -> Result<(), Wrong> {
        if !is_behind_gap {
            if covered.from != self.from {
                return Err(Wrong::From);
            }
            if covered.root != merkle::root(&self.leaves) {
                return Err(Wrong::Root);
            }
        }
        if line.signer != Some(Hex(self.keys.checkpoint.id())) {
            return Err(Wrong::Signer);
        }
        match &line.signature {
            Some(signature) if self.keys.checkpoint.holds(covered, signature) => Ok(()),
            _ => Err(Wrong::Signature),
        }
    }
}

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
