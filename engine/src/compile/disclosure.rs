//! What a field says for its readers: `mask` and `tags`.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::read::{Reader, join, kind};
use crate::mask::ReadMask;

/// Most tags of one field.
const MOST_TAGS: usize = 32;

/// `mask` of a field.
pub(super) fn mask(at: &str, map: &Map<String, Value>, reader: &mut Reader) -> Option<ReadMask> {
    let value = map.get("mask")?;
    let at_mask = join(at, "mask");
    let mask = reader.object(&at_mask, value, &["keep_first", "keep_last"])?;
    if mask.is_empty() {
        reader.error(&at_mask, "keeps nothing; write { \"keep_last\": 4 }, or remove it");
    }
    // A mask of what is no string shows nothing: its author expects otherwise.
    if let Some(other) = map.get("type").and_then(Value::as_str).filter(|t| *t != "string") {
        reader.error(
            &at_mask,
            format!("is of strings, and the type is {other}: nobody sees anything; remove it"),
        );
    }
    let mut keep = |name| reader.integer(&at_mask, mask, name, 1..=1024, 0) as usize;
    Some(ReadMask { keep_first: keep("keep_first"), keep_last: keep("keep_last") })
}

/// `tags` of a field, sorted.
pub(super) fn tags(at: &str, map: &Map<String, Value>, reader: &mut Reader) -> Vec<Arc<str>> {
    let Some(value) = map.get("tags") else { return Vec::new() };
    let at = join(at, "tags");
    let Some(list) = value.as_array().filter(|list| list.len() <= MOST_TAGS) else {
        let found = if value.is_array() { "a longer one" } else { kind(value) };
        reader.error(&at, format!("must be a list of up to {MOST_TAGS} names, not {found}"));
        return Vec::new();
    };
    let mut tags: Vec<Arc<str>> = Vec::new();
    for (i, item) in list.iter().enumerate() {
        let at = format!("{at}/{i}");
        match item.as_str() {
            None => reader.error(&at, format!("must be a name, not {}", kind(item))),
            Some(tag) if tags.iter().any(|other| **other == *tag) => {
                reader.error(&at, "stands twice; keep one");
            }
            Some(tag) if reader.name(&at, tag) => tags.push(tag.into()),
            Some(_) => {}
        }
    }
    tags.sort();
    tags
}
