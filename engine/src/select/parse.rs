//! From text to a path: the grammar is checked, jsonpath-rust parses, and what it found becomes
//! what the engine works on.

use std::sync::Arc;

use jsonpath_rust::parser::model as theirs;
use jsonpath_rust::parser::parse_json_path;

use super::decimal::Number;
use super::error::{MAX_FORKS, MAX_NESTING, MAX_PATH, PathError};
use super::grammar;
use super::model::{Filter, Literal, Operand, Path, Relation, Selector, Step};
use super::pattern::Pattern;
use super::query::Query;

/// Parses a path.
///
/// # Errors
/// [`PathError`].
pub fn parse(text: &str) -> Result<Query, PathError> {
    if text.len() > MAX_PATH {
        return Err(PathError::Long);
    }
    if nesting(text) > MAX_NESTING {
        return Err(PathError::Nested);
    }
    let numbers = grammar::check(text).map_err(|offence| PathError::Grammar {
        column: text[..offence.at].chars().count() + 1,
        offence: offence.message,
    })?;
    let parsed = parse_json_path(text).map_err(|_| PathError::Unread)?;
    let mut lowering = Lowering { numbers: numbers.into_iter() };
    let steps = lowering.steps(&parsed.segments)?;
    if lowering.numbers.next().is_some() {
        return Err(PathError::Misread);
    }
    let forks = steps.iter().try_fold(1_usize, |n, s| n.checked_mul(s.selectors.len().max(1)));
    if forks.is_none_or(|n| n > MAX_FORKS) {
        return Err(PathError::Forks);
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

/// Turns jsonpath-rust's tree into ours. Its numbers are doubles: as they are written they come
/// from the grammar, in the same order.
struct Lowering<'t> {
    numbers: std::vec::IntoIter<&'t str>,
}

impl Lowering<'_> {
    fn steps(&mut self, segments: &[theirs::Segment]) -> Result<Vec<Step>, PathError> {
        segments.iter().map(|segment| self.step(segment)).collect()
    }

    fn step(&mut self, segment: &theirs::Segment) -> Result<Step, PathError> {
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

    fn selector(&mut self, selector: &theirs::Selector) -> Result<Selector, PathError> {
        Ok(match selector {
            theirs::Selector::Name(name) => Selector::Name(name.clone()),
            theirs::Selector::Wildcard => Selector::Wildcard,
            theirs::Selector::Index(index) => Selector::Index(*index),
            theirs::Selector::Slice(start, end, step) => Selector::Slice(*start, *end, *step),
            theirs::Selector::Filter(filter) => Selector::Filter(Arc::new(self.filter(filter)?)),
        })
    }

    fn filter(&mut self, filter: &theirs::Filter) -> Result<Filter, PathError> {
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

    fn filters(&mut self, all: &[theirs::Filter]) -> Result<Vec<Filter>, PathError> {
        all.iter().map(|filter| self.filter(filter)).collect()
    }

    fn comparison(&mut self, comparison: &theirs::Comparison) -> Result<Filter, PathError> {
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

    fn comparable(&mut self, side: &theirs::Comparable) -> Result<Operand, PathError> {
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

    fn literal(&mut self, literal: &theirs::Literal) -> Result<Literal, PathError> {
        Ok(match literal {
            theirs::Literal::Null => Literal::Null,
            theirs::Literal::Bool(b) => Literal::Bool(*b),
            theirs::Literal::String(text) => Literal::String(text.clone()),
            theirs::Literal::Int(int) => Literal::Number(self.number(*int as f64)?),
            theirs::Literal::Float(float) => Literal::Number(self.number(*float)?),
        })
    }

    fn number(&mut self, theirs: f64) -> Result<Number, PathError> {
        let written = self
            .numbers
            .next()
            .filter(|text| text.parse::<f64>().is_ok_and(|ours| ours == theirs))
            .ok_or(PathError::Misread)?;
        Number::new(written).ok_or(PathError::Exponent)
    }

    fn test(&mut self, test: &theirs::Test) -> Result<Filter, PathError> {
        match test {
            theirs::Test::RelQuery(_) | theirs::Test::AbsQuery(_) => {
                Ok(Filter::Exists(self.path(test)?))
            }
            theirs::Test::Function(function) => match &**function {
                theirs::TestFunction::Match(value, pattern) => self.matches(value, pattern, true),
                theirs::TestFunction::Search(value, pattern) => self.matches(value, pattern, false),
                _ => Err(PathError::Misread),
            },
        }
    }

    fn path(&mut self, test: &theirs::Test) -> Result<Path, PathError> {
        match test {
            theirs::Test::RelQuery(segments) => {
                Ok(Path { absolute: false, steps: self.steps(segments)? })
            }
            theirs::Test::AbsQuery(query) => {
                Ok(Path { absolute: true, steps: self.steps(&query.segments)? })
            }
            theirs::Test::Function(_) => Err(PathError::Misread),
        }
    }

    fn matches(
        &mut self,
        value: &theirs::FnArg,
        pattern: &theirs::FnArg,
        whole: bool,
    ) -> Result<Filter, PathError> {
        let value = self.argument(value)?;
        match pattern {
            theirs::FnArg::Literal(theirs::Literal::String(text)) => {
                Ok(Filter::Matches(value, Pattern::new(text, whole)?))
            }
            theirs::FnArg::Literal(_) => Err(PathError::PatternType),
            _ => Err(PathError::PatternOfEvent),
        }
    }

    fn value(&mut self, function: &theirs::TestFunction) -> Result<Operand, PathError> {
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
            _ => Err(PathError::Misread),
        }
    }

    /// An argument that is a value: a constant, one place, or a function of a value.
    fn argument(&mut self, argument: &theirs::FnArg) -> Result<Operand, PathError> {
        match argument {
            theirs::FnArg::Literal(literal) => Ok(Operand::Literal(self.literal(literal)?)),
            theirs::FnArg::Test(test) => match &**test {
                theirs::Test::Function(function) => self.value(function),
                path => {
                    let path = self.path(path)?;
                    if path.is_singular() {
                        Ok(Operand::One(path))
                    } else {
                        Err(PathError::Misread)
                    }
                }
            },
            theirs::FnArg::Filter(_) => Err(PathError::Misread),
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
