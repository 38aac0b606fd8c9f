//! What a policy names must exist: a misspelt tag in a `forbid` forbids nothing.

use std::collections::BTreeSet;
use std::sync::Arc;

use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, PatternElem, Var};
use cedar_policy::{EntityUid, Policy};

use super::vocabulary::{Action, CREDENTIALS};

/// The names there are.
pub(super) struct Names<'n> {
    /// Ids of fields.
    pub(super) fields: BTreeSet<&'n str>,
    /// Names of schemas.
    pub(super) schemas: BTreeSet<&'n str>,
    /// Tags that some field has.
    pub(super) tags: BTreeSet<&'n str>,
    /// Configured purposes.
    pub(super) purposes: BTreeSet<&'n str>,
}

/// A name that does not exist, or a comparison that cannot be checked.
pub(super) struct UnknownName {
    /// The literal to look for in the policy's text.
    pub(super) literal: UnknownLiteral,
    /// What is wrong and what to write instead.
    pub(super) message: String,
}

/// A literal as it stands in a policy.
pub(super) enum UnknownLiteral {
    /// `kind::"id"`
    Entity(String, String),
    /// `"text"`
    Text(String),
    /// None: the policy as a whole.
    Policy,
}

impl Names<'_> {
    /// The names of a policy that do not exist.
    pub(super) fn unknown(&self, policy: &Policy) -> Vec<UnknownName> {
        let literals: BTreeSet<EntityUid> = policy.entity_literals().into_iter().collect();
        let mut unknown: Vec<UnknownName> =
            literals.iter().filter_map(|uid| self.unknown_entity(uid)).collect();
        let Ok(tree) = policy.to_pst() else {
            unknown.push(whole("cannot be read again; write it in Cedar's plain syntax"));
            return unknown;
        };
        for clause in tree.body().clauses() {
            let (Clause::When(expr) | Clause::Unless(expr)) = clause;
            self.in_expression(expr, &mut unknown);
        }
        unknown
    }

    fn unknown_entity(&self, uid: &EntityUid) -> Option<UnknownName> {
        let (kind, id) = (uid.type_name().to_string(), uid.id().unescaped());
        let actions = Action::ALL.into_iter().map(Action::name).collect();
        let (known, what, whose) = match kind.as_str() {
            "Action" => (&actions, "action", "which does not exist"),
            "Field" => (&self.fields, "field", "which no schema document has"),
            "Schema" => (&self.schemas, "schema", "which is no schema document"),
            "Tag" => (&self.tags, "tag", "which no field has"),
            _ => return None,
        };
        if known.contains(id) {
            return None;
        }
        let message = format!("names the {what} \"{id}\", {whose}; {}", instead(id, known));
        Some(UnknownName { literal: UnknownLiteral::Entity(kind, id.to_owned()), message })
    }

    /// The values of a member of the context that has a closed list of them.
    fn closed(&self, attribute: &str) -> Option<(&'static str, BTreeSet<&str>)> {
        match attribute {
            "purpose" => Some(("purpose", self.purposes.clone())),
            "auth" => Some(("kind of credential", CREDENTIALS.into_iter().collect())),
            _ => None,
        }
    }

    fn in_expression(&self, expr: &Arc<Expr>, unknown: &mut Vec<UnknownName>) {
        if let Some(operands) = compared(expr) {
            let mut parts = Parts::default();
            operands.iter().for_each(|operand| parts.collect(operand));
            for (what, known) in parts.attributes.iter().filter_map(|name| self.closed(name)) {
                unknown.extend(
                    parts.texts.iter().filter(|text| !known.contains(text.as_str())).map(|text| {
                        UnknownName {
                            literal: UnknownLiteral::Text(text.clone()),
                            message: format!(
                                "names the {what} \"{text}\", which does not exist; {}",
                                instead(text, &known)
                            ),
                        }
                    }),
                );
                if let Expr::Like { pattern, .. } = &**expr
                    && !known.iter().any(|value| like(pattern, value))
                {
                    let all: Vec<&str> = known.iter().copied().collect();
                    unknown.push(whole(&format!(
                        "has a pattern that no {what} matches; there are {}",
                        all.join(", ")
                    )));
                }
            }
        }
        if matches!(&**expr, Expr::Var(Var::Context)) {
            unknown.push(whole("compares the whole context; name one of its members"));
        }
        children(expr).into_iter().for_each(|child| self.in_expression(child, unknown));
    }
}

/// What stands on the two sides of one comparison, other comparisons inside left out.
#[derive(Default)]
struct Parts {
    attributes: BTreeSet<String>,
    texts: BTreeSet<String>,
}

impl Parts {
    fn collect(&mut self, expr: &Arc<Expr>) {
        match &**expr {
            Expr::GetAttr { expr, attr } if matches!(&**expr, Expr::Var(Var::Context)) => {
                self.attributes.insert(attr.to_string());
            }
            Expr::Literal(Literal::String(text)) => {
                self.texts.insert(text.to_string());
            }
            _ if compared(expr).is_some() => {}
            _ => children(expr).into_iter().for_each(|child| self.collect(child)),
        }
    }
}

/// The operands of a comparison of texts or of sets of them.
fn compared(expr: &Expr) -> Option<Vec<&Arc<Expr>>> {
    match expr {
        Expr::BinaryOp {
            op:
                BinaryOp::Eq
                | BinaryOp::NotEq
                | BinaryOp::Contains
                | BinaryOp::ContainsAll
                | BinaryOp::ContainsAny,
            left,
            right,
        } => Some(vec![left, right]),
        Expr::Like { expr, .. } => Some(vec![expr]),
        _ => None,
    }
}

/// The expressions right inside this one; of `context.name` none, since it is looked at as one.
pub(super) fn children(expr: &Expr) -> Vec<&Arc<Expr>> {
    match expr {
        Expr::GetAttr { expr, .. } | Expr::HasAttr { expr, .. } => match &**expr {
            Expr::Var(_) => Vec::new(),
            _ => vec![expr],
        },
        Expr::UnaryOp { expr, .. } | Expr::Like { expr, .. } => vec![expr],
        Expr::BinaryOp { left, right, .. } => vec![left, right],
        Expr::Is { expr, in_expr, .. } => std::iter::once(expr).chain(in_expr).collect(),
        Expr::IfThenElse { cond, then_expr, else_expr } => vec![cond, then_expr, else_expr],
        Expr::Set(members) => members.iter().collect(),
        Expr::Record(members) => members.values().collect(),
        _ => Vec::new(),
    }
}

fn whole(message: &str) -> UnknownName {
    UnknownName { literal: UnknownLiteral::Policy, message: message.to_owned() }
}

/// Whether a text matches a pattern of `like`.
fn like(pattern: &[PatternElem], text: &str) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((PatternElem::Wildcard, rest)) => {
            text.char_indices().map(|(i, _)| i).chain([text.len()]).any(|i| like(rest, &text[i..]))
        }
        Some((PatternElem::Char(c), rest)) => {
            text.strip_prefix(*c).is_some_and(|text| like(rest, text))
        }
    }
}

/// What to write instead of a name that is not there.
pub(super) fn instead(name: &str, known: &BTreeSet<&str>) -> String {
    let near = known
        .iter()
        .map(|other| (strsim::jaro_winkler(other, name), other))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, other)) => format!("did you mean \"{other}\"?"),
        None if known.is_empty() => "there is none".to_owned(),
        None => {
            let first: Vec<&str> = known.iter().take(8).copied().collect();
            let more = if known.len() > first.len() { ", ..." } else { "" };
            format!("there are {}{more}", first.join(", "))
        }
    }
}
