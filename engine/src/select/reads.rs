//! What filters read: reveal must judge them as transform did, on a document whose protected
//! members have changed.

use super::model::{Filter, Operand, Path, Relation, Selector, Step};

/// One path a filter reads, from the root.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) steps: Vec<Step>,
    /// The value is compared, measured or counted; else only whether there is one.
    pub(super) value: bool,
}

/// Appends what `filter` reads; its `@` stands for nodes at `base`.
pub(super) fn filter(filter: &Filter, base: &[Step], out: &mut Vec<Read>) {
    match filter {
        Filter::Or(all) | Filter::And(all) => all.iter().for_each(|f| self::filter(f, base, out)),
        Filter::Not(inner) => self::filter(inner, base, out),
        Filter::Exists(read) => path(read, base, false, out),
        Filter::Compare(left, _, right) => {
            [left, right].into_iter().for_each(|side| operand(side, base, out))
        }
        Filter::Matches(value, _) => operand(value, base, out),
    }
}

fn operand(operand: &Operand, base: &[Step], out: &mut Vec<Read>) {
    match operand {
        Operand::Literal(_) => {}
        Operand::Length(inner) => self::operand(inner, base, out),
        Operand::One(read) | Operand::Count(read) | Operand::Value(read) => {
            path(read, base, true, out)
        }
    }
}

/// A path inside a filter, with the filters in it: their `@` stands further down.
fn path(path: &Path, base: &[Step], value: bool, out: &mut Vec<Read>) {
    let mut steps = if path.absolute { Vec::new() } else { base.to_vec() };
    for step in &path.steps {
        for selector in &step.selectors {
            if let Selector::Filter(inner) = selector {
                steps.push(Step {
                    descendant: step.descendant,
                    selectors: vec![Selector::Wildcard],
                });
                filter(inner, &steps, out);
                steps.pop();
            }
        }
        steps.push(step.clone());
    }
    out.push(Read { steps, value });
}

/// Appends the paths, seen from `@`, whose value every node that passes `filter` was judged by, and
/// whether there is sure to be one.
pub(super) fn decisive<'f>(filter: &'f Filter, out: &mut Vec<(&'f [Step], bool)>) {
    match filter {
        Filter::And(all) => all.iter().for_each(|f| decisive(f, out)),
        // What is not there is unequal to everything.
        Filter::Compare(value, relation, Operand::Literal(_))
        | Filter::Compare(Operand::Literal(_), relation, value)
            if *relation != Relation::Unequal =>
        {
            decisive_operand(value, out);
        }
        Filter::Matches(value, _) => decisive_operand(value, out),
        _ => {}
    }
}

fn decisive_operand<'f>(operand: &'f Operand, out: &mut Vec<(&'f [Step], bool)>) {
    match operand {
        Operand::One(path) if !path.absolute => out.push((&path.steps, true)),
        Operand::Count(path) | Operand::Value(path) if !path.absolute => {
            out.push((&path.steps, false))
        }
        Operand::Length(inner) => decisive_operand(inner, out),
        _ => {}
    }
}
