//! What the catalogue knows of a table. Names that nobody checked come into no statement.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::connection::Connection;
use super::error::RowsError;

const FIND: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text,
    EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1)";
const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, NULL), attgenerated <> ''
    FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
/// Unique indexes whose columns are never null: their columns in the order of the index, the
/// primary key first.
const KEYS: &str = "SELECT array_agg(a.attname::text ORDER BY k.place), i.indisprimary
    FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
    WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate
        AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnatts = i.indnkeyatts
    GROUP BY i.indexrelid, i.indisprimary HAVING bool_and(a.attnotnull)
    ORDER BY i.indisprimary DESC, i.indexrelid";
/// Of a table without partitions itself.
const ESTIMATE: &str = "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::float8
    FROM pg_partition_tree($1::oid::regclass) t JOIN pg_class c ON c.oid = t.relid AND t.isleaf";

/// Types of keys: their order is the index's, and their text comes back as the same value.
const KEY_TYPES: [&str; 6] = ["smallint", "integer", "bigint", "uuid", "text", "character varying"];

/// `table` or `schema.table`, as written in a command: exact, without quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName {
    schema: Option<String>,
    name: String,
}

/// A column, as the catalogue has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnFacts {
    /// Its type without length, in the server's words.
    pub column_type: String,
    /// The server computes it.
    pub is_generated: bool,
}

/// A table, as the catalogue has it.
#[derive(Debug, Clone)]
pub struct Table {
    /// `schema.table`, for messages and the audit.
    pub shown: String,
    /// Quoted, for statements.
    pub sql: String,
    /// The columns of the key, in the order of their index, with their types.
    pub key: Vec<(String, String)>,
    /// Rows, as the server last counted them.
    pub estimate: u64,
    columns: BTreeMap<String, ColumnFacts>,
}

impl ColumnFacts {
    /// Whether a token can stand in it.
    #[must_use]
    pub fn is_text(&self) -> bool {
        matches!(&*self.column_type, "text" | "character varying")
    }

    /// Whether a list of tokens can stand in it.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(&*self.column_type, "text[]" | "character varying[]")
    }
}

impl Table {
    /// Looks the table up. `key`: the columns that name a row, in any order; none: the primary key.
    ///
    /// # Errors
    /// It is not there, has no rows of its own, or the key is none.
    pub fn find(
        connection: &mut Connection,
        name: &TableName,
        key: &[String],
    ) -> Result<Self, RowsError> {
        let found = connection.query(FIND, &[&name.sql()])?;
        let Some(found) = found.first() else { return Err(RowsError::NoTable(name.to_string())) };
        let oid: u32 = found.get(0);
        let (schema, table, kind): (String, String, String) =
            (found.get(1), found.get(2), found.get(3));
        let shown = format!("{schema}.{table}");
        let is_parent: bool = found.get(4);
        if !(kind == "p" || kind == "r" && !is_parent) {
            return Err(RowsError::NoRows(shown));
        }
        let columns: BTreeMap<String, ColumnFacts> = connection
            .query(COLUMNS, &[&oid])?
            .iter()
            .map(|row| {
                (row.get(0), ColumnFacts { column_type: row.get(1), is_generated: row.get(2) })
            })
            .collect();
        let sql = format!("{}.{}", quoted(&schema), quoted(&table));
        let mut table = Self { shown, sql, key: Vec::new(), estimate: 0, columns };
        for column in key {
            table.column(column)?;
        }
        table.key = table.find_key(connection, oid, key)?;
        table.estimate = table.rows(connection, oid)?;
        Ok(table)
    }

    /// The column of that name.
    ///
    /// # Errors
    /// [`RowsError::NoColumn`].
    pub fn column(&self, name: &str) -> Result<&ColumnFacts, RowsError> {
        self.columns.get(name).ok_or_else(|| RowsError::NoColumn {
            table: self.shown.clone(),
            column: name.to_owned(),
            known: self.columns.keys().cloned().collect(),
        })
    }

