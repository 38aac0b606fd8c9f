//! From text to a path: the grammar is checked, jsonpath-rust parses, and what it found becomes
//! what the engine works on.

use std::sync::Arc;

use jsonpath_rust::parser::model as theirs;
use jsonpath_rust::parser::parse_json_path;

use super::decimal::Number;
use super::grammar;
use super::model::{Filter, Literal, Operand, Path, Relation, Selector, Step};
use super::pattern::Pattern;
use super::query::Query;

/// Longest path text, in bytes.
const MAX_PATH: usize = 1024;
/// Most brackets and parentheses open at once: jsonpath-rust's parser tries every level in several
/// ways, so that twenty take minutes.
const MAX_NESTING: usize = 10;
/// Most ways through the unions of one path.
const MAX_FORKS: usize = 256;

/// Parses a path.
///
/// # Errors
/// What is wrong with it, in which column (counted in characters, from 1), and what to write
/// instead, for a person.
pub fn parse(text: &str) -> Result<Query, String> {
    if text.len() > MAX_PATH {
        return Err(format!("is longer than {MAX_PATH} bytes; shorten it"));
    }
    if nesting(text) > MAX_NESTING {
        return Err(format!(
            "has more than {MAX_NESTING} brackets and parentheses inside one another; write a \
            flatter filter"
        ));
    }
    let numbers = grammar::check(text).map_err(|offence| {
        let column = text[..offence.at].chars().count() + 1;
        format!("is not a JSONPath (RFC 9535): in column {column} it {}", offence.message)
    })?;
    let parsed = parse_json_path(text).map_err(|_| {
        "cannot be read; write integers up to 9007199254740991, larger ones like 1e19".to_owned()
    })?;
    let mut lowering = Lowering { numbers: numbers.into_iter() };
    let steps = lowering.steps(&parsed.segments)?;
    if lowering.numbers.next().is_some() {
        return Err(misread());
    }
    let forks = steps.iter().try_fold(1_usize, |n, s| n.checked_mul(s.selectors.len().max(1)));
    if forks.is_none_or(|n| n > MAX_FORKS) {
        return Err(format!(
            "has more than {MAX_FORKS} ways through its unions; write several fields"
        ));
    }
    Ok(Query::new(steps))
}

/// The most brackets and parentheses that are open at once, outside of strings.
fn nesting(text: &str) -> usize {
    let (mut open, mut most, mut quote, mut escaped) = (0_usize, 0, None, false);
    for b in text.bytes() {
        match (quote, b) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(end), _) if b == end => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(b),
            (None, b'[' | b'(') => {
                open += 1;
                most = most.max(open);
            }
            (None, b']' | b')') => open = open.saturating_sub(1),
            (None, _) => {}
        }
    }
    most
}

/// The two readers of a path disagree. That is a fault of this program, but the document is refused
/// all the same.
fn misread() -> String {
    "cannot be read for certain; write it in another way".to_owned()
}

/// Turns jsonpath-rust's tree into ours. Its numbers are doubles: as they are written they come
/// from the grammar, in the same order.
struct Lowering<'t> {
    numbers: std::vec::IntoIter<&'t str>,
}

