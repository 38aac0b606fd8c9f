//! The CHECK that keeps the old form out: until it holds, a writer that nobody stopped may still
//! write it.

use std::fmt::Write as _;

use super::error::MigrateError;
use super::target::TargetColumns;
use crate::rows::{Connection, Table, quoted};

/// Bytes of PostgreSQL's names.
const NAME_MAX: usize = 63;

/// What became of the CHECKs.
#[derive(Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    /// They hold for all rows, those to come too.
    Holds,
    /// They do not: why, and what to run as the table's owner.
    Refused {
        /// The server's answer.
        why: String,
        /// The statements.
        sql: String,
    },
}

/// Adds the CHECKs that are not there, and validates them: the tokens' column takes the form that
/// `schema ddl` prints, the old column nothing. `form`: that form, as a regular expression.
///
/// # Errors
/// The connection broke.
pub fn validate(
    connection: &mut Connection,
    table: &Table,
    columns: &TargetColumns,
    form: Option<&str>,
) -> Result<CheckOutcome, MigrateError> {
    let mut checks = Vec::new();
    if let Some(form) = form {
        let name = quoted(&columns.target);
        checks.push((columns.target.as_str(), "form", format!("{name} ~ '^{form}$'")));
    }
    if columns.target != columns.source {
        checks.push((&columns.source, "empty", format!("{} IS NULL", quoted(&columns.source))));
    }
    let mut all = String::new();
    for (column, what, condition) in checks {
        let name = constraint(column, what);
        let known = connection.query(
            "SELECT convalidated FROM pg_constraint WHERE conrelid = to_regclass($1) AND conname = $2",
            &[&table.sql, &name],
        )?;
        if known.is_empty() {
            let _ = writeln!(
                all,
                "ALTER TABLE {} ADD CONSTRAINT {} CHECK ({condition}) NOT VALID;",
                table.sql,
                quoted(&name)
            );
        }
        // What holds needs no owner.
        if known.first().is_none_or(|row| !row.get::<_, bool>(0)) {
            let name = quoted(&name);
            let _ = writeln!(all, "ALTER TABLE {} VALIDATE CONSTRAINT {name};", table.sql);
        }
    }
    for statement in all.lines() {
        if let Err(error) = connection.batch(statement) {
            return Ok(CheckOutcome::Refused { why: error.to_string(), sql: all });
        }
    }
    Ok(CheckOutcome::Holds)
}

/// `veilstream_<column>_<what>`, as short as names must be.
fn constraint(column: &str, what: &str) -> String {
    let mut column = column;
    while "veilstream__".len() + column.len() + what.len() > NAME_MAX {
        let mut end = column.len() - 1;
        while !column.is_char_boundary(end) {
            end -= 1;
        }
        column = &column[..end];
    }
    format!("veilstream_{column}_{what}")
}
