//! Which columns of a table hold what of a schema: as `schema ddl` lays a table out, or as the
//! operator says.

use std::collections::BTreeMap;

use veilstream_engine::schema::{Field, IndexRule, PathId, Protect, Schema};

use crate::rows::{ColumnFacts, RowsError, Table};

/// Between the names of a member and of what it is in, as in the tables of sinks.
const DELIMITER: &str = "_";

/// What the operator says of columns; the rest is found by name.
#[derive(Debug, Clone, Default)]
pub struct Mapping {
    /// Columns of tokens, by id of the field.
    pub columns: BTreeMap<String, String>,
    /// Columns of blind indexes, by id of the field.
    pub indexes: BTreeMap<String, String>,
    /// Columns of bound values, by their names.
    pub bind: BTreeMap<String, String>,
    /// The column that says whose row it is.
    pub subject: Option<String>,
}

/// The columns of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldColumns {
    /// Index of the field in the schema.
    pub field: usize,
    /// Its tokens.
    pub token: String,
    /// The columns hold lists: of tokens, and of their indexes in the same order.
    pub is_list: bool,
    /// Its indexes under the newest root; `None`: the table has no such column.
    pub index: Option<String>,
    /// Its indexes under the root before the newest.
    pub previous: Option<String>,
    /// Bound values by name, sorted: their columns.
    pub bind: Vec<(String, String)>,
    /// What a compound index is of; empty: the field's own value.
    pub parts: Vec<Part>,
}

/// A part of a compound index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The value in the tokens of a field: its place in [`Columns::fields`].
    Field(usize),
    /// A column in clear.
    Column(String),
}

/// The columns that a rotation works on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// Fields with tokens in the table, in the order of the document.
    pub fields: Vec<FieldColumns>,
    /// The column that says whose row it is; `None`: the schema or the table has none.
    pub subject: Option<String>,
    /// Ids of fields that stay as they are, and why.
    pub left_out: Vec<(String, String)>,
}

/// Columns do not fit the schema.
#[derive(Debug, thiserror::Error)]
pub enum ColumnsError {
    /// The table.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// No field of that id.
    #[error("--{option}: {schema} has no field {field}; it has {}", known.join(", "))]
    NoField {
        /// The option.
        option: &'static str,
        /// The schema.
        schema: String,
        /// What was asked for.
        field: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A field whose values cannot be sealed again.
    #[error("--column: {field}: {why}")]
    NotEncrypted {
        /// The field.
        field: String,
        /// Why.
        why: &'static str,
    },
    /// Nothing to do.
    #[error(
        "{table} has no column for an encrypted field of {schema}; name them: --column ID=COLUMN"
    )]
    Nothing {
        /// The table.
        table: String,
        /// The schema.
        schema: String,
    },
    /// Two fields in one column.
    #[error("{field}: the column {column} holds another field already; name another one")]
    Twice {
        /// The field.
        field: String,
        /// The column.
        column: String,
    },
    /// A value that tokens are bound to stands nowhere.
    #[error("{field} is bound to {name}, which no column is named after; say --bind {name}=COLUMN")]
    NoBound {
        /// The field.
        field: String,
        /// The bound value.
        name: String,
    },
    /// No field is bound to a value of that name.
    #[error("--bind: no field of {schema} is bound to {name}")]
    NotBound {
        /// The schema.
        schema: String,
        /// What was asked for.
        name: String,
    },
    /// No index column.
    #[error(
        "--reindex: {table} has no column for the index of {field}; add one, or name it: --index {field}=COLUMN"
    )]
    NoIndex {
        /// The table.
        table: String,
        /// The field.
        field: String,
    },
    /// An index has another form than the tokens.
    #[error(
        "{field}: of {token} and {index} one is a list, the other is not; an index has an element for \
        each token"
    )]
    UnlikeIndex {
        /// The field.
        field: String,
        /// The column of tokens.
        token: String,
        /// The column of indexes.
        index: String,
    },
    /// What a compound index is of stands nowhere.
    #[error(
        "{field}: a part of its compound index has no column; leave its index column out of the table, or add the part's"
    )]
    NoPart {
        /// The field.
        field: String,
    },
    /// Nobody is named.
    #[error("--trust-rows: no column says whose row it is; name it: --subject COLUMN")]
    NoSubject,
}