    /// Whether it has a column of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.columns.contains_key(name)
    }

    /// Checks that texts, or lists of them, can be written to the column.
    ///
    /// # Errors
    /// [`RowsError::NoColumn`], [`RowsError::NoText`], [`RowsError::Generated`].
    pub fn check_written(&self, name: &str) -> Result<&ColumnFacts, RowsError> {
        let (facts, table, column) = (self.column(name)?, self.shown.clone(), name.to_owned());
        if facts.is_generated {
            return Err(RowsError::Generated { table, column });
        }
        if !facts.is_text() && !facts.is_list() {
            return Err(RowsError::NoText { table, column, found: facts.column_type.clone() });
        }
        Ok(facts)
    }

    /// Checks that single texts can be written to the column.
    ///
    /// # Errors
    /// [`RowsError::NoColumn`], [`RowsError::NoText`], [`RowsError::Generated`].
    pub fn check_text(&self, name: &str) -> Result<(), RowsError> {
        let facts = self.check_written(name)?;
        if facts.is_text() {
            return Ok(());
        }
        let (table, column) = (self.shown.clone(), name.to_owned());
        Err(RowsError::NoText { table, column, found: facts.column_type.clone() })
    }

    /// The key in the order of its index: pages in another one would sort the table each time.
    fn find_key(
        &self,
        connection: &mut Connection,
        oid: u32,
        wanted: &[String],
    ) -> Result<Vec<(String, String)>, RowsError> {
        let mut sorted = wanted.to_vec();
        sorted.sort_unstable();
        let fits = |columns: &[String], is_primary: bool| {
            if wanted.is_empty() {
                return is_primary;
            }
            let mut columns = columns.to_vec();
            columns.sort_unstable();
            columns == sorted
        };
        let keys = connection.query(KEYS, &[&oid])?;
        let mut keys = keys.iter().map(|row| (row.get::<_, Vec<String>>(0), row.get::<_, bool>(1)));
        let Some((columns, _)) = keys.find(|(columns, is_primary)| fits(columns, *is_primary))
        else {
            let key = if wanted.is_empty() { "nothing".to_owned() } else { wanted.join(", ") };
            return Err(RowsError::NoKey { table: self.shown.clone(), key });
        };
        let typed = |column: String| {
            let found = self.column(&column)?.column_type.clone();
            if KEY_TYPES.contains(&&*found) {
                Ok((column, found))
            } else {
                Err(RowsError::KeyType { table: self.shown.clone(), column, found })
            }
        };
        columns.into_iter().map(typed).collect()
    }

    fn rows(&self, connection: &mut Connection, oid: u32) -> Result<u64, RowsError> {
        let estimate: f64 = connection.one(ESTIMATE, &[&oid])?.get(0);
        if estimate >= 1.0 {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a count"
            )]
            return Ok(estimate as u64);
        }
        // Nobody has counted them yet: a new table.
        let counted: i64 =
            connection.one(&format!("SELECT count(*) FROM {}", self.sql), &[])?.get(0);
        Ok(u64::try_from(counted).unwrap_or(0))
    }
}

impl TableName {
    fn sql(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&self.name)),
            None => quoted(&self.name),
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// No name of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a table or schema.table, without quotes")]
pub struct NoTableName;

impl FromStr for TableName {
    type Err = NoTableName;
    fn from_str(text: &str) -> Result<Self, NoTableName> {
        let is_name = |name: &str| !name.is_empty() && !name.contains(['.', '"', '\0']);
        match text.split_once('.') {
            Some((schema, name)) if is_name(schema) && is_name(name) => {
                Ok(Self { schema: Some(schema.to_owned()), name: name.to_owned() })
            }
            None if is_name(text) => Ok(Self { schema: None, name: text.to_owned() }),
            _ => Err(NoTableName),
        }
    }
}

/// A name as an identifier of a statement.
#[must_use]
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let sql = |text: &str| text.parse::<TableName>().map(|name| name.sql());
        assert_eq!(sql("Customers").unwrap(), r#""Customers""#);
        assert_eq!(sql("app.people; DROP").unwrap(), r#""app"."people; DROP""#);
        assert_eq!(quoted(r#"a"b"#), r#""a""b""#);
        for text in ["", ".", "a.", ".a", "a.b.c", "\"a\"", "a\0"] {
            assert_eq!(sql(text), Err(NoTableName), "{text}");
        }
    }
}
