//! Partitions one of which made a transaction fail. Their records stand alone in a transaction, and in ever smaller ones, until the culprit is found.

use super::partition::TopicPartition;

/// Suspected places of one lane.
#[derive(Debug, Default)]
pub struct Suspects(Vec<Suspect>);

#[derive(Debug)]
struct Suspect {
    at: TopicPartition,
    /// The first offset beyond suspicion.
    until: i64,
    /// Most records of a transaction.
    limit: usize,
}

impl Suspects {
    /// Records of `at` below `until` stand alone, at most `limit` of them together.
    pub fn add(&mut self, at: &TopicPartition, until: i64, limit: usize) {
        match self.0.iter_mut().find(|s| s.at == *at) {
            Some(known) => (known.until, known.limit) = (known.until.max(until), known.limit.min(limit.max(1))),
            None => self.0.push(Suspect { at: at.clone(), until, limit: limit.max(1) }),
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

    /// `at` is committed up to `offset`: what follows may be twice as much.
    pub fn committed(&mut self, at: &TopicPartition, offset: i64) {
        self.0.retain(|s| s.at != *at || s.until > offset);
        for suspect in self.0.iter_mut().filter(|s| s.at == *at) {
            suspect.limit = suspect.limit.saturating_mul(2);
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

    /// A refused transaction is tried in halves until one record stands alone.
    #[test]
    fn halves_until_the_culprit_stands_alone() {
        const CULPRIT: i64 = 700;
        let at = TopicPartition::new("t", 0);
        let (mut suspects, mut next, mut found) = (Suspects::default(), 0_i64, None);
        for _ in 0..30 {
            let n = i64::try_from(suspects.limit(&at).min(1000)).unwrap().min(1000 - next);
            if !(next..next + n).contains(&CULPRIT) || found.is_some() {
                next += n;
                suspects.committed(&at, next);
            } else if n == 1 {
                found = Some(next);
            } else {
                suspects.add(&at, next + n, usize::try_from(n / 2).unwrap());
            }
            if next == 1000 {
                break;
            }
        }
        assert_eq!((found, next), (Some(CULPRIT), 1000));
        assert!(suspects.is_empty(), "the places behind the culprit are beyond suspicion");
    }

    #[test]
    fn places_of_others_are_not_suspected() {
        let (a, b) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
        let mut suspects = Suspects::default();
        suspects.add(&a, 10, usize::MAX);
        assert!(suspects.is_suspect(&a) && !suspects.is_suspect(&b));
        assert_eq!(suspects.limit(&b), usize::MAX);
        suspects.committed(&a, 9);
        assert!(suspects.is_suspect(&a));
        suspects.committed(&a, 10);
        assert!(suspects.is_empty());
    }
}
