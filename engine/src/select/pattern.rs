//! Patterns of `match` and `search`: I-Regexp (RFC 9485), compiled with the schema into a table of
//! states.
//!
//! A table reads each byte once, whatever the pattern and the text are, keeps no cache and takes no
//! lock. What it costs is room: a pattern whose table is too large is a fault of the document, not
//! of an event. Only what RFC 9485 defines is taken, because any other dialect would be guessed at.

use std::iter::Peekable;
use std::str::Chars;
use std::sync::Arc;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::{Anchored, Input, MatchKind, PatternSet};

use super::error::PatternError;

/// Largest table of one pattern, in bytes.
const MAX_TABLE: usize = 1 << 20;
/// Largest table that several patterns share, in bytes.
const MAX_SHARED: usize = 512 << 10;
/// Memory for making one, in bytes.
const MAX_WORK: usize = 8 << 20;
/// Most repetitions one quantifier may ask for.
const MAX_REPEAT: u32 = 1_000;

/// A compiled pattern.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    /// `match`: the whole text, not some part of it.
    whole: bool,
    table: Arc<dense::DFA<Vec<u32>>>,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// [`PatternError`].
    pub(super) fn new(text: &str, whole: bool) -> Result<Self, PatternError> {
        let translated = translate(text)?;
        let anchored = if whole { format!("(?:{translated})\\z") } else { translated };
        let config = dense::Config::new()
            .start_kind(if whole { StartKind::Anchored } else { StartKind::Unanchored })
            .dfa_size_limit(Some(MAX_TABLE))
            .determinize_size_limit(Some(MAX_WORK));
        let nfa = thompson::Config::new()
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(MAX_WORK));
        let table = dense::Builder::new().configure(config).thompson(nfa).build(&anchored);
        let table = table.map_err(|_| PatternError::Large)?;
        Ok(Self { text: text.into(), whole, table: Arc::new(table) })
    }

    /// Whether the text matches; `None`: that cannot be told.
    pub(super) fn matches(&self, text: &[u8]) -> Option<bool> {
        let anchored = if self.whole { Anchored::Yes } else { Anchored::No };
        let input = Input::new(text).anchored(anchored).earliest(true);
        self.table.try_search_fwd(&input).ok().map(|found| found.is_some())
    }

    /// Memory of the table, in bytes.
    pub(super) fn size(&self) -> usize {
        self.table.memory_usage()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.whole == other.whole
    }
}

impl std::fmt::Debug for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pattern")
            .field("text", &self.text)
            .field("whole", &self.whole)
            .finish_non_exhaustive()
    }
}

/// Several patterns in one table: one pass over a text answers all of them.
pub(super) struct Patterns {
    table: dense::DFA<Vec<u32>>,
}

impl Patterns {
    /// Puts patterns together; `None` when their table would be too large.
    pub(super) fn new(patterns: &[&Pattern]) -> Option<Self> {
        let texts: Vec<String> = patterns
            .iter()
            .map(|pattern| {
                let translated = translate(&pattern.text).ok()?;
                Some(if pattern.whole { format!("\\A(?:{translated})\\z") } else { translated })
            })
            .collect::<Option<_>>()?;
        let config = dense::Config::new()
            .match_kind(MatchKind::All)
            .start_kind(StartKind::Unanchored)
            .dfa_size_limit(Some(MAX_SHARED))
            .determinize_size_limit(Some(4 * MAX_SHARED));
        let nfa = thompson::Config::new()
            .which_captures(WhichCaptures::None)
            .nfa_size_limit(Some(MAX_WORK));
        let table =
            dense::Builder::new().configure(config).thompson(nfa).build_many(&texts).ok()?;
        Some(Self { table })
    }

    /// Which of them match a text, by their numbers. `false`: that cannot be told.
    pub(super) fn matches(&self, text: &[u8], found: &mut Matched) -> bool {
        let count = self.table.pattern_len();
        let set = match &mut found.0 {
            Some(set) if set.capacity() >= count => set,
            other => other.insert(PatternSet::new(count)),
        };
        set.clear();
        self.table.try_which_overlapping_matches(&Input::new(text), set).is_ok()
    }
}

impl std::fmt::Debug for Patterns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Patterns").field("count", &self.table.pattern_len()).finish_non_exhaustive()
    }
}

