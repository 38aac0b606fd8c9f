//! Which columns of a table are read, written and compared, as statements.

use postgres::types::ToSql;

use super::catalogue::{Table, quoted};
use super::connection::Connection;
use super::error::RowsError;

/// How a row is found unchanged when it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// By what stood in some of the columns that are read: what others write elsewhere in the row
    /// does not count.
    Cells,
    /// By the version of the row: no value leaves for the server.
    Version,
}

/// The columns that work on a table takes.
#[derive(Debug, Clone)]
pub struct Layout {
    table: Table,
    /// Names of columns, and how each is selected.
    read: Vec<(String, Reading)>,
    /// Names of columns, and whether each is a list.
    write: Vec<(String, bool)>,
    /// Columns of rows that are written become null.
    cleared: Vec<String>,
    /// Indexes in `read`; with [`Compare::Version`] none.
    compared: Vec<usize>,
    compare: Compare,
}

/// How a column comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    Text,
    /// A list of texts, as JSON.
    List,
    Bytes,
    /// Anything else, in the server's text form.
    Cast,
}

/// A row: its key, and the cells that were asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// The key's columns, as text.
    pub key: Vec<String>,
    /// The columns that are read: text in UTF-8, a list of texts as JSON, `bytea` as its bytes, all
    /// else in the server's text form. `None`: null.
    pub cells: Vec<Option<Vec<u8>>>,
    /// With [`Compare::Version`].
    pub(super) version: Option<String>,
}

impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Layout {
    /// Reads `read` and writes `write`. `compared`: which of `read` must be unchanged when a row is
    /// written; not looked at with [`Compare::Version`].
    ///
    /// # Errors
    /// A column is not there, or takes no text.
    pub fn new(
        table: Table,
        read: &[&str],
        write: &[&str],
        compare: Compare,
        compared: &[&str],
    ) -> Result<Self, RowsError> {
        let reading = |name: &&str| {
            let facts = table.column(name)?;
            let reading = match &*facts.column_type {
                _ if facts.is_text() => Reading::Text,
                _ if facts.is_list() => Reading::List,
                "bytea" => Reading::Bytes,
                _ => Reading::Cast,
            };
            Ok(((*name).to_owned(), reading))
        };
        let read = read.iter().map(reading).collect::<Result<Vec<_>, RowsError>>()?;
        let written = |name: &&str| {
            table.check_written(name).map(|facts| ((*name).to_owned(), facts.is_list()))
        };
        let write = write.iter().map(written).collect::<Result<_, RowsError>>()?;
        let compared = match compare {
            Compare::Version => Vec::new(),
            Compare::Cells => read
                .iter()
                .enumerate()
                .filter(|(_, (name, reading))| {
                    let is_written = matches!(reading, Reading::Text | Reading::List);
                    compared.contains(&&**name) && is_written
                })
                .map(|(index, _)| index)
                .collect(),
        };
        Ok(Self { table, read, write, cleared: Vec::new(), compared, compare })
    }

    /// The same; and a column of any type becomes null in each row that is written.
    ///
    /// # Errors
    /// The column is not there, or the server computes it.
    pub fn clearing(mut self, column: &str) -> Result<Self, RowsError> {
        if self.table.column(column)?.is_generated {
            let (table, column) = (self.table.shown.clone(), column.to_owned());
            return Err(RowsError::Generated { table, column });
        }
        self.cleared.push(column.to_owned());
        Ok(self)
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// How a row is named in messages: `id=42`.
    #[must_use]
    pub fn name_of(&self, row: &Row) -> String {
        let pairs = self.table.key.iter().zip(&row.key);
        pairs.map(|((column, _), value)| format!("{column}={value}")).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn writes(&self) -> usize {
        self.write.len()
    }

    pub(super) fn compared(&self) -> &[usize] {
        &self.compared
    }

    /// A page of rows behind those of a key; `is_first`: from the start.
    pub(super) fn select(&self, is_first: bool, batch: usize) -> String {
        // With the table's name: without it ORDER BY takes the text that is selected.
        let key: Vec<String> =
            self.table.key.iter().map(|(name, _)| format!("t.{}", quoted(name))).collect();
        let mut selected: Vec<String> = key.iter().map(|name| format!("{name}::text")).collect();
        if self.compare == Compare::Version {
            selected.push("xmin::text".to_owned());
        }
        selected.extend(self.read.iter().map(|(name, reading)| match reading {
            Reading::Text | Reading::Bytes => quoted(name),
            Reading::List => list_as_json(&quoted(name)),
            Reading::Cast => format!("{}::text", quoted(name)),
        }));
        let (columns, order) = (selected.join(", "), key.join(", "));
        let behind = if is_first {
            String::new()
        } else {
            let last: Vec<String> = (1..)
                .zip(&self.table.key)
                .map(|(number, (_, of_type))| format!("${number}::text::{of_type}"))
                .collect();
            format!(" WHERE ({order}) > ({})", last.join(", "))
        };
        let table = &self.table.sql;
        format!("SELECT {columns} FROM {table} AS t{behind} ORDER BY {order} LIMIT {batch}")
    }

    /// Writes a batch of rows that are as they were read. Parameters: an array each of the key's
    /// columns, of what is written, and of what is compared.
    pub(super) fn update(&self) -> String {
        let keys = self.table.key.len();
        let compared = if self.compare == Compare::Version { 1 } else { self.compared.len() };
        let arrays: Vec<String> =
            (1..=keys + self.write.len() + compared).map(|n| format!("${n}::text[]")).collect();
        let names: Vec<String> = (0..keys)
            .map(|n| format!("k{n}"))
            .chain((0..self.write.len()).map(|n| format!("n{n}")))
            .chain((0..compared).map(|n| format!("o{n}")))
            .collect();
        let cleared = self.cleared.iter().map(|name| format!("{} = NULL", quoted(name)));
        let set: Vec<String> = (0..)
            .zip(&self.write)
            .map(|(n, (name, is_list))| {
                let name = quoted(name);
                let value = if *is_list {
                    list_of_json(&name, &format!("v.n{n}"))
                } else {
                    format!("v.n{n}")
                };
                format!("{name} = {value}")
            })
            .chain(cleared)
            .collect();
        let mut found: Vec<String> = (0..)
            .zip(&self.table.key)
            .map(|(n, (name, of_type))| format!("t.{} = v.k{n}::{of_type}", quoted(name)))
            .collect();
        if self.compare == Compare::Version {
            found.push("t.xmin = v.o0::xid".to_owned());
        }
        found.extend((0..).zip(&self.compared).map(|(n, index)| {
            let (name, reading) = &self.read[*index];
            let mut stands = format!("t.{}", quoted(name));
            if *reading == Reading::List {
                stands = list_as_json(&stands);
            }
            format!("{stands} IS NOT DISTINCT FROM v.o{n}")
        }));
        format!(
            "UPDATE {} AS t SET {} FROM unnest({}) AS v({}) WHERE {}",
            self.table.sql,
            set.join(", "),
            arrays.join(", "),
            names.join(", "),
            found.join(" AND ")
        )
    }

    /// The rows behind those of `last`.
    pub(super) fn page(
        &self,
        connection: &mut Connection,
        statement: &postgres::Statement,
        last: &[String],
    ) -> Result<Vec<Row>, RowsError> {
        let parameters: Vec<&(dyn ToSql + Sync)> =
            last.iter().map(|text| text as &(dyn ToSql + Sync)).collect();
        let rows = connection.client().query(statement, &parameters);
        let rows = rows.map_err(|error| connection.refused(&error))?;
        let read = rows.iter().map(|row| self.row(row)).collect::<Result<Vec<_>, _>>();
        read.map_err(|error| connection.refused(&error))
    }

    fn row(&self, row: &postgres::Row) -> Result<Row, postgres::Error> {
        let keys = self.table.key.len();
        let key = (0..keys).map(|n| row.try_get(n)).collect::<Result<_, _>>()?;
        let has_version = self.compare == Compare::Version;
        let version = if has_version { Some(row.try_get(keys)?) } else { None };
        let first = keys + usize::from(has_version);
        let cell = |(n, (_, reading)): (usize, &(String, Reading))| match reading {
            Reading::Bytes => row.try_get::<_, Option<Vec<u8>>>(n),
            Reading::Text | Reading::List | Reading::Cast => {
                Ok(row.try_get::<_, Option<String>>(n)?.map(String::into_bytes))
            }
        };
        let cells = (first..).zip(&self.read).map(cell).collect::<Result<_, _>>()?;
        Ok(Row { key, cells, version })
    }
}

/// A list of texts, as it is read.
fn list_as_json(column: &str) -> String {
    format!("array_to_json({column})::text")
}

/// The list that is written. One that is as it was read stays, whatever its shape.
fn list_of_json(column: &str, json: &str) -> String {
    format!(
        "CASE WHEN {} IS NOT DISTINCT FROM {json} THEN t.{column} ELSE ARRAY(SELECT e.text FROM
            json_array_elements_text({json}::json) WITH ORDINALITY AS e(text, place)
            ORDER BY e.place) END",
        list_as_json(&format!("t.{column}"))
    )
}
