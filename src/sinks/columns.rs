//! Columns of a table: members of members with `_` between their names.

use super::error::SinkError;
use super::shape::{Content, Place, Role, Shape};

/// Between the names of a member and of what it is in; Connect's Flatten gets the same.
pub(super) const DELIMITER: &str = "_";
/// Bytes of PostgreSQL's names.
const NAME_MAX: usize = 63;

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnType {
    /// `true`, `false`.
    Boolean,
    /// 64 bits, signed.
    Integer,
    /// Double precision.
    Number,
    /// Text.
    Text,
    /// A list of them.
    List(Box<Self>),
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// The place, as `$.customer.email`.
    pub path: String,
    /// What it holds.
    pub column_type: ColumnType,
    /// What it is to protection; of a list, its elements.
    pub role: Role,
}

/// The columns of a shape, and what has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// In the order of the members.
    pub columns: Vec<Column>,
    /// Places without a column, and why.
    pub left_out: Vec<(String, &'static str)>,
}

impl Columns {
    /// The columns of these records.
    ///
    /// # Errors
    /// Records are no objects, or a name does not do.
    pub fn of(shape: &Shape) -> Result<Self, SinkError> {
        let Content::Object(members) = &shape.root.content else {
            return Err(SinkError::NotAnObject);
        };
        let mut columns = Self::default();
        columns.members(members, "", "$")?;
        Ok(columns)
    }

    fn members(
        &mut self,
        members: &[(String, Place)],
        prefix: &str,
        path: &str,
    ) -> Result<(), SinkError> {
        for (name, place) in members {
            let (column, path) = (format!("{prefix}{name}"), format!("{path}.{name}"));
            if let Content::Object(below) = &place.content {
                self.members(below, &format!("{column}{DELIMITER}"), &path)?;
                continue;
            }
            match &place.content {
                Content::Mixed(one, other) => return Err(SinkError::Mixed { path, one, other }),
                Content::Filtered(kind, field) => {
                    return Err(SinkError::Filtered { path, kind, field: field.clone() });
                }
                _ => {}
            }
            let Some((column_type, role)) = column_type(place) else {
                self.left_out.push((path, reason(place)));
                continue;
            };
            self.push(Column { name: column, path, column_type, role })?;
        }
        Ok(())
    }

    fn push(&mut self, column: Column) -> Result<(), SinkError> {
        if column.name.len() > NAME_MAX {
            return Err(SinkError::LongColumn(column.name));
        }
        if let Some(other) = self.columns.iter().find(|other| other.name == column.name) {
            return Err(SinkError::SameColumn {
                one: other.path.clone(),
                other: column.path,
                column: column.name,
            });
        }
        self.columns.push(column);
        Ok(())
    }
}

/// The type of a column, and the role of what stands in it.
fn column_type(place: &Place) -> Option<(ColumnType, Role)> {
    let column_type = match &place.content {
        Content::Boolean => ColumnType::Boolean,
        Content::Integer => ColumnType::Integer,
        Content::Number => ColumnType::Number,
        Content::Text => ColumnType::Text,
        Content::List(of) => {
            let (of, role) = column_type(of)?;
            let is_flat = !matches!(of, ColumnType::List(_));
            return is_flat.then(|| (ColumnType::List(Box::new(of)), role));
        }
        Content::Unknown | Content::Object(_) | Content::Mixed(..) | Content::Filtered(..) => {
            return None;
        }
    };
    Some((column_type, place.role))
}

fn reason(place: &Place) -> &'static str {
    match &place.content {
        Content::Unknown => "it is null in every event of the sample",
        Content::List(of) if of.content == Content::Unknown => "it is empty in every event",
        _ => "only lists of one simple type have a column",
    }
}