impl Lowering<'_> {
    fn steps(&mut self, segments: &[theirs::Segment]) -> Result<Vec<Step>, String> {
        segments.iter().map(|segment| self.step(segment)).collect()
    }

    fn step(&mut self, segment: &theirs::Segment) -> Result<Step, String> {
        Ok(match segment {
            theirs::Segment::Descendant(inner) => Step { descendant: true, ..self.step(inner)? },
            theirs::Segment::Selector(selector) => {
                Step { descendant: false, selectors: vec![self.selector(selector)?] }
            }
            theirs::Segment::Selectors(selectors) => Step {
                descendant: false,
                selectors: selectors.iter().map(|s| self.selector(s)).collect::<Result<_, _>>()?,
            },
        })
    }

    fn selector(&mut self, selector: &theirs::Selector) -> Result<Selector, String> {
        Ok(match selector {
            theirs::Selector::Name(name) => Selector::Name(name.clone()),
            theirs::Selector::Wildcard => Selector::Wildcard,
            theirs::Selector::Index(index) => Selector::Index(*index),
            theirs::Selector::Slice(start, end, step) => Selector::Slice(*start, *end, *step),
            theirs::Selector::Filter(filter) => Selector::Filter(Arc::new(self.filter(filter)?)),
        })
    }

    fn filter(&mut self, filter: &theirs::Filter) -> Result<Filter, String> {
        Ok(match filter {
            theirs::Filter::Or(all) => Filter::Or(self.filters(all)?),
            theirs::Filter::And(all) => Filter::And(self.filters(all)?),
            theirs::Filter::Atom(theirs::FilterAtom::Filter { expr, not }) => {
                negated(self.filter(expr)?, *not)
            }
            theirs::Filter::Atom(theirs::FilterAtom::Test { expr, not }) => {
                negated(self.test(expr)?, *not)
            }
            theirs::Filter::Atom(theirs::FilterAtom::Comparison(comparison)) => {
                self.comparison(comparison)?
            }
        })
    }

    fn filters(&mut self, all: &[theirs::Filter]) -> Result<Vec<Filter>, String> {
        all.iter().map(|filter| self.filter(filter)).collect()
    }

    fn comparison(&mut self, comparison: &theirs::Comparison) -> Result<Filter, String> {
        let relation = match comparison {
            theirs::Comparison::Eq(..) => Relation::Equal,
            theirs::Comparison::Ne(..) => Relation::Unequal,
            theirs::Comparison::Lt(..) => Relation::Less,
            theirs::Comparison::Lte(..) => Relation::AtMost,
            theirs::Comparison::Gt(..) => Relation::Greater,
            theirs::Comparison::Gte(..) => Relation::AtLeast,
        };
        let (left, right) = comparison.vals();
        Ok(Filter::Compare(self.comparable(left)?, relation, self.comparable(right)?))
    }

    fn comparable(&mut self, side: &theirs::Comparable) -> Result<Operand, String> {
        Ok(match side {
            theirs::Comparable::Literal(literal) => Operand::Literal(self.literal(literal)?),
            theirs::Comparable::Function(function) => self.value(function)?,
            theirs::Comparable::SingularQuery(theirs::SingularQuery::Current(segments)) => {
                Operand::One(singular(false, segments))
            }
            theirs::Comparable::SingularQuery(theirs::SingularQuery::Root(segments)) => {
                Operand::One(singular(true, segments))
            }
        })
    }

    fn literal(&mut self, literal: &theirs::Literal) -> Result<Literal, String> {
        Ok(match literal {
            theirs::Literal::Null => Literal::Null,
            theirs::Literal::Bool(b) => Literal::Bool(*b),
            theirs::Literal::String(text) => Literal::String(text.clone()),
            theirs::Literal::Int(int) => Literal::Number(self.number(*int as f64)?),
            theirs::Literal::Float(float) => Literal::Number(self.number(*float)?),
        })
    }

    fn number(&mut self, theirs: f64) -> Result<Number, String> {
        let written = self
            .numbers
            .next()
            .filter(|text| text.parse::<f64>().is_ok_and(|ours| ours == theirs))
            .ok_or_else(misread)?;
        Number::new(written).ok_or_else(|| {
            "has a number whose exponent has more than 18 digits; write a smaller one".to_owned()
        })
    }

    fn test(&mut self, test: &theirs::Test) -> Result<Filter, String> {
        match test {
            theirs::Test::RelQuery(_) | theirs::Test::AbsQuery(_) => {
                Ok(Filter::Exists(self.path(test)?))
            }
            theirs::Test::Function(function) => match &**function {
                theirs::TestFunction::Match(value, pattern) => self.matches(value, pattern, true),
                theirs::TestFunction::Search(value, pattern) => self.matches(value, pattern, false),
                _ => Err(misread()),
            },
        }
    }

    fn path(&mut self, test: &theirs::Test) -> Result<Path, String> {
        match test {
            theirs::Test::RelQuery(segments) => {
                Ok(Path { absolute: false, steps: self.steps(segments)? })
            }
            theirs::Test::AbsQuery(query) => {
                Ok(Path { absolute: true, steps: self.steps(&query.segments)? })
            }
            theirs::Test::Function(_) => Err(misread()),
        }
    }

    fn matches(
        &mut self,
        value: &theirs::FnArg,
        pattern: &theirs::FnArg,
        whole: bool,
    ) -> Result<Filter, String> {
        let value = self.argument(value)?;
        match pattern {
            theirs::FnArg::Literal(theirs::Literal::String(text)) => {
                Ok(Filter::Matches(value, Pattern::new(text, whole)?))
            }
            theirs::FnArg::Literal(_) => {
                Err("has a pattern that is no string; write it in quotes".to_owned())
            }
            _ => Err("takes a pattern from the event; write the pattern as a string".to_owned()),
        }
    }

    fn value(&mut self, function: &theirs::TestFunction) -> Result<Operand, String> {
        match function {
            theirs::TestFunction::Length(argument) => {
                Ok(Operand::Length(Box::new(self.argument(argument)?)))
            }
            theirs::TestFunction::Count(theirs::FnArg::Test(path)) => {
                Ok(Operand::Count(self.path(path)?))
            }
            theirs::TestFunction::Value(theirs::FnArg::Test(path)) => {
                Ok(Operand::Value(self.path(path)?))
            }
            _ => Err(misread()),
        }
    }

    /// An argument that is a value: a constant, one place, or a function of a value.
    fn argument(&mut self, argument: &theirs::FnArg) -> Result<Operand, String> {
        match argument {
            theirs::FnArg::Literal(literal) => Ok(Operand::Literal(self.literal(literal)?)),
            theirs::FnArg::Test(test) => match &**test {
                theirs::Test::Function(function) => self.value(function),
                path => {
                    let path = self.path(path)?;
                    if path.is_singular() { Ok(Operand::One(path)) } else { Err(misread()) }
                }
            },
            theirs::FnArg::Filter(_) => Err(misread()),
        }
    }
}

fn negated(filter: Filter, not: bool) -> Filter {
    if not { Filter::Not(Box::new(filter)) } else { filter }
}

fn singular(absolute: bool, segments: &[theirs::SingularQuerySegment]) -> Path {
    let selector = |segment: &theirs::SingularQuerySegment| match segment {
        theirs::SingularQuerySegment::Index(index) => Selector::Index(*index),
        theirs::SingularQuerySegment::Name(name) => Selector::Name(name.clone()),
    };
    Path {
        absolute,
        steps: segments
            .iter()
            .map(|s| Step { descendant: false, selectors: vec![selector(s)] })
            .collect(),
    }
}
