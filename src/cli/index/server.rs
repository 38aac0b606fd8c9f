//! `veilstream index --server`: the service computes what to search for.

use std::io::{Read, Write};

use serde_json::json;
use veilstream_engine::schema::{IndexRule, Schema};
use veilstream_engine::transform::Limits;

use super::no_index;
use crate::cli::lines::{Line, LineBatch, Lines};
use crate::client::{Client, Node};

/// Values of one index.
pub(super) struct ServerSearch<'a> {
    client: &'a Client,
    rule: &'a IndexRule,
    /// As policies name it.
    field: String,
}

/// What the service says of a value.
enum Found {
    Values(Vec<String>),
    NoIndex,
    Denied,
}

impl<'a> ServerSearch<'a> {
    pub(super) fn new(client: &'a Client, schema: &Schema, rule: &'a IndexRule, id: &str) -> Self {
        let dot = if id.starts_with('#') { "" } else { "." };
        Self { client, rule, field: format!("{}{dot}{id}", schema.name) }
    }

    /// The index values of one value, one a line; whether there are any.
    pub(super) fn one(
        &self,
        parts: &[&str],
        out: &mut impl Write,
        errors: &mut impl Write,
    ) -> anyhow::Result<bool> {
        let answer = self.client.ask("/v1/index", "queries", &[self.query(parts)])?;
        let found = answer.items().next().map_or(Found::Denied, Found::read);
        if let Found::Values(values) = &found {
            writeln!(out, "{}", values.join("\n"))?;
            return Ok(true);
        }
        writeln!(errors, "veilstream: {}", self.why(&found))?;
        Ok(false)
    }

    /// Line after line; whether all have an index.
    pub(super) fn lines(
        &self,
        input: impl Read,
        out: &mut impl Write,
        errors: &mut impl Write,
    ) -> anyhow::Result<bool> {
        let mut lines = Lines::new(input, Limits::default().input);
        let (mut batch, mut all) = (LineBatch::default(), true);
        loop {
            lines.batch(&mut batch)?;
            if batch.lines().next().is_none() {
                return Ok(all);
            }
            let parts: Vec<Option<Vec<&str>>> =
                batch.lines().map(|(_, line)| self.parts(line)).collect();
            let queries: Vec<Vec<u8>> =
                parts.iter().flatten().map(|parts| self.query(parts)).collect();
            let answer = if queries.is_empty() {
                None
            } else {
                Some(self.client.ask("/v1/index", "queries", &queries)?)
            };
            let mut answers = answer.iter().flat_map(|answer| answer.items());
            for ((number, _), parts) in batch.lines().zip(parts) {
                let why = if parts.is_none() {
                    let parts = self.rule.of.len().max(1);
                    Some(format!("give {parts} parts in UTF-8, separated by tabs"))
                } else {
                    let found = answers.next().map_or(Found::Denied, Found::read);
                    if let Found::Values(values) = &found {
                        write!(out, "{}", values.join("\t"))?;
                        None
                    } else {
                        Some(self.why(&found))
                    }
                };
                if let Some(why) = why {
                    all = false;
                    writeln!(errors, "veilstream: line {number}: {why}")?;
                }
                writeln!(out)?;
            }
            out.flush()?;
        }
    }

    fn parts<'l>(&self, line: Line<'l>) -> Option<Vec<&'l str>> {
        let Line::Text(text) = line else { return None };
        let text = std::str::from_utf8(text.strip_suffix(b"\r").unwrap_or(text)).ok()?;
        let parts: Vec<&str> =
            if self.rule.of.is_empty() { vec![text] } else { text.split('\t').collect() };
        (parts.len() == self.rule.of.len().max(1)).then_some(parts)
    }

    fn query(&self, parts: &[&str]) -> Vec<u8> {
        let query = if self.rule.of.is_empty() {
            json!({ "field": self.field, "value": parts.concat() })
        } else {
            json!({ "field": self.field, "values": parts })
        };
        query.to_string().into_bytes()
    }

    fn why(&self, found: &Found) -> String {
        match found {
            Found::NoIndex => no_index(self.rule),
            Found::Values(_) | Found::Denied => {
                format!("denied: no policy lets you search {}, or the budget is spent", self.field)
            }
        }
    }
}

impl Found {
    fn read(query: Node<'_>) -> Self {
        match query.member("status").and_then(Node::text).as_deref() {
            Some("no_index") => return Self::NoIndex,
            Some(_) => return Self::Denied,
            None => {}
        }
        let values = query.member("values").into_iter().flat_map(Node::elements);
        let values: Vec<String> = values.filter_map(Node::text).collect();
        if values.is_empty() { Self::Denied } else { Self::Values(values) }
    }
}
