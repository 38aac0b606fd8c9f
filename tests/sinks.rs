//! What sinks are told of sanitized records, and what they are refused.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use veilstream::cases::Runner;
use veilstream::sinks::{ColumnType, Columns, Role, Shape, SinkError, json_schema, table};
use veilstream_engine::compile::{Grants, compile};
use veilstream_engine::schema::Schema;
use veilstream_engine::token::Suite;

const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"fields":[
    {"id":"email","path":"$.email","required":true,"index":{"normalize":"email"}},
    {"id":"age","path":"$.age"},
    {"id":"code","path":"$.codes[?@.secret == true].value"},
    {"id":"note","path":"$.note","protect":"drop"},
    {"id":"vip","path":"$.vip","type":"boolean"}]}"#;

const EVENT: &str = r#"{"email":"ada@example.com","age":36,"vip":true,"note":"x","tags":["a"],"big":1.5,
    "codes":[{"secret":true,"value":7}],"address":{"city":"London"},"gone":null}"#;

fn schema() -> Arc<Schema> {
    Arc::new(compile(DOCUMENT.as_bytes(), &Grants::local()).unwrap().schema)
}

fn shape(events: &[&str]) -> Shape {
    let schema = schema();
    let (mut runner, mut shape) = (Runner::new(schema.clone()).unwrap(), Shape::new(&schema));
    for event in events {
        shape.learn(&schema, &runner.sanitize(event).unwrap().unwrap()).unwrap();
    }
    shape
}

