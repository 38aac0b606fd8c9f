//! A report as JSON or CSV.

use serde_json::{Map, Value, json};

use super::{Report, Row};

/// The report as one JSON document.
#[must_use]
pub fn json(report: &Report) -> Value {
    let object = |row: &Row| {
        let members = row.iter().filter(|(_, text)| !text.is_empty());
        Value::Object(
            members
                .map(|(name, text)| ((*name).to_owned(), Value::from(text.as_str())))
                .collect::<Map<_, _>>(),
        )
    };
    json!({
        "lines": report.rows.iter().map(object).collect::<Vec<_>>(),
        "lines_that_name_nobody": report.nobody,
        "unread_side_files": report.unread_side_files,
    })
}

/// The rows as CSV (RFC 4180), a header first. The two counts are not in it.
#[must_use]
pub fn csv(report: &Report) -> String {
    let mut out = String::new();
    if let Some(first) = report.rows.first() {
        record(&mut out, first.iter().map(|(name, _)| *name));
    }
    for row in &report.rows {
        record(&mut out, row.iter().map(|(_, text)| text.as_str()));
    }
    out
}

fn record<'t>(out: &mut String, texts: impl Iterator<Item = &'t str>) {
    for (at, text) in texts.enumerate() {
        if at > 0 {
            out.push(',');
        }
        // A text that a spreadsheet would run becomes one that it shows.
        let shown = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
            format!("'{text}")
        } else {
            text.to_owned()
        };
        if shown.contains([',', '"', '\n', '\r']) {
            out.push('"');
            out.push_str(&shown.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(&shown);
        }
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_stay_texts_in_a_spreadsheet() {
        let row = |text: &str| vec![("a", text.to_owned()), ("b", "x, \"y\"".to_owned())];
        let report = Report { rows: vec![row("=cmd()"), row("plain")], ..Report::default() };
        assert_eq!(csv(&report), "a,b\r\n'=cmd(),\"x, \"\"y\"\"\"\r\nplain,\"x, \"\"y\"\"\"\r\n");
        assert_eq!(json(&report)["lines"][0]["a"], "=cmd()");
    }
}
