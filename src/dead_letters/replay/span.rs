//! Which letters a replay looks at, by partition.

use std::collections::{BTreeMap, BTreeSet};

use crate::dead_letters::error::DeadLetterError;
use crate::dead_letters::read::LetterPlace;
use crate::kafka::reader::OffsetRange;

/// What the operator chose. Empty: everything since the last replay.
#[derive(Debug, Default, Clone)]
pub struct Selection {
    /// These letters and no others, wherever the last replay ended; where the next one starts stays
    /// as it is.
    pub only: BTreeSet<LetterPlace>,
    /// Offsets to start at, by partition, instead of where the last replay ended.
    pub from: BTreeMap<i32, i64>,
    /// Letters to leave where they are.
    pub skip: BTreeSet<LetterPlace>,
}

impl Selection {
    /// Whether the letter at a place is to be replayed.
    pub(super) fn takes(&self, place: LetterPlace) -> bool {
        (self.only.is_empty() || self.only.contains(&place)) && !self.skip.contains(&place)
    }
}

/// A partition and what of it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) partition: i32,
    /// The first offset.
    pub(super) start: i64,
    /// The offset after the last.
    pub(super) end: i64,
    /// Retention took letters between where the last replay ended and `start`.
    pub(super) expired_from: Option<i64>,
}

/// What to read. `committed`: where the last replay ended, by partition.
pub(super) fn spans(
    ranges: &[OffsetRange],
    committed: &BTreeMap<i32, i64>,
    selection: &Selection,
) -> Result<Vec<Span>, DeadLetterError> {
    if let Some(unknown) = selection
        .from
        .keys()
        .find(|partition| !ranges.iter().any(|range| range.partition == **partition))
    {
        return Err(DeadLetterError::NoPartition(*unknown));
    }
    let mut spans = Vec::new();
    for range in ranges {
        let span = if selection.only.is_empty() {
            since(*range, committed, selection)?
        } else {
            around(*range, selection)
        };
        spans.extend(Some(span).filter(|span| span.start < span.end));
    }
    Ok(spans)
}

/// From where the last replay ended, or the operator says, to the end.
fn since(
    range: OffsetRange,
    committed: &BTreeMap<i32, i64>,
    selection: &Selection,
) -> Result<Span, DeadLetterError> {
    let OffsetRange { partition, low, high } = range;
    let committed = committed.get(&partition).copied();
    let (start, expired_from) = match selection.from.get(&partition) {
        Some(from) => ((*from).max(low), None),
        None => range.resumed(committed).ok_or(DeadLetterError::Behind {
            partition,
            end: high,
            committed: committed.unwrap_or_default(),
        })?,
    };
    Ok(Span { partition, start, end: high, expired_from })
}

/// From the first to the last letter of the partition that was named.
fn around(OffsetRange { partition, low, high }: OffsetRange, selection: &Selection) -> Span {
    let named = || {
        selection
            .only
            .iter()
            .filter(|place| place.partition == partition && (low..high).contains(&place.offset))
            .map(|place| place.offset)
    };
    match (named().min(), named().max()) {
        (Some(first), Some(last)) => {
            Span { partition, start: first, end: last + 1, expired_from: None }
        }
        _ => Span { partition, start: high, end: high, expired_from: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGES: [OffsetRange; 3] = [
        OffsetRange { partition: 0, low: 10, high: 20 },
        OffsetRange { partition: 1, low: 0, high: 5 },
        OffsetRange { partition: 2, low: 7, high: 7 },
    ];

    fn spans_of(committed: &[(i32, i64)], selection: &Selection) -> Vec<(i32, i64, i64)> {
        let spans = spans(&RANGES, &committed.iter().copied().collect(), selection).unwrap();
        spans.iter().map(|s| (s.partition, s.start, s.end)).collect()
    }

    fn place(partition: i32, offset: i64) -> LetterPlace {
        LetterPlace { partition, offset }
    }

    #[test]
    fn everything_since_the_last_replay() {
        let all = Selection::default();
        assert_eq!(spans_of(&[], &all), [(0, 10, 20), (1, 0, 5)]);
        assert_eq!(spans_of(&[(0, 15), (1, 5)], &all), [(0, 15, 20)]);
        let expired = spans(&RANGES, &BTreeMap::from([(0, 3)]), &all).unwrap()[0];
        assert_eq!(
            (expired.start, expired.expired_from),
            (10, Some(3)),
            "what retention took is told"
        );
    }

    #[test]
    fn a_topic_that_ends_before_the_last_replay_is_not_passed_over() {
        let committed = BTreeMap::from([(1, 9)]);
        assert!(matches!(
            spans(&RANGES, &committed, &Selection::default()),
            Err(DeadLetterError::Behind { partition: 1, end: 5, committed: 9 })
        ));
        let from = Selection { from: BTreeMap::from([(1, 0)]), ..Selection::default() };
        assert_eq!(spans_of(&[(1, 9)], &from), [(0, 10, 20), (1, 0, 5)]);
    }

    #[test]
    fn the_operator_chooses() {
        let from = Selection {
            from: BTreeMap::from([(0, 12)]),
            skip: [place(0, 13)].into(),
            ..Selection::default()
        };
        assert_eq!(
            spans_of(&[(0, 18), (1, 2)], &from),
            [(0, 12, 20), (1, 2, 5)],
            "the others go on where they were"
        );
        assert!(from.takes(place(0, 12)) && !from.takes(place(0, 13)));
        assert!(matches!(
            spans(
                &RANGES,
                &BTreeMap::new(),
                &Selection { from: BTreeMap::from([(3, 0)]), ..Selection::default() }
            ),
            Err(DeadLetterError::NoPartition(3))
        ));
        let only = Selection {
            only: [place(0, 12), place(0, 17), place(2, 3)].into(),
            ..Selection::default()
        };
        assert_eq!(spans_of(&[(0, 20), (1, 9)], &only), [(0, 12, 18)]);
        assert!(only.takes(place(0, 17)) && !only.takes(place(0, 13)));
    }
}
