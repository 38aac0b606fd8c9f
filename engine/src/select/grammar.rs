//! The grammar of RFC 9535, to the letter. jsonpath-rust parses more: white space inside names,
//! operators and functions of other dialects. A path it understands otherwise than its author
//! selects nothing, and the value passes in clear. So this is asked first, and says where the fault
//! is.

use super::dialect;
use crate::scan::Tape;

/// Largest integer of an index or slice (RFC 9535 section 2.1: I-JSON).
const MAX_INT: i64 = (1 << 53) - 1;

/// Where a text leaves the grammar.
#[derive(Debug)]
pub(super) struct Offence {
    /// Byte offset.
    pub(super) at: usize,
    /// What is wrong and what to write instead.
    pub(super) message: String,
}

/// Checks a path.
///
/// # Errors
/// The first [`Offence`]. Otherwise the number literals of its filters, in order, as they are
/// written.
pub(super) fn check(text: &str) -> Result<Vec<&str>, Offence> {
    let mut reader = Reader { text, at: 0, numbers: Vec::new() };
    if !reader.eat('$') {
        return Err(reader.offence(dialect::no_root(text)));
    }
    reader.segments()?;
    if reader.at < text.len() {
        let message = dialect::after_segment(text, reader.at);
        return Err(reader.offence(message));
    }
    Ok(reader.numbers)
}

type Checked<T> = Result<T, Offence>;
/// Whether an argument may be of a type.
type Fits = fn(Type) -> bool;

/// What an expression yields (RFC 9535 section 2.4.1).
#[derive(Debug, Clone, Copy, PartialEq)]
enum Type {
    /// A value: a literal, `length`, `count`, `value`.
    Value,
    /// True or false: `match`, `search`.
    Logical,
    /// A path that selects at most one node.
    One,
    /// A path.
    Many,
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    numbers: Vec<&'t str>,
}

