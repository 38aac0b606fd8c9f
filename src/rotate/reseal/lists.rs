//! Lists of tokens: `text[]`, as `schema ddl` makes them.

use serde_json::json;
use veilstream_engine::seal::SealError;

use super::super::cells::{Places, elements};
use super::super::counts::Tally;
use super::super::keys::PageKeys;
use super::{Outcome, Resealer};
use crate::rows::Row;

impl Resealer {
    /// The elements of a list, each as if it stood alone in the row.
    pub(super) fn list(
        &mut self,
        at: usize,
        row: &Row,
        keys: &PageKeys,
        tallies: &mut [Tally],
        outcome: &mut Outcome,
    ) -> Result<(), SealError> {
        let Places { field, token, index, previous, .. } = self.cells.places[at];
        let Some(cell) = row.cells[token].as_deref() else {
            tallies[at].counts.nulls += 1;
            return Ok(());
        };
        // A list of lists is none that `schema ddl` makes.
        let Some(tokens) = elements(cell) else {
            *tallies[at].counts.failed.entry("malformed").or_default() += 1;
            outcome.failed.push((at, "malformed"));
            return Ok(());
        };
        let beside = |cell: usize| {
            let list = row.cells[cell].as_deref().and_then(elements);
            let mut list = list.unwrap_or_default();
            list.resize(tokens.len(), None);
            (cell, list)
        };
        let count = tokens.len();
        let mut lists: Vec<(usize, Vec<Option<String>>)> =
            index.into_iter().chain(previous).map(beside).collect();
        lists.insert(0, (token, tokens));
        let mut element = row.clone();
        let mut is_changed = false;
        for n in 0..count {
            for (cell, list) in &lists {
                element.cells[*cell] = list[n].clone().map(String::into_bytes);
            }
            let is_this = |places: &Places| places.field == field;
            let one = self.fields(&element, keys, tallies, is_this)?;
            if let Some(cells) = one.cells {
                for (cell, list) in &mut lists {
                    list[n].clone_from(&cells[*cell]);
                }
                is_changed = true;
            }
            outcome.resealed.extend(one.resealed);
            outcome.trusted += one.trusted;
            outcome.failed.extend(one.failed);
        }
        if is_changed {
            let cells = self.cells_of(row, &mut outcome.cells);
            for (cell, list) in lists {
                cells[cell] = Some(json!(list).to_string());
            }
        }
        Ok(())
    }
}