impl Columns {
    /// Finds the columns. `reindex`: every indexed field must have a column for its index.
    ///
    /// # Errors
    /// [`ColumnsError`].
    pub fn find(
        schema: &Schema,
        table: &Table,
        mapping: &Mapping,
        reindex: bool,
    ) -> Result<Self, ColumnsError> {
        check_ids(schema, mapping)?;
        let mut columns = Self { subject: subject(schema, table, mapping)?, ..Self::default() };
        for (index, field) in schema.fields.iter().enumerate() {
            let named = mapping.columns.get(&*field.id);
            if let Some(why) = not_encrypted(field) {
                if named.is_some() {
                    return Err(ColumnsError::NotEncrypted { field: field.id.to_string(), why });
                }
                columns.left_out.push((field.id.to_string(), why.to_owned()));
                continue;
            }
            let found = named
                .cloned()
                .or_else(|| column_at(schema, path_id(index)).filter(|column| table.has(column)))
                .or_else(|| list_at(schema, index).filter(|column| is_list(table, column)));
            let Some(token) = found else {
                columns.left_out.push((field.id.to_string(), no_column(schema, index).to_owned()));
                continue;
            };
            let is_list = table.check_written(&token)?.is_list();
            if is_list && field.index.as_ref().is_some_and(|rule| !rule.of.is_empty()) {
                let why = "it is a list with a compound index";
                columns.left_out.push((field.id.to_string(), why.to_owned()));
                continue;
            }
            columns.push(schema, table, mapping, reindex, index, token)?;
        }
        if columns.fields.is_empty() {
            let (table, schema) = (table.shown.clone(), schema.name.to_string());
            return Err(ColumnsError::Nothing { table, schema });
        }
        columns.find_parts(schema, table)?;
        Ok(columns)
    }

    fn push(
        &mut self,
        schema: &Schema,
        table: &Table,
        mapping: &Mapping,
        reindex: bool,
        index: usize,
        token: String,
    ) -> Result<(), ColumnsError> {
        let field = &schema.fields[index];
        if self.fields.iter().any(|other| other.token == token) {
            return Err(ColumnsError::Twice { field: field.id.to_string(), column: token });
        }
        let into = field.index.as_ref().map(|rule| index_column(schema, index, rule, &token));
        let into = match mapping.indexes.get(&*field.id) {
            Some(named) => table.column(named).map(|_| Some(named.clone()))?,
            None => into.filter(|column| table.has(column)),
        };
        if reindex && field.index.is_some() && into.is_none() {
            let table = table.shown.clone();
            return Err(ColumnsError::NoIndex { table, field: field.id.to_string() });
        }
        let is_unique = field.index.as_ref().is_some_and(IndexRule::is_unique);
        let previous = into
            .as_ref()
            .filter(|_| is_unique)
            .map(|into| format!("{into}_prev"))
            .filter(|column| table.has(column));
        let is_list = is_list(table, &token);
        for column in into.iter().chain(&previous) {
            if table.check_written(column)?.is_list() != is_list {
                let (field, index) = (field.id.to_string(), column.clone());
                return Err(ColumnsError::UnlikeIndex { field, token, index });
            }
        }
        let mut bind = Vec::new();
        for bound in &field.bind {
            let column = mapping
                .bind
                .get(&bound.name)
                .cloned()
                .or_else(|| column_at(schema, bound.path).filter(|column| table.has(column)));
            let column = column.ok_or_else(|| ColumnsError::NoBound {
                field: field.id.to_string(),
                name: bound.name.clone(),
            })?;
            table.column(&column)?;
            bind.push((bound.name.clone(), column));
        }
        self.fields.push(FieldColumns {
            field: index,
            token,
            is_list,
            index: into,
            previous,
            bind,
            parts: Vec::new(),
        });
        Ok(())
    }

    /// What compound indexes are of, once it is known which fields are there.
    fn find_parts(&mut self, schema: &Schema, table: &Table) -> Result<(), ColumnsError> {
        for at in 0..self.fields.len() {
            let field = &schema.fields[self.fields[at].field];
            let Some(rule) = field.index.as_ref().filter(|_| self.fields[at].index.is_some())
            else {
                continue;
            };
            let parts = rule.of.iter().map(|path| self.part(schema, table, *path));
            let parts: Option<Vec<Part>> = parts.collect();
            self.fields[at].parts =
                parts.ok_or_else(|| ColumnsError::NoPart { field: field.id.to_string() })?;
        }
        Ok(())
    }

