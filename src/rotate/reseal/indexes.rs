//! Blind indexes beside tokens: which are stale, and what takes their place.

use std::sync::Arc;

use veilstream_engine::Keyring;
use veilstream_engine::key::{Key, KeyKind, KeyState};
use veilstream_engine::normalize::Input;
use veilstream_engine::seal::PayloadKind;

use super::super::cells::PartPlace;
use super::super::counts::{Tally, root_version};
use super::{Found, Resealer};
use crate::rows::Row;

impl Resealer {
    /// Counts the index of a cell; whether it is not as the newest roots have it.
    pub(super) fn count_index(&self, at: usize, row: &Row, tally: &mut Tally) -> bool {
        let places = &self.cells.places[at];
        let (Some(index), [Some(_), before]) = (places.index, &self.indexers[at]) else {
            return false;
        };
        let version = row.cells[index].as_deref().and_then(root_version);
        match version {
            Some(version) => *tally.counts.indexes.entry(version).or_default() += 1,
            None => tally.counts.without_index += 1,
        }
        let misses_previous = before.is_some()
            && places.previous.is_some_and(|previous| {
                row.cells[previous].as_deref().and_then(root_version).is_none()
            });
        version != self.newest_root || misses_previous
    }

    /// A compound index takes the values of other tokens.
    pub(super) fn open_parts(&self, found: &mut [Option<Found<'_>>]) {
        for (at, places) in self.cells.places.iter().enumerate() {
            if !found[at].as_ref().is_some_and(|found| found.open) {
                continue;
            }
            for part in &places.parts {
                if let PartPlace::Field(part) = part
                    && let Some(found) = &mut found[*part]
                {
                    found.open = true;
                }
            }
        }
    }

    /// Writes the indexes of an opened value.
    pub(super) fn index(
        &mut self,
        at: usize,
        row: &Row,
        opened: &[Option<PayloadKind>],
        cells: &mut Option<Vec<Option<String>>>,
    ) {
        let places = &self.cells.places[at];
        let Some(rule) = &self.schema.fields[places.field].index else { return };
        let missing = |part: &PartPlace| match part {
            // It is there and does not open: its index may be right.
            PartPlace::Field(part) => {
                opened[*part].is_none() && row.cells[self.cells.places[*part].token].is_some()
            }
            PartPlace::Cell(_) => false,
        };
        if places.parts.iter().any(missing) {
            return;
        }
        for (indexer, cell) in self.indexers[at].iter().zip([places.index, places.previous]) {
            let (Some(indexer), Some(cell)) = (indexer, cell) else { continue };
            let mut parts: Vec<Vec<u8>> = Vec::new();
            let values: Vec<Option<Input<'_>>> = if places.parts.is_empty() {
                vec![Some(Input::Json(&self.payloads[at]))]
            } else {
                let value = |part: &PartPlace| match part {
                    PartPlace::Field(part) => {
                        opened[*part].map(|_| Input::Json(&self.payloads[*part]))
                    }
                    PartPlace::Cell(cell) => row.cells[*cell].as_deref().map(Input::Raw),
                };
                places.parts.iter().map(value).collect()
            };
            let has = values.into_iter().all(|value| {
                let has = value.is_some_and(|value| {
                    rule.normalize.normalize(value, &mut self.scratch, &mut self.normal)
                });
                parts.push(self.normal.clone());
                has
            });
            let mut text = Vec::new();
            if has {
                indexer.write(parts.iter().map(Vec::as_slice), &mut text);
            }
            let text = has.then(|| String::from_utf8_lossy(&text).into_owned());
            if text.as_deref().map(str::as_bytes) != row.cells[cell].as_deref() {
                self.cells_of(row, cells)[cell] = text;
            }
        }
    }
}

/// Active index roots, the newest first.
pub(super) fn index_roots(keyring: &Keyring) -> Vec<&Arc<Key>> {
    let mut roots: Vec<&Arc<Key>> =
        keyring.of_kind(KeyKind::Index).filter(|root| root.state == KeyState::Active).collect();
    roots.sort_by_key(|root| std::cmp::Reverse(root.version));
    roots
}