/// Which patterns matched; reused.
#[derive(Debug, Default)]
pub(super) struct Matched(Option<PatternSet>);

impl Matched {
    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(|set| set.iter().map(|pattern| pattern.as_usize()))
    }
}

/// An I-Regexp in the syntax of the crate regex.
fn translate(text: &str) -> Result<String, PatternError> {
    let mut reader =
        Reader { chars: text.chars().peekable(), out: String::with_capacity(text.len()) };
    reader.branches(0)?;
    match reader.chars.next() {
        None => Ok(reader.out),
        Some(_) => Err(fault("a ) without its (; write [)] for the character")),
    }
}

fn fault(what: impl Into<String>) -> PatternError {
    PatternError::Grammar(what.into())
}

struct Reader<'t> {
    chars: Peekable<Chars<'t>>,
    out: String,
}

impl Reader<'_> {
    fn branches(&mut self, depth: usize) -> Result<(), PatternError> {
        loop {
            while let Some(c) = self.chars.peek().copied().filter(|c| !matches!(c, '|' | ')')) {
                self.chars.next();
                self.atom(c, depth)?;
                self.quantifier()?;
            }
            if self.chars.next_if_eq(&'|').is_none() {
                return Ok(());
            }
            self.out.push('|');
        }
    }

    fn atom(&mut self, c: char, depth: usize) -> Result<(), PatternError> {
        match c {
            '.' => self.out.push_str("[^\\n\\r]"),
            '(' if self.chars.peek() == Some(&'?') => {
                return Err(fault("(? has no meaning in it; write a plain group"));
            }
            '(' if depth >= 32 => return Err(fault("more than 32 groups inside one another")),
            '(' => {
                self.out.push_str("(?:");
                self.branches(depth + 1)?;
                self.chars
                    .next_if_eq(&')')
                    .ok_or_else(|| fault("a ( without its ); write [(] for the character"))?;
                self.out.push(')');
            }
            '[' => self.class()?,
            '\\' => self.escape()?,
            '*' | '+' | '?' => {
                return Err(fault(format!(
                    "{c} has nothing to repeat; write [{c}] for the character"
                )));
            }
            '{' | '}' | ']' => {
                return Err(fault(format!("{c} stands alone; write \\{c} for the character")));
            }
            '^' | '$' => {
                return Err(fault(format!(
                    "{c} is no anchor in it; match() takes the whole text and search() any part: \
                    write match(@.a, 'x.*') for \"begins with x\""
                )));
            }
            c => self.out.push_str(&regex_escape(c)),
        }
        Ok(())
    }

    fn quantifier(&mut self) -> Result<(), PatternError> {
        if let Some(c) = self.chars.next_if(|c| matches!(c, '*' | '+' | '?')) {
            self.out.push(c);
        } else if self.chars.next_if_eq(&'{').is_some() {
            self.range()?;
        } else {
            return Ok(());
        }
        match self.chars.peek() {
            Some('*' | '+' | '?' | '{') => {
                Err(fault("a quantifier follows a quantifier; put the first in a group"))
            }
            _ => Ok(()),
        }
    }

    /// `{2}`, `{2,}` or `{2,4}`, after the brace.
    fn range(&mut self) -> Result<(), PatternError> {
        let malformed =
            || fault("a { without numbers; write {2}, {2,} or {2,4}, or \\{ for the character");
        let least = self.number().ok_or_else(malformed)?;
        let most = match self.chars.next() {
            Some('}') => Some(least),
            Some(',') => {
                let most = self.number();
                self.chars.next_if_eq(&'}').ok_or_else(malformed)?;
                most
            }
            _ => return Err(malformed()),
        };
        if least.max(most.unwrap_or(0)) > MAX_REPEAT || most.is_some_and(|most| most < least) {
            return Err(fault(format!("a quantifier must rise and say at most {MAX_REPEAT}")));
        }
        let most = most.map(|n| n.to_string()).unwrap_or_default();
        self.out.push_str(&format!("{{{least},{most}}}"));
        Ok(())
    }

    fn number(&mut self) -> Option<u32> {
        let mut value = None;
        while let Some(digit) = self.chars.peek().and_then(|c| c.to_digit(10)) {
            self.chars.next();
            value = Some(value.unwrap_or(0_u32).saturating_mul(10).saturating_add(digit));
        }
        value
    }

    /// `[...]`, after the bracket.
    fn class(&mut self) -> Result<(), PatternError> {
        self.out.push('[');
        if self.chars.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let c = self
                .chars
                .next()
                .ok_or_else(|| fault("a [ without its ]; write \\[ for the character"))?;
            match c {
                ']' if first => return Err(fault("an empty class; write \\] for the character")),
                ']' => break,
                '-' if first || self.chars.peek() == Some(&']') => self.out.push_str("\\-"),
                '-' => return Err(fault("a - inside a class; write \\- for the character")),
                '\\' if matches!(self.chars.peek(), Some('p' | 'P')) => self.escape()?,
                c => self.class_range(c)?,
            }
            first = false;
        }
        self.out.push(']');
        Ok(())
    }

    fn class_range(&mut self, c: char) -> Result<(), PatternError> {
        let from = self.class_char(c)?;
        self.out.push_str(&regex_escape(from));
        let mut ahead = self.chars.clone();
        if ahead.next() != Some('-') || matches!(ahead.peek(), Some(']') | None) {
            return Ok(());
        }
        self.chars.next();
        let c = self.chars.next().unwrap_or_default();
        let to = self.class_char(c)?;
        if to < from {
            return Err(fault(format!(
                "the class runs from {from:?} down to {to:?}; turn them round"
            )));
        }
        self.out.push('-');
        self.out.push_str(&regex_escape(to));
        Ok(())
    }

    fn class_char(&mut self, c: char) -> Result<char, PatternError> {
        match c {
            '\\' => self.chars.next().and_then(escaped).ok_or_else(no_escape),
            '[' | '-' => Err(fault(format!("a {c} inside a class; write \\{c} for the character"))),
            c => Ok(c),
        }
    }

    /// An escape, after the backslash.
    fn escape(&mut self) -> Result<(), PatternError> {
        let c = self.chars.next().ok_or_else(no_escape)?;
        if matches!(c, 'p' | 'P') {
            return self.category(c);
        }
        self.out.push_str(&regex_escape(escaped(c).ok_or_else(no_escape)?));
        Ok(())
    }

    /// `\p{Lu}`, after the p.
    fn category(&mut self, p: char) -> Result<(), PatternError> {
        let known = |name: &str| {
            let (major, minor) = name.split_at_checked(1)?;
            let minors = match major {
                "L" => "lmotu",
                "M" => "cen",
                "N" => "dlo",
                "P" => "cdefios",
                "Z" => "lps",
                "S" => "ckmo",
                "C" => "cfno",
                _ => return None,
            };
            (minor.is_empty() || minor.len() == 1 && minors.contains(minor)).then_some(())
        };
        let rest: String = self.chars.clone().take_while(|c| *c != '}').take(4).collect();
        let name = rest.strip_prefix('{').filter(|name| known(name).is_some());
        let name = name.ok_or_else(|| {
            fault("an unknown character category; write for example \\p{L}, \\p{Lu} or \\p{Nd}")
        })?;
        self.out.push_str(&format!("\\{p}{{{name}}}"));
        self.chars.nth(rest.len());
        Ok(())
    }
}

fn no_escape() -> PatternError {
    fault(
        "an escape it does not have; write [0-9] for \\d, [A-Za-z0-9_] for \\w, [ \\t\\r\\n] for \
        \\s",
    )
}

/// The character a `\c` stands for.
fn escaped(c: char) -> Option<char> {
    match c {
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        '(' | ')' | '*' | '+' | '-' | '.' | '?' | '[' | '\\' | ']' | '^' | '{' | '|' | '}' => {
            Some(c)
        }
        _ => None,
    }
}

/// A character that means itself to the crate regex, also inside a class.
fn regex_escape(c: char) -> String {
    if c.is_alphanumeric()
        || !c.is_ascii()
        || matches!(
            c,
            ' ' | '_'
                | ','
                | ':'
                | '/'
                | '@'
                | '%'
                | '='
                | '!'
                | '"'
                | '\''
                | ';'
                | '`'
                | '<'
                | '>'
        )
    {
        c.to_string()
    } else {
        format!("\\x{{{:x}}}", u32::from(c))
    }
}

#[cfg(test)]
mod tests;