    fn part(&self, schema: &Schema, table: &Table, path: PathId) -> Option<Part> {
        let members = schema.members(path)?;
        let same = |index: usize| schema.members(path_id(index)) == Some(members);
        let mut fields = self.fields.iter();
        if let Some(at) = fields.position(|columns| same(columns.field) && !columns.is_list) {
            return Some(Part::Field(at));
        }
        // A field that is protected otherwise is no value any more.
        let is_field = (0..schema.fields.len()).any(same);
        let column = column_at(schema, path).filter(|column| !is_field && table.has(column))?;
        Some(Part::Column(column))
    }
}

fn check_ids(schema: &Schema, mapping: &Mapping) -> Result<(), ColumnsError> {
    for (option, named) in [("column", &mapping.columns), ("index", &mapping.indexes)] {
        if let Some(field) = named.keys().find(|id| schema.field(id).is_none()) {
            return Err(ColumnsError::NoField {
                option,
                schema: schema.name.to_string(),
                field: field.clone(),
                known: schema.fields.iter().map(|field| field.id.to_string()).collect(),
            });
        }
    }
    let is_bound = |name: &&String| {
        schema.fields.iter().flat_map(|field| &field.bind).any(|bind| bind.name == **name)
    };
    if let Some(name) = mapping.bind.keys().find(|name| !is_bound(name)) {
        let (schema, name) = (schema.name.to_string(), name.clone());
        return Err(ColumnsError::NotBound { schema, name });
    }
    Ok(())
}

/// Why a field's values are not sealed again here; `None`: they are.
fn not_encrypted(field: &Field) -> Option<&'static str> {
    match field.protect {
        Protect::Encrypt if field.interop.is_some() => {
            Some("it is in the form of another system, under that system's keys")
        }
        Protect::Encrypt => None,
        Protect::Deterministic(_) => Some(
            "it is deterministic: all its tokens move to a new pinned root at once, with a new \
            topic",
        ),
        Protect::Hash => Some("it is hashed, and nobody can open a hash"),
        Protect::Mask(_) | Protect::Generalize(_) | Protect::Redact(_) | Protect::Drop => {
            Some("it has no tokens")
        }
    }
}

/// Why no column was found for a field with tokens.
fn no_column(schema: &Schema, index: usize) -> &'static str {
    if schema.members(path_id(index)).is_some() {
        "the table has no column of its name; --column names one"
    } else {
        "its path may select several values, and the table has no list (text[]) of its name; \
        --column names a column of one of them, or a list"
    }
}

fn subject(
    schema: &Schema,
    table: &Table,
    mapping: &Mapping,
) -> Result<Option<String>, ColumnsError> {
    if let Some(column) = &mapping.subject {
        table.column(column)?;
        return Ok(Some(column.clone()));
    }
    // Of several places none is sure to be the one that counted.
    let [path] = schema.subjects[..] else { return Ok(None) };
    Ok(column_at(schema, path).filter(|column| table.has(column)))
}

/// The column of a path as sinks name it; `None`: the path does not go by names.
fn column_at(schema: &Schema, path: PathId) -> Option<String> {
    schema.members(path).filter(|names| !names.is_empty()).map(|names| names.join(DELIMITER))
}

/// The column of a list whose elements a field is, as sinks name it.
fn list_at(schema: &Schema, index: usize) -> Option<String> {
    let names = schema.list_members(path_id(index))?;
    (!names.is_empty()).then(|| names.join(DELIMITER))
}

fn is_list(table: &Table, column: &str) -> bool {
    table.column(column).is_ok_and(ColumnFacts::is_list)
}

/// The column of a field's index: a member beside the value, or beside the list that it stands in.
fn index_column(schema: &Schema, index: usize, rule: &IndexRule, token: &str) -> String {
    let Some(into) = &rule.into else { return format!("{token}_bidx") };
    let path = path_id(index);
    let names = schema.members(path).or_else(|| schema.list_members(path));
    match names.and_then(<[String]>::split_last) {
        Some((_, above)) if !above.is_empty() => {
            format!("{}{DELIMITER}{into}", above.join(DELIMITER))
        }
        _ => into.clone(),
    }
}

/// Paths of fields come first, in their order.
fn path_id(index: usize) -> PathId {
    PathId::try_from(index).unwrap_or(PathId::MAX)
}
