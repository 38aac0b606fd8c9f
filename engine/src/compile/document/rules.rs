//! Rules of the record key and of headers in a schema document.

use serde_json::{Map, Value};

use super::super::Grants;
use super::super::field;
use super::super::read::{Reader, join, kind};
use crate::kdf;
use crate::schema::{HeaderRule, KeyRule, Protect};

pub(super) fn key_rule(
    value: &Value,
    schema: &str,
    grants: &Grants,
    reader: &mut Reader,
) -> Option<KeyRule> {
    let map = reader.object("/key", value, &["protect", "normalize", "bits", "root", "domain"])?;
    let protect = reader.choice(
        "/key",
        map,
        "protect",
        &[("hash", Some(true)), ("deterministic", Some(false)), ("none", None)],
    );
    if !map.contains_key("protect") {
        reader.error(
            "/key",
            "has no protect; a record key takes \"hash\", \"deterministic\" or \"none\"",
        );
    }
    let hash = protect??;
    if !map.contains_key("root") {
        reader.error(
            "/key",
            "has no root; a record key pins the version of its root: add \"root\": 1",
        );
    }
    let root = reader.integer("/key", map, "root", 1..=u64::from(u32::MAX), 1) as u32;
    let name =
        field::domain("/key", map, grants, reader).unwrap_or_else(|| format!("{schema}#key"));
    let index = if hash {
        let mut rule = field::index_definition("/key", map, &name, reader)?;
        rule.root = Some(root);
        Some(rule)
    } else {
        None
    };
    let protect = if hash { Protect::Hash } else { Protect::Deterministic(root) };
    Some(KeyRule { fid: kdf::field_id(&name), name, protect, index })
}

pub(super) fn header_rules(
    map: &Map<String, Value>,
    schema: &str,
    grants: &Grants,
    reader: &mut Reader,
) -> Vec<HeaderRule> {
    let Some(value) = map.get("headers") else { return Vec::new() };
    let Some(rules) = value.as_object() else {
        reader.error(
            "/headers",
            format!("must be an object of \"header name\": rule, not {}", kind(value)),
        );
        return Vec::new();
    };
    rules
        .iter()
        .filter_map(|(header, value)| header_rule(header, value, schema, grants, reader))
        .collect()
}

fn header_rule(
    header: &str,
    value: &Value,
    schema: &str,
    grants: &Grants,
    reader: &mut Reader,
) -> Option<HeaderRule> {
    let at = join("/headers", header);
    let map = reader.object(&at, value, &["protect", "normalize", "bits", "root", "domain"])?;
    if header == "veilstream-schema" {
        reader.error(&at, "is written by veilstream itself; it cannot be protected");
    }
    let protect = reader
        .choice(&at, map, "protect", &[("encrypt", 0), ("hash", 1), ("drop", 2)])
        .or_else(|| (!map.contains_key("protect")).then_some(0))?;
    let name = field::domain(&at, map, grants, reader)
        .unwrap_or_else(|| format!("{schema}#header:{header}"));
    let index = if protect == 1 {
        let mut rule = field::index_definition(&at, map, &name, reader)?;
        rule.root = map
            .contains_key("root")
            .then(|| reader.integer(&at, map, "root", 1..=u64::from(u32::MAX), 1) as u32);
        Some(rule)
    } else {
        None
    };
    let protect = [Protect::Encrypt, Protect::Hash, Protect::Drop][protect].clone();
    Some(HeaderRule { header: header.to_owned(), fid: kdf::field_id(&name), name, protect, index })
}