impl<'t> Reader<'t> {
    fn offence(&self, message: impl Into<String>) -> Offence {
        Offence { at: self.at, message: message.into() }
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn eat(&mut self, c: char) -> bool {
        let eaten = self.peek() == Some(c);
        self.at += if eaten { c.len_utf8() } else { 0 };
        eaten
    }

    fn eat_text(&mut self, text: &str) -> bool {
        let eaten = self.rest().starts_with(text);
        self.at += if eaten { text.len() } else { 0 };
        eaten
    }

    /// White space as JSON has it.
    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    /// Segments; whether they are names and indexes only.
    fn segments(&mut self) -> Checked<Type> {
        let mut one = true;
        loop {
            let before = self.at;
            self.space();
            if self.eat_text("..") {
                one = false;
                if self.eat('[') {
                    self.bracketed()?;
                } else if !self.eat('*') {
                    self.shorthand()?;
                }
            } else if self.eat('.') {
                if self.eat('*') {
                    one = false;
                } else {
                    self.shorthand()?;
                }
            } else if self.eat('[') {
                one &= self.bracketed()?;
            } else {
                self.at = before;
                return Ok(if one { Type::One } else { Type::Many });
            }
        }
    }

    /// A name after a dot.
    fn shorthand(&mut self) -> Checked<()> {
        let start = self.at;
        let first = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
        let end = self
            .rest()
            .find(|c: char| !first(c) && !c.is_ascii_digit())
            .map_or(self.text.len(), |n| start + n);
        let name = &self.text[start..end];
        if !name.starts_with(first) {
            return Err(self.offence(dialect::no_name(self.text, start)));
        }
        // RFC 9535 takes white space of other scripts into a name; no reader sees it there.
        if let Some((at, _)) =
            name.char_indices().find(|(_, c)| c.is_whitespace() || c.is_control())
        {
            self.at += at;
            return Err(self.offence(dialect::after_segment(self.text, self.at)));
        }
        self.at = end;
        Ok(())
    }

    /// Selectors, after the bracket; whether it is one name or index.
    fn bracketed(&mut self) -> Checked<bool> {
        let (mut one, mut count) = (true, 0);
        loop {
            self.space();
            let filter = self.peek() == Some('?');
            one &= self.selector()?;
            count += 1;
            self.space();
            if self.eat(']') {
                return Ok(one && count == 1);
            }
            if !self.eat(',') {
                return Err(self.offence(dialect::in_brackets(self.text, self.at, filter)));
            }
        }
    }

    /// One selector; whether it is a name or index.
    fn selector(&mut self) -> Checked<bool> {
        match self.peek() {
            Some('\'' | '"') => self.string().map(|()| true),
            Some('*') => {
                self.at += 1;
                Ok(false)
            }
            Some('?') => {
                self.at += 1;
                self.space();
                self.or()?;
                Ok(false)
            }
            Some('-' | '0'..='9' | ':') => self.index_or_slice(),
            _ => Err(self.offence(dialect::no_selector(self.text, self.at))),
        }
    }

    fn index_or_slice(&mut self) -> Checked<bool> {
        let index = self.optional_int()?;
        let after_index = self.at;
        self.space();
        if !self.eat(':') {
            self.at = after_index;
            return Ok(index);
        }
        self.space();
        if self.optional_int()? {
            self.space();
        }
        if self.eat(':') {
            self.space();
            self.optional_int()?;
        }
        Ok(false)
    }

    /// An integer, if one is here.
    fn optional_int(&mut self) -> Checked<bool> {
        let digits = self.rest().strip_prefix('-').unwrap_or(self.rest());
        let negative = self.rest().len() - digits.len();
        let length = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        if length == 0 && negative == 0 {
            return Ok(false);
        }
        let (digits, text) = (&digits[..length], &self.rest()[..negative + length]);
        let canonical =
            !digits.is_empty() && !(digits.starts_with('0') && (length > 1 || negative > 0));
        if !canonical || !text.parse::<i64>().is_ok_and(|n| n.abs() <= MAX_INT) {
            return Err(self.offence(format!(
                "is no index: write a whole number without leading \
                zeros, from -{MAX_INT} to {MAX_INT}"
            )));
        }
        self.at += text.len();
        Ok(true)
    }

    fn string(&mut self) -> Checked<()> {
        let quote = self.peek().unwrap_or_default();
        let start = self.at;
        self.at += 1;
        loop {
            let Some(c) = self.peek() else {
                self.at = start;
                return Err(self.offence(format!("has a string without its end; add {quote}")));
            };
            match c {
                c if c == quote => {
                    self.at += 1;
                    return Ok(());
                }
                '\\' => self.escape(quote)?,
                c if c < ' ' => {
                    return Err(self.offence(
                        "has a control character in a string; write it as \\n, \\t or \\u00XX",
                    ));
                }
                c => self.at += c.len_utf8(),
            }
        }
    }

    fn escape(&mut self, quote: char) -> Checked<()> {
        let hex = |at: usize| {
            self.text
                .get(at..at + 4)
                .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|hex| u32::from_str_radix(hex, 16).ok())
        };
        let length = match self.rest()[1..].chars().next() {
            Some('b' | 'f' | 'n' | 'r' | 't' | '/' | '\\') => 2,
            Some(c) if c == quote => 2,
            Some('u') => match hex(self.at + 2) {
                Some(0xd800..0xdc00)
                    if self.rest()[6..].starts_with("\\u")
                        && matches!(hex(self.at + 8), Some(0xdc00..0xe000)) =>
                {
                    12
                }
                Some(0xd800..0xe000) | None => 0,
                Some(_) => 6,
            },
            _ => 0,
        };
        if length == 0 {
            return Err(self.offence(
                "has an escape that strings do not have; write \\\\ for a \
                backslash, \\uXXXX for a character",
            ));
        }
        self.at += length;
        Ok(())
    }

    fn or(&mut self) -> Checked<()> {
        loop {
            self.and()?;
            self.space();
            if !self.eat_text("||") {
                return Ok(());
            }
            self.space();
        }
    }

    fn and(&mut self) -> Checked<()> {
        loop {
            self.basic()?;
            let before = self.at;
            self.space();
            if !self.eat_text("&&") {
                self.at = before;
                return Ok(());
            }
            self.space();
        }
    }

