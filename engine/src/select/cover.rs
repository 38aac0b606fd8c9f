//! Whether one path lies on the way of another, before any document is seen.

use super::model::{Filter, Literal, Operand, Selector, Step};

/// Whether `field`'s steps may match a prefix of `read`'s (a proper one when `strict`).
pub(super) fn covers(read: &[Step], field: &[Step], strict: bool) -> bool {
    may_meet(read, field, |left| !strict || left > 0)
}

fn may_meet(read: &[Step], field: &[Step], done: impl Fn(usize) -> bool) -> bool {
    // Nearly all paths of a document part at their first names.
    if read
        .iter()
        .zip(field)
        .map_while(|(r, f)| sole_name(r).zip(sole_name(f)))
        .any(|(r, f)| r != f)
    {
        return false;
    }
    match_steps(read, field, done, |r, f, after| {
        let here = r.selectors.iter().any(|a| f.selectors.iter().any(|b| may_match(a, b)));
        (here && after.both) || (f.descendant && after.read) || (r.descendant && after.path)
    })
}

/// Whether `read` may select the node at `place`.
pub(super) fn selects(read: &[Step], place: &[Step]) -> bool {
    may_meet(read, place, |left| left == 0)
}

/// Whether `read` may select the node at `place`, or an element of it.
pub(super) fn sees(read: &[Step], place: &[Step]) -> bool {
    may_meet(read, place, |left| left <= 1)
}

/// Whether `path` selects a node on the way to whatever `read` selects. Says no when in doubt.
pub(super) fn always_covers(read: &[Step], path: &[Step]) -> bool {
    match_steps(
        read,
        path,
        |_| true,
        |r, p, after| {
            let here = r
                .selectors
                .iter()
                .all(|a| p.selectors.iter().any(|b| *b == Selector::Wildcard || a == b));
            match (p.descendant, r.descendant) {
                // It may also end further down: then this step of the read is passed as a whole.
                (true, _) => (here && after.both) || after.read,
                (false, false) => here && after.both,
                // The read may end at this child, or anywhere below it.
                (false, true) => {
                    p.selectors.contains(&Selector::Wildcard) && after.both && after.path
                }
            }
        },
    )
}

/// Answers for what is left after a step.
struct After {
    /// Of both.
    both: bool,
    /// Of the read alone.
    read: bool,
    /// Of the path alone.
    path: bool,
}

/// Matches two paths step by step, from their ends: each pair of steps is looked at once, however
/// many `..` there are. `done` says what it means that `path` is used up and how many steps of
/// `read` are left; a path that is left over when `read` ends does not match.
fn match_steps(
    read: &[Step],
    path: &[Step],
    done: impl Fn(usize) -> bool,
    step: impl Fn(&Step, &Step, After) -> bool,
) -> bool {
    // Answers for the read from the step after this one on, by how much of the path is used up.
    let mut below = vec![false; path.len() + 1];
    below[path.len()] = done(0);
    for (i, r) in read.iter().enumerate().rev() {
        let mut here = vec![false; path.len() + 1];
        here[path.len()] = done(read.len() - i);
        for (j, p) in path.iter().enumerate().rev() {
            here[j] = step(r, p, After { both: below[j + 1], read: below[j], path: here[j + 1] });
        }
        below = here;
    }
    below[0]
}

/// Whether two selectors may select the same child. Says yes when in doubt.
fn may_match(a: &Selector, b: &Selector) -> bool {
    match (a, b) {
        (Selector::Name(a), Selector::Name(b)) => a == b,
        (Selector::Name(_), Selector::Index(_) | Selector::Slice(..))
        | (Selector::Index(_) | Selector::Slice(..), Selector::Name(_)) => false,
        (Selector::Index(a), Selector::Index(b)) => a == b || (*a < 0) != (*b < 0),
        (Selector::Filter(a), Selector::Filter(b)) => !disjoint(a, b),
        _ => true,
    }
}

/// Whether no node passes both: one member would have to equal two constants, or a constant that a
/// pattern does not match.
fn disjoint(a: &Filter, b: &Filter) -> bool {
    match (a, b) {
        (Filter::Or(all), other) | (other, Filter::Or(all)) => {
            all.iter().all(|one| disjoint(one, other))
        }
        _ => {
            let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
            a.equalities(&mut of_a);
            b.equalities(&mut of_b);
            let two = of_a.iter().any(|(value, constant)| {
                of_b.iter().any(|(other, another)| value == other && constant != another)
            });
            two || unmatched(&of_a, b) || unmatched(&of_b, a)
        }
    }
}

/// Whether the filter asks a pattern of what equals a constant it does not match.
fn unmatched(equal: &[(&Operand, &Literal)], filter: &Filter) -> bool {
    match filter {
        Filter::And(all) => all.iter().any(|one| unmatched(equal, one)),
        Filter::Matches(value, pattern) => equal.iter().any(|(other, constant)| {
            *other == value
                && match constant {
                    Literal::String(text) => pattern.matches(text.as_bytes()) == Some(false),
                    _ => true,
                }
        }),
        _ => false,
    }
}

fn sole_name(step: &Step) -> Option<&str> {
    match &step.selectors[..] {
        [Selector::Name(name)] if !step.descendant => Some(name),
        _ => None,
    }
}
