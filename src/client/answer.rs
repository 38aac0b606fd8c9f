//! An answer of the reading service, in which values keep every byte.

use std::ops::Range;

use veilstream_engine::scan::{Kind, Tape, unescape};

/// An answer, and where its items stand.
#[derive(Debug)]
pub struct Answer {
    text: Vec<u8>,
    tape: Tape,
    items: Vec<u32>,
}

/// A value of an answer.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    answer: &'a Answer,
    node: u32,
}

impl Answer {
    /// Reads an answer to so many items.
    pub(super) fn read(text: Vec<u8>, name: &str, asked: usize) -> anyhow::Result<Self> {
        let mut tape = Tape::default();
        // The fault would name a byte of what was opened.
        tape.scan(&text).map_err(|_| not_understood())?;
        let mut answer = Self { text, tape, items: Vec::new() };
        let items: Vec<u32> = Node { answer: &answer, node: 0 }
            .member(name)
            .ok_or_else(not_understood)?
            .elements()
            .map(|item| item.node)
            .collect();
        anyhow::ensure!(items.len() == asked, not_understood());
        answer.items = items;
        Ok(answer)
    }

    /// The items, in the order in which they were asked for.
    pub fn items(&self) -> impl Iterator<Item = Node<'_>> {
        self.items.iter().map(|node| Node { answer: self, node: *node })
    }
}

fn not_understood() -> anyhow::Error {
    anyhow::anyhow!("the server's answer is none of a reading service; look at --server")
}

impl<'a> Node<'a> {
    /// The value of a member.
    #[must_use]
    pub fn member(self, name: &str) -> Option<Self> {
        let Self { answer, .. } = self;
        self.children().find(|child| {
            let node = &answer.tape.nodes()[child.node as usize];
            let mut own = Vec::new();
            let is_named = node.is_member() && unescape(&answer.text[node.name()], &mut own);
            is_named && own == name.as_bytes()
        })
    }

    /// The elements of an array; of anything else none.
    pub fn elements(self) -> impl Iterator<Item = Self> {
        let is_array = self.answer.tape.nodes()[self.node as usize].kind == Kind::Array;
        self.children().filter(move |_| is_array)
    }

    fn children(self) -> impl Iterator<Item = Self> {
        let Self { answer, node } = self;
        answer.tape.children(node).map(move |node| Node { answer, node })
    }

    /// Its JSON text.
    #[must_use]
    pub fn json(self) -> &'a [u8] {
        let span: Range<usize> = self.answer.tape.nodes()[self.node as usize].span();
        &self.answer.text[span]
    }

    /// The text of a string.
    #[must_use]
    pub fn text(self) -> Option<String> {
        let node = &self.answer.tape.nodes()[self.node as usize];
        if node.kind != Kind::String {
            return None;
        }
        let mut text = Vec::new();
        unescape(&self.answer.text[node.inner()], &mut text).then_some(())?;
        String::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_keep_their_bytes() {
        let text = br#"{"policy":"x","items":[{"value":1.50,"n\u0061me":"\u00e4"},{}]}"#;
        let answer = Answer::read(text.to_vec(), "items", 2).unwrap();
        let first = answer.items().next().unwrap();
        assert_eq!(first.member("value").unwrap().json(), b"1.50");
        assert_eq!(first.member("name").unwrap().text().unwrap(), "ä");
        assert!(first.member("other").is_none() && first.elements().next().is_none());
        for (text, items) in [("{", 0), ("{}", 0), (r#"{"items":{"a":1}}"#, 1), ("[]", 0)] {
            assert!(Answer::read(text.into(), "items", items).is_err(), "{text}");
        }
        assert!(Answer::read(text.to_vec(), "items", 1).is_err(), "an answer is missing");
    }
}