#[test]
fn what_is_protected_becomes_text_and_the_rest_keeps_its_type() {
    let schema = schema();
    let mut shape = shape(&[EVENT, r#"{"email":"b@example.com","big":2}"#]);
    shape.complete(&schema).unwrap();
    let columns = Columns::of(&shape).unwrap();
    let found: Vec<(&str, &ColumnType, Role)> =
        columns.columns.iter().map(|c| (&*c.name, &c.column_type, c.role)).collect();
    let tags = ColumnType::List(Box::new(ColumnType::Text));
    assert_eq!(
        found,
        [
            ("email", &ColumnType::Text, Role::Token(0)),
            ("email_bidx", &ColumnType::Text, Role::Index),
            ("age", &ColumnType::Text, Role::Token(1)),
            ("vip", &ColumnType::Text, Role::Token(4)),
            ("tags", &tags, Role::Plain),
            ("big", &ColumnType::Number, Role::Plain),
            ("address_city", &ColumnType::Text, Role::Plain),
        ]
    );
    let left: Vec<&str> = columns.left_out.iter().map(|(path, _)| &**path).collect();
    assert_eq!(left, ["$.codes", "$.gone"]);
    let sql = table(&schema, &columns, "people", "person");
    for line in [
        r#""person" text COLLATE "C" PRIMARY KEY,"#,
        r#""age" text COLLATE "C" CHECK ("age" ~ '^vs1[.][A-Za-z0-9_-]{"#,
        r#""tags" text[],"#,
        r#"CREATE INDEX ON "people" ("email_bidx");"#,
    ] {
        assert!(sql.contains(line), "no {line} in\n{sql}");
    }
    // Nothing bounds a number's text, but a boolean's.
    let longest = Suite::XaesGcm.token_chars(16, "false".len());
    assert!(sql.contains(&format!("{{91,{}}}$'),\n    \"tags\"", longest - 4)), "{sql}");
    let document = json_schema(&schema, &shape);
    let lengths = |name: &str| {
        let token = &document["properties"][name];
        (token["minLength"].as_u64(), token["maxLength"].as_u64())
    };
    assert_eq!(lengths("age"), (Some(95), None));
    assert_eq!(lengths("vip"), (Some(95), u64::try_from(longest).ok()));
    assert_eq!(document["required"], serde_json::json!(["email"]));
    assert_eq!(document["properties"]["age"]["pattern"], "^vs1\\.[A-Za-z0-9_-]+$");
    assert_eq!(
        document["properties"]["codes"]["items"]["properties"]["value"]["type"][0],
        "string"
    );
    assert!(!document.to_string().contains("London") && !sql.contains("London"));
}

#[test]
fn a_sink_is_not_described_by_guesses() {
    let schema = schema();
    let unseen = shape(&[r#"{"email":"b@example.com","age":null,"codes":[]}"#]).complete(&schema);
    assert!(matches!(unseen, Err(SinkError::Unseen { field, .. }) if field == "age"));
    assert_eq!(shape(&[]).complete(&schema), Err(SinkError::NoEvents));
    let columns = |events: &[&str]| Columns::of(&shape(events)).unwrap_err().to_string();
    let told =
        columns(&[r#"{"email":"a@x.example","id":1}"#, r#"{"email":"a@x.example","id":"1"}"#]);
    assert!(told.starts_with("$.id is a number in one event and a string in another"), "{told}");
    let told = columns(&[r#"{"email":"a@x.example","a":{"b":1},"a_b":2}"#]);
    assert_eq!(told, "$.a.b and $.a_b both become the column a_b; rename one of them");
    let long = format!(r#"{{"email":"a@x.example","{}":1}}"#, "n".repeat(64));
    assert!(columns(&[&long]).contains("more than 63 bytes"));
}

/// A filter protects some elements of a list and leaves others: numbers beside tokens.
#[test]
fn a_place_that_is_a_token_in_some_events_only_has_no_number() {
    let shape = shape(&[EVENT, r#"{"email":"b@x.example","codes":[{"secret":false,"value":7}]}"#]);
    let schema = schema();
    let value =
        &json_schema(&schema, &shape)["properties"]["codes"]["items"]["properties"]["value"];
    assert_eq!(*value, serde_json::json!({}), "it may be both");
}

/// A sink would store the first token there as 0.
#[test]
fn a_number_that_a_filter_may_protect_has_no_column() {
    let document = r#"{"veilstream":1,"name":"people","version":1,"fields":[
        {"id":"age","path":"$.people[?@.private == true].age"},
        {"id":"all","path":"$..[?@.hidden == true].vip"},
        {"id":"score","path":"$.scores[?@.secret == true].of[*]"}]}"#;
    let schema = Arc::new(compile(document.as_bytes(), &Grants::local()).unwrap().schema);
    let learnt = |event: &str| {
        let mut shape = Shape::new(&schema);
        let mut runner = Runner::new(schema.clone()).unwrap();
        shape.learn(&schema, &runner.sanitize(event).unwrap().unwrap()).unwrap();
        shape.complete(&schema).unwrap();
        Columns::of(&shape)
    };
    let event = r#"{"people":{"ada":{"private":true,"age":36,"hidden":true,"vip":true},
        "bob":{"private":true,"age":40}},"size":{"age":1},
        "scores":{"a":{"secret":true,"of":[7]},"b":{"of":["x"]}}}"#;
    let columns = learnt(event).unwrap().columns;
    let found: Vec<(&str, Role)> = columns.iter().map(|c| (&*c.name, c.role)).collect();
    let (private, size) = (("people_bob_private", Role::Plain), ("size_age", Role::Plain));
    assert!(found.contains(&("people_bob_age", Role::Token(0))), "{found:?}");
    assert!(found.contains(&private) && found.contains(&size), "{found:?}");

    let told = |from: &str, to: &str| {
        assert!(event.contains(from));
        learnt(&event.replace(from, to)).map_err(|error| error.to_string())
    };
    let refused = |path: &str, kind: &str, field: &str| {
        format!(
            "{path} is {kind} in every event here, and a token wherever the filter of the field \
            {field} selects it, but a column has one type; select it without a filter"
        )
    };
    assert_eq!(
        told(r#""bob":{"private":true"#, r#""bob":{"private":false"#).unwrap_err(),
        refused("$.people.bob.age", "a number", "age")
    );
    assert_eq!(
        told(r#""size":{"age":1"#, r#""size":{"vip":false"#).unwrap_err(),
        refused("$.size.vip", "a boolean", "all")
    );
    let left_out = told(r#"["x"]"#, "[1]").unwrap().left_out;
    assert!(left_out.iter().any(|(path, _)| path == "$.scores.b.of"), "{left_out:?}");
}
