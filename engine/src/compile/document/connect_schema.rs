//! The Connect schema that a document has written into envelopes.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::compile::read::{Reader, join, kind};

const AT: &str = "/envelope/schema";
const TYPES: [&str; 12] = [
    "int8", "int16", "int32", "int64", "float", "double", "boolean", "string", "bytes", "array",
    "map", "struct",
];
const MEMBERS: [&str; 12] = [
    "type",
    "optional",
    "field",
    "fields",
    "items",
    "keys",
    "values",
    "name",
    "version",
    "doc",
    "parameters",
    "default",
];

/// Names every fault of the schema: a struct at its root, and types that Connect has.
pub(super) fn check(schema: &Value, reader: &mut Reader) {
    if description(AT, schema, reader) != Some("struct") && schema.is_object() {
        reader.error(&join(AT, "type"), "must be \"struct\": a record has members");
    }
}

/// The type, where it has one.
fn description<'v>(at: &str, value: &'v Value, reader: &mut Reader) -> Option<&'v str> {
    let map = reader.object(at, value, &MEMBERS)?;
    reader.boolean(at, map, "optional");
    let name = reader.required_string(at, map, "type", "\"string\"")?;
    match name {
        "struct" => fields(at, map, reader),
        "array" => part(at, map, "items", reader),
        "map" => {
            part(at, map, "keys", reader);
            part(at, map, "values", reader);
            if map.get("keys").is_some_and(|keys| keys["type"] != "string") {
                reader.error(
                    &join(at, "keys"),
                    "must be of type \"string\": only such a map is written as an object",
                );
            }
        }
        _ if TYPES.contains(&name) => {}
        _ => reader.error(&join(at, "type"), format!("must be one of {}", TYPES.join(", "))),
    }
    Some(name)
}

fn part(at: &str, map: &Map<String, Value>, name: &str, reader: &mut Reader) {
    match map.get(name) {
        Some(value) => drop(description(&join(at, name), value, reader)),
        None => reader.error(at, format!("has no {name}; say of which type they are")),
    }
}

fn fields(at: &str, map: &Map<String, Value>, reader: &mut Reader) {
    let at = join(at, "fields");
    let list = map.get("fields").unwrap_or(&Value::Null);
    let Value::Array(list) = list else {
        return reader.error(&at, format!("must be a list of types, not {}", kind(list)));
    };
    let mut seen = HashSet::new();
    for (i, field) in list.iter().enumerate() {
        let at = join(&at, &i.to_string());
        description(&at, field, reader);
        let Some(map) = field.as_object() else { continue };
        if let Some(name) = reader.required_string(&at, map, "field", "the name of the member")
            && !seen.insert(name)
        {
            reader.error(&join(&at, "field"), "is there twice");
        }
    }
}
