//! Partitions one of which made a transaction fail. Their records stand alone in a transaction, and
//! in ever smaller ones, until the culprit is found.
//!
//! A partition that was refused alone holds a culprit for sure: its offsets are bisected. Behind a
//! culprit another one is likely, so the next record stands alone; with each transaction that
//! commits without one, twice as many stand together.

use super::partition::TopicPartition;

/// Suspected places of one lane.
#[derive(Debug, Default)]
pub struct Suspects(Vec<Suspect>);

#[derive(Debug)]
struct Suspect {
    at: TopicPartition,
    /// The first offset beyond suspicion.
    until: i64,
    /// A culprit lies below this offset.
    guilty_until: Option<i64>,
    /// Most records of a transaction.
    limit: usize,
}

impl Suspects {
    /// Records of `at` below `until` stand alone, at most `limit` of them together. `is_alone`: the
    /// transaction that failed held no other partition.
    pub fn add(&mut self, at: &TopicPartition, until: i64, limit: usize, is_alone: bool) {
        let (limit, guilty_until) = (limit.max(1), is_alone.then_some(until));
        match self.0.iter_mut().find(|s| s.at == *at) {
            Some(known) => {
                known.until = known.until.max(until);
                known.limit = known.limit.min(limit);
                known.guilty_until = guilty_until.or(known.guilty_until);
            }
            None => self.0.push(Suspect { at: at.clone(), until, guilty_until, limit }),
        }
    }

    /// Whether the next record of `at` must stand alone.
    #[must_use]
    pub fn is_suspect(&self, at: &TopicPartition) -> bool {
        self.0.iter().any(|s| s.at == *at)
    }

    /// Most records of a transaction that holds records of `at`.
    #[must_use]
    pub fn limit(&self, at: &TopicPartition) -> usize {
        self.0.iter().find(|s| s.at == *at).map_or(usize::MAX, |s| s.limit)
    }

    /// `at` is committed up to `offset`. `was_culprit`: with a record that had been refused alone.
    pub fn committed(&mut self, at: &TopicPartition, offset: i64, was_culprit: bool) {
        self.0.retain(|s| s.at != *at || s.until > offset);
        let Some(suspect) = self.0.iter_mut().find(|s| s.at == *at) else { return };
        if was_culprit || suspect.guilty_until.is_some_and(|until| until <= offset) {
            suspect.guilty_until = None;
        }
        if was_culprit {
            suspect.limit = 1;
            return;
        }
        suspect.limit = suspect.limit.saturating_mul(2);
        if let Some(until) = suspect.guilty_until {
            // An estimate where offsets are missing: the next refusal halves the records.
            let half = usize::try_from((until - offset).div_euclid(2)).unwrap_or(usize::MAX).max(1);
            suspect.limit = suspect.limit.min(half);
        }
    }

    /// `at` is not this lane's any more.
    pub fn remove(&mut self, at: &TopicPartition) {
        self.0.retain(|s| s.at != *at);
    }

    /// Nobody is suspected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads 1,000 records some of which are refused: how many transactions were refused.
    fn refusals(culprits: &[i64]) -> usize {
        const ALL: i64 = 1000;
        let at = TopicPartition::new("t", 0);
        let (mut suspects, mut next, mut refused, mut condemned) =
            (Suspects::default(), 0, 0, None);
        while next < ALL {
            let n = i64::try_from(suspects.limit(&at).min(1000)).unwrap().min(ALL - next);
            let end = next + n;
            if culprits.iter().all(|c| !(next..end).contains(c) || condemned == Some(*c)) {
                suspects.committed(&at, end, n == 1 && condemned == Some(next));
                next = end;
                continue;
            }
            refused += 1;
            if n == 1 {
                condemned = Some(next);
            } else {
                suspects.add(&at, end, usize::try_from(n / 2).unwrap(), true);
            }
        }
        assert!(suspects.is_empty(), "what lies behind is beyond suspicion");
        refused
    }

    #[test]
    fn one_culprit_is_bisected() {
        for culprit in [0, 1, 499, 500, 700, 999] {
            assert!(refusals(&[culprit]) <= 11, "{culprit}: {}", refusals(&[culprit]));
        }
    }

    #[test]
    fn culprits_in_a_row_are_found_one_by_one() {
        assert!(refusals(&(300..310).collect::<Vec<_>>()) <= 20);
    }

    #[test]
    fn nobody_is_bisected_for_what_another_may_have_done() {
        let at = TopicPartition::new("t", 0);
        let mut suspects = Suspects::default();
        suspects.add(&at, 1000, 100, false);
        suspects.committed(&at, 100, false);
        assert_eq!(suspects.limit(&at), 200);
    }

    #[test]
    fn places_of_others_are_not_suspected() {
        let (a, b) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
        let mut suspects = Suspects::default();
        suspects.add(&a, 10, usize::MAX, false);
        assert!(suspects.is_suspect(&a) && !suspects.is_suspect(&b));
        assert_eq!(suspects.limit(&b), usize::MAX);
        suspects.committed(&a, 9, false);
        assert!(suspects.is_suspect(&a));
        suspects.committed(&a, 10, false);
        assert!(suspects.is_empty());
    }
}
