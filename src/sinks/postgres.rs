//! The table of a sink in PostgreSQL.

use std::fmt::Write as _;

use veilstream_engine::schema::Schema;

use super::columns::{Column, ColumnType, Columns};
use super::shape::{Role, longest_token, shortest_token};

/// What blind indexes look like: the root's version, `~`, the tag (docs/formats.md).
const INDEX: &str = "[0-9]+~[A-Za-z0-9_-]+";

/// How far PostgreSQL counts repetitions.
const REPETITIONS: usize = 255;

/// `CREATE TABLE` with a CHECK of each column of tokens or blind indexes, and an index of each
/// blind index. Text that is protected compares by its bytes: a collation would make different
/// tokens equal.
#[must_use]
pub fn table(schema: &Schema, columns: &Columns, name: &str, key: &str) -> String {
    let table = quoted(name);
    let mut sql = String::new();
    let _ = writeln!(sql, "CREATE TABLE {table} (");
    let _ = write!(sql, "    {} text COLLATE \"C\" PRIMARY KEY", quoted(key));
    // The key is a column too, whether the value has a member of its name or not.
    for column in columns.columns.iter().filter(|column| column.name != key) {
        let _ = write!(sql, ",\n    {}", column_of(schema, column));
    }
    sql.push_str("\n);\n");
    for column in columns.columns.iter().filter(|column| column.role == Role::Index) {
        let using = match column.column_type {
            ColumnType::List(_) => "USING gin ",
            _ => "",
        };
        let _ = writeln!(sql, "CREATE INDEX ON {table} {using}({});", quoted(&column.name));
    }
    sql
}

fn column_of(schema: &Schema, column: &Column) -> String {
    let name = quoted(&column.name);
    let form = match column.role {
        Role::Plain => return format!("{name} {}", type_of(&column.column_type)),
        Role::Token(field) => token_form(schema, field),
        Role::Index => INDEX.to_owned(),
    };
    match column.column_type {
        // Each element: nothing of the list stands outside of the form.
        ColumnType::List(_) => format!(
            "{name} text[] COLLATE \"C\" CHECK (array_to_string({name}, ',') ~ \
            '^({form}(,{form})*)?$' AND '' <> ALL ({name}))"
        ),
        _ => format!("{name} text COLLATE \"C\" CHECK ({name} ~ '^{form}$')"),
    }
}

/// What tokens of a field look like, and how long they are at least, as a regular expression.
#[must_use]
pub fn token_form(schema: &Schema, field: usize) -> String {
    if let Some(interop) = &schema.fields[field].interop {
        return interop.form.pattern().to_owned();
    }
    let least = shortest_token(&schema.fields[field]) - "vs1.".len();
    let most = longest_token(&schema.fields[field]).map(|most| most - "vs1.".len());
    let most = most.filter(|most| *most <= REPETITIONS).map_or_else(String::new, |n| n.to_string());
    format!("vs1[.][A-Za-z0-9_-]{{{},{most}}}", least.min(REPETITIONS))
}

fn type_of(column_type: &ColumnType) -> String {
    match column_type {
        ColumnType::Boolean => "boolean".to_owned(),
        ColumnType::Integer => "bigint".to_owned(),
        ColumnType::Number => "double precision".to_owned(),
        ColumnType::Text => "text".to_owned(),
        ColumnType::List(of) => format!("{}[]", type_of(of)),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