    /// A comparison, a test, or an expression in parentheses.
    fn basic(&mut self) -> Checked<()> {
        let not = self.eat('!');
        if not {
            self.space();
        }
        if self.eat('(') {
            self.space();
            self.or()?;
            self.space();
            return if self.eat(')') {
                Ok(())
            } else {
                Err(self.offence(dialect::in_filter(self.text, self.at)))
            };
        }
        let start = self.at;
        let (left, literal) = self.operand()?;
        let before = self.at;
        self.space();
        if not || !self.relation() {
            let after = self.at;
            self.at = start;
            return match left {
                _ if not && starts_with_relation(&self.text[after..]) => {
                    Err(self.offence("has a ! before a comparison; write != or !(...)"))
                }
                Type::Logical | Type::One | Type::Many if !literal => {
                    self.at = before;
                    dialect::unknown_operator(self.text, after)
                        .map_or(Ok(()), |message| Err(Offence { at: after, message }))
                }
                _ => Err(Offence { at: after, message: dialect::no_comparison(self.text, after) }),
            };
        }
        self.comparable(start, left)?;
        self.space();
        let start = self.at;
        let (right, _) = self.operand()?;
        self.comparable(start, right)
    }

    fn comparable(&self, at: usize, found: Type) -> Checked<()> {
        let message = match found {
            Type::Value | Type::One => return Ok(()),
            Type::Logical => {
                "compares match() or search(), which is true or false already; write it alone, or \
                ! before it"
            }
            Type::Many => {
                "compares a path that may select several nodes; name one place, or write \
                value(...) or count(...)"
            }
        };
        Err(Offence { at, message: message.to_owned() })
    }

    fn relation(&mut self) -> bool {
        ["==", "!=", "<=", ">=", "<", ">"].iter().any(|relation| self.eat_text(relation))
    }

    /// A literal, a path or a function; whether it is a literal.
    fn operand(&mut self) -> Checked<(Type, bool)> {
        match self.peek() {
            Some('\'' | '"') => self.string().map(|()| (Type::Value, true)),
            Some('-' | '0'..='9') => self.number().map(|()| (Type::Value, true)),
            Some('@' | '$') => {
                self.at += 1;
                self.segments().map(|found| (found, false))
            }
            Some('a'..='z') => {
                let word = self.word();
                let after = self.at + word.len();
                if self.text[after..].starts_with('(') {
                    return self.function(word).map(|found| (found, false));
                }
                if !matches!(word, "true" | "false" | "null") {
                    return Err(self.offence(dialect::no_operand(self.text, self.at)));
                }
                self.at = after;
                Ok((Type::Value, true))
            }
            _ => Err(self.offence(dialect::no_operand(self.text, self.at))),
        }
    }

    fn word(&self) -> &'t str {
        let rest = self.rest();
        &rest[..rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len())]
    }

    fn number(&mut self) -> Checked<()> {
        let rest = self.rest();
        let length = rest
            .find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'))
            .unwrap_or(rest.len());
        let number = &rest[..length];
        // What JSON calls a number, RFC 9535 does as well.
        let mut tape = Tape::default();
        if tape.scan(number.as_bytes()).is_err() {
            return Err(
                self.offence("has a number that JSON does not have; write it like 12, -0.5 or 1e3")
            );
        }
        self.numbers.push(number);
        self.at += length;
        Ok(())
    }

    /// A function, from its name on (RFC 9535 section 2.4.3: arguments must be of its types).
    fn function(&mut self, name: &str) -> Checked<Type> {
        let (parameters, result): (&[Fits], Type) = match name {
            "length" => (&[is_value], Type::Value),
            "count" | "value" => (&[is_path], Type::Value),
            "match" | "search" => (&[is_value, is_value], Type::Logical),
            _ => return Err(self.offence(dialect::unknown_function(name))),
        };
        self.at += name.len() + 1;
        for (i, fits) in parameters.iter().enumerate() {
            self.space();
            if i > 0 && !self.eat(',') {
                return Err(self.offence(dialect::usage(name)));
            }
            self.space();
            let start = self.at;
            let (found, literal) = self.operand()?;
            if !fits(found) || (literal && !is_value(found)) {
                self.at = start;
                return Err(self.offence(dialect::usage(name)));
            }
        }
        self.space();
        if self.eat(')') { Ok(result) } else { Err(self.offence(dialect::usage(name))) }
    }
}

fn is_value(found: Type) -> bool {
    matches!(found, Type::Value | Type::One)
}

fn is_path(found: Type) -> bool {
    matches!(found, Type::One | Type::Many)
}

fn starts_with_relation(text: &str) -> bool {
    text.starts_with("==") || text.starts_with("!=") || text.starts_with(['<', '>'])
}
