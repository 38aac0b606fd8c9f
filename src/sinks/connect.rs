//! The configuration of a sink connector (Kafka Connect 4.2 or later, Debezium's JDBC sink).

use serde_json::{Value, json};
use veilstream_engine::schema::Schema;

use super::columns::DELIMITER;
use super::shape::{Content, Place, Role, Shape};

/// What a document does not say.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    /// The table.
    pub table: String,
    /// Column of the record key.
    pub key: String,
    /// The sanitized topic.
    pub topic: String,
}

/// The connector's configuration. What is protected is declared as string: a sink stores a token in
/// a column of numbers as 0, without an error.
#[must_use]
pub fn connector(schema: &Schema, shape: &Shape, options: &ConnectOptions) -> Value {
    let mut config = json!({
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "tasks.max": "1",
        "topics": options.topic,
        // Aborted records are none; the worker allows overrides by its default.
        "consumer.override.isolation.level": "read_committed",
        // The worker reads them from its environment: config.providers=env.
        "connection.url": "${env:SINK_URL}",
        "connection.username": "${env:SINK_USER}",
        "connection.password": "${env:SINK_PASSWORD}",
        // Offsets are committed for rows that are: a server that commits later could lose them.
        "hibernate.agroal.initialSQL": "SET synchronous_commit TO on",
        // A lost connection is tried again for four minutes: below the five after which the
        // group takes the partitions away from a consumer that does not poll. Then the task fails.
        "connection.restart.on.errors": "true",
        "flush.max.retries": "240",
        "flush.retry.delay.ms": "1000",
        // A record that is none of the sidecar's stops the task; it is not passed by.
        "errors.tolerance": "none",
        "collection.name.format": options.table,
        "quote.identifiers": "true",
        "insert.mode": "upsert",
        "delete.enabled": "true",
        "schema.evolution": "none",
        "primary.key.mode": "record_key",
        "primary.key.fields": options.key,
        "key.converter": "org.apache.kafka.connect.storage.StringConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "true",
        "transforms": "key,flatten",
        "transforms.key.type": "org.apache.kafka.connect.transforms.HoistField$Key",
        "transforms.key.field": options.key,
        "transforms.flatten.type": "org.apache.kafka.connect.transforms.Flatten$Value",
        "transforms.flatten.delimiter": DELIMITER,
    });
    if schema.envelope.is_none()
        && let Some(content) = content(&shape.root, true)
    {
        config["value.converter.schema.content"] = content.to_string().into();
    }
    json!({ "name": format!("{}-sink", schema.name), "config": config })
}

/// What a document says to have its values written in envelopes, for Connect before 4.2; `None`:
/// there is nothing to describe. What is protected is a string; indexes are added by the engine.
#[must_use]
pub fn envelope(shape: &Shape) -> Option<Value> {
    let mut schema = content(&shape.root, false)?;
    schema["optional"] = false.into();
    Some(json!({ "output": "connect", "schema": schema }))
}

/// The Connect schema of a place; `None`: it has no column, so Connect is to drop it. With blind
/// indexes, or without.
fn content(place: &Place, indexes: bool) -> Option<Value> {
    let scalar = |name: &str| Some(json!({ "type": name, "optional": true }));
    match &place.content {
        Content::Unknown | Content::Mixed(..) | Content::Filtered(..) => None,
        Content::Boolean => scalar("boolean"),
        Content::Integer => scalar("int64"),
        Content::Number => scalar("double"),
        Content::Text if place.role == Role::Index && !indexes => None,
        Content::Text => scalar("string"),
        Content::List(of) => {
            let is_scalar = !matches!(of.content, Content::List(_) | Content::Object(_));
            let items = content(of, indexes).filter(|_| is_scalar)?;
            Some(json!({ "type": "array", "optional": true, "items": items }))
        }
        Content::Object(members) => {
            let fields: Vec<Value> = members
                .iter()
                .filter_map(|(name, place)| {
                    let mut field = content(place, indexes)?;
                    field["field"] = name.as_str().into();
                    Some(field)
                })
                .collect();
            let is_empty = fields.is_empty();
            (!is_empty).then(|| json!({ "type": "struct", "optional": true, "fields": fields }))
        }
    }
}
