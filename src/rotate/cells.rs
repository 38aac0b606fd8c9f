//! Where the columns of a rotation stand in a row.

use super::columns::{Columns, Part};

/// Where the cells of a field stand in a row.
pub(super) struct Places {
    pub(super) field: usize,
    pub(super) token: usize,
    pub(super) index: Option<usize>,
    pub(super) previous: Option<usize>,
    pub(super) is_list: bool,
    pub(super) bind: Vec<(String, usize)>,
    pub(super) parts: Vec<PartPlace>,
}

pub(super) enum PartPlace {
    Field(usize),
    Cell(usize),
}

/// Which columns are read and written, in the order of a row's cells.
pub(super) struct Cells {
    pub(super) places: Vec<Places>,
    pub(super) subject: Option<usize>,
    /// What is read; what is written comes first.
    pub(super) read: Vec<String>,
    /// How many of them are written.
    pub(super) written: usize,
    /// Columns of tokens.
    pub(super) tokens: Vec<String>,
}

impl Cells {
    pub(super) fn new(columns: &Columns) -> Self {
        let mut read: Vec<String> = Vec::new();
        let mut places = Vec::new();
        for field in &columns.fields {
            let mut place = |column: &String| {
                read.push(column.clone());
                read.len() - 1
            };
            places.push(Places {
                field: field.field,
                token: place(&field.token),
                index: field.index.as_ref().map(&mut place),
                previous: field.previous.as_ref().map(&mut place),
                is_list: field.is_list,
                bind: Vec::new(),
                parts: Vec::new(),
            });
        }
        let written = read.len();
        let mut other = |column: &String| {
            read.iter().skip(written).position(|known| known == column).map_or_else(
                || {
                    read.push(column.clone());
                    read.len() - 1
                },
                |at| at + written,
            )
        };
        for (place, field) in places.iter_mut().zip(&columns.fields) {
            place.bind =
                field.bind.iter().map(|(name, column)| (name.clone(), other(column))).collect();
            let part = |part: &Part| match part {
                Part::Field(at) => PartPlace::Field(*at),
                Part::Column(column) => PartPlace::Cell(other(column)),
            };
            place.parts = field.parts.iter().map(part).collect();
        }
        let subject = columns.subject.as_ref().map(other);
        let tokens = columns.fields.iter().map(|field| field.token.clone()).collect();
        Self { places, subject, read, written, tokens }
    }
}

/// The elements of a list; `None`: they are no texts.
pub(super) fn elements(cell: &[u8]) -> Option<Vec<Option<String>>> {
    serde_json::from_slice(cell).ok()
}
