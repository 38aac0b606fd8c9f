//! The JSON Schema (2020-12) of sanitized records, for registries and for those who read them.

use serde_json::{Map, Value, json};
use veilstream_engine::schema::Schema;

use super::shape::{Content, Place, Role, Shape, longest_token, shortest_token};

/// What sanitized records of the schema look like.
#[must_use]
pub fn json_schema(schema: &Schema, shape: &Shape) -> Value {
    let mut document = described(schema, &shape.root);
    document["type"] = "object".into();
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    document["title"] = (&*schema.label).into();
    document
}

fn described(schema: &Schema, place: &Place) -> Value {
    // An event may lack what the sample has; what the document requires is there.
    let named = |name: &str| match is_required(schema, place) {
        true => json!({ "type": name }),
        false => json!({ "type": [name, "null"] }),
    };
    match (&place.content, place.role) {
        (Content::Text, Role::Token(field)) => {
            let field = &schema.fields[field];
            let mut token = named("string");
            let pattern = field.interop.as_ref().map(|interop| interop.form.pattern());
            token["pattern"] = format!("^{}$", pattern.unwrap_or("vs1\\.[A-Za-z0-9_-]+")).into();
            token["minLength"] = shortest_token(field).into();
            if let Some(longest) = longest_token(field) {
                token["maxLength"] = longest.into();
            }
            let form = field.interop.as_ref().map_or("token", |interop| interop.form.as_str());
            token["description"] = format!("{form} of the field {}", field.name).into();
            token
        }
        (Content::Text, Role::Index) => {
            let mut index = named("string");
            index["pattern"] = "^[0-9]+~[A-Za-z0-9_-]+$".into();
            index["description"] = "blind index".into();
            index
        }
        (Content::Text, Role::Plain) => named("string"),
        // What was null in every event may be anything.
        (Content::Unknown | Content::Mixed(..) | Content::Filtered(..), _) => json!({}),
        (Content::Boolean, _) => named("boolean"),
        (Content::Integer, _) => named("integer"),
        (Content::Number, _) => named("number"),
        (Content::List(of), _) => {
            let mut list = named("array");
            list["items"] = described(schema, of);
            list
        }
        (Content::Object(members), _) => {
            let properties: Map<String, Value> = members
                .iter()
                .map(|(name, place)| (name.clone(), described(schema, place)))
                .collect();
            let mut object = named("object");
            object["properties"] = properties.into();
            let required: Vec<&str> = members
                .iter()
                .filter(|(_, place)| is_required(schema, place))
                .map(|(name, _)| name.as_str())
                .collect();
            if !required.is_empty() {
                object["required"] = required.into();
            }
            object
        }
    }
}

/// Whether the document demands it of every object it may stand in.
fn is_required(schema: &Schema, place: &Place) -> bool {
    matches!(place.role, Role::Token(field) if schema.fields[field].required)
}
