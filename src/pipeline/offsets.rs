//! What stands beside a committed offset.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The metadata of a committed offset: `{"v":1,"topic_id":".."}`.
#[derive(Serialize, Deserialize)]
struct Metadata<'a> {
    v: u32,
    #[serde(skip_serializing_if = "Option::is_none", borrow)]
    topic_id: Option<&'a str>,
}

/// The text that is committed with an offset.
pub(super) fn metadata(topic_id: Option<&str>) -> String {
    // A number and a text: there is nothing that JSON cannot say.
    serde_json::to_string(&Metadata { v: 1, topic_id }).unwrap_or_default()
}

/// The topic's id in such a text; `None`: another program's, a later version's, or none.
pub(super) fn topic_id(metadata: &str) -> Option<Arc<str>> {
    let metadata: Metadata<'_> = serde_json::from_str(metadata).ok()?;
    metadata.topic_id.filter(|_| metadata.v == 1).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_id_comes_back() {
        assert_eq!(metadata(Some("Ab-_1")), r#"{"v":1,"topic_id":"Ab-_1"}"#);
        assert_eq!(topic_id(&metadata(Some("Ab-_1"))).as_deref(), Some("Ab-_1"));
        assert_eq!(metadata(None), r#"{"v":1}"#);
        for other in ["", "{}", "note", r#"{"v":1}"#, r#"{"v":2,"topic_id":"x"}"#] {
            assert_eq!(topic_id(other), None, "{other}");
        }
    }
}
