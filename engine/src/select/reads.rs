//! What filters read: reveal must judge them as transform did, on a document whose protected members have changed.

use jsonpath_rust::parser::model::{
    Comparable, Comparison, Filter, FilterAtom, FnArg, Segment, Selector, SingularQuery, SingularQuerySegment, Test, TestFunction,
};

use super::query::{Step, step};

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
        Filter::Atom(FilterAtom::Filter { expr, .. }) => self::filter(expr, base, out),
        Filter::Atom(FilterAtom::Test { expr, .. }) => test(expr, base, false, out),
        Filter::Atom(FilterAtom::Comparison(comparison)) => sides(comparison, base, out),
    }
}

fn sides(comparison: &Comparison, base: &[Step], out: &mut Vec<Read>) {
    let (left, right) = comparison.vals();
    for side in [left, right] {
        let steps = match side {
            Comparable::Literal(_) => continue,
            Comparable::Function(f) => {
                function(f, base, out);
                continue;
            }
            Comparable::SingularQuery(SingularQuery::Current(segments)) => [base, &singular(segments)].concat(),
            Comparable::SingularQuery(SingularQuery::Root(segments)) => singular(segments),
        };
        out.push(Read { steps, value: true });
    }
}

fn test(test: &Test, base: &[Step], value: bool, out: &mut Vec<Read>) {
    match test {
        Test::RelQuery(segments) => path(segments, base, value, out),
        Test::AbsQuery(query) => path(&query.segments, &[], value, out),
        Test::Function(f) => function(f, base, out),
    }
}

fn function(function: &TestFunction, base: &[Step], out: &mut Vec<Read>) {
    let mut argument = |arg: &FnArg| match arg {
        FnArg::Literal(_) => {}
        FnArg::Test(t) => test(t, base, true, out),
        FnArg::Filter(f) => filter(f, base, out),
    };
    match function {
        TestFunction::Custom(_, args) => args.iter().for_each(argument),
        TestFunction::Length(arg) => argument(arg),
        TestFunction::Value(arg) | TestFunction::Count(arg) => argument(arg),
        TestFunction::Search(a, b) | TestFunction::Match(a, b) => {
            argument(a);
            argument(b);
        }
    }
}

/// A path inside a filter, with the filters in it: their `@` stands further down.
fn path(segments: &[Segment], base: &[Step], value: bool, out: &mut Vec<Read>) {
    let mut steps = base.to_vec();
    for segment in segments {
        let step = step(segment);
        for selector in &step.selectors {
            if let Selector::Filter(inner) = selector {
                steps.push(Step { descendant: step.descendant, selectors: vec![Selector::Wildcard] });
                filter(inner, &steps, out);
                steps.pop();
            }
        }
        steps.push(step);
    }
    out.push(Read { steps, value });
}

fn singular(segments: &[SingularQuerySegment]) -> Vec<Step> {
    let selector = |s: &SingularQuerySegment| match s {
        SingularQuerySegment::Index(i) => Selector::Index(*i),
        SingularQuerySegment::Name(n) => Selector::Name(n.clone()),
    };
    segments.iter().map(|s| Step { descendant: false, selectors: vec![selector(s)] }).collect()
}
