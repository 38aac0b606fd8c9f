//! `[policy]`: where policies stand, for what purposes may be read, and how much.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use regex::Regex;

use super::name;
use super::read::Section;
use super::value_error::ValueError;

/// Who may read what, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Directory of `*.cedar` files.
    pub dir: PathBuf,
    /// The closed list of purposes. Empty: nothing may be read.
    pub purposes: Vec<Purpose>,
    /// Disclosure budgets, as configured.
    pub budgets: Vec<Budget>,
}

/// What a caller may claim to read for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// Its name.
    pub name: String,
    /// Whether a request without a reason is denied.
    pub reason_required: bool,
    /// What a reason must look like, from its first to its last character; `None`: not empty.
    pub pattern: Option<Pattern>,
}

/// A regular expression that a whole text must match.
#[derive(Debug, Clone)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

/// How much one principal may read in any 24 hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The purpose it counts; `None`: all purposes together.
    pub purpose: Option<String>,
    /// Distinct data subjects.
    pub subjects: Limit,
    /// Distinct values searched.
    pub values: Limit,
}

/// The end of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// So many and no more.
    Count(u64),
    /// None: said in the configuration, never assumed.
    Unlimited,
}

impl Limit {
    /// Distinct subjects of a budget that does not say.
    pub const SUBJECTS: Self = Self::Count(1000);
    /// Distinct values searched of a budget that does not say.
    pub const VALUES: Self = Self::Count(100);
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

impl Pattern {
    /// A pattern of the syntax of the crate regex: linear time, no back-references.
    ///
    /// # Errors
    /// It is no regular expression, or too large.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        // Alone first: `a)|(b` must not close our group.
        Regex::new(text)?;
        let regex = Regex::new(&format!(r"\A(?:{text})\z"))?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the whole text matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

pub(super) fn read(mut s: Section<'_, '_>) -> Policy {
    let policy = Policy {
        dir: s.path("dir", "policies"),
        purposes: s.tables("purposes", &["name", "reason_required", "pattern"], purpose),
        budgets: s.tables("budgets", &["purpose", "subjects", "values"], budget),
    };
    let mut seen = BTreeSet::new();
    for purpose in policy.purposes.iter().filter(|purpose| !purpose.name.is_empty()) {
        if !seen.insert(&purpose.name) {
            s.missing("purposes", &format!("has \"{}\" twice; keep one of them", purpose.name));
        }
    }
    let mut budgeted = BTreeSet::new();
    for budget in &policy.budgets {
        let name = budget.purpose.as_deref();
        if let Some(name) = name.filter(|name| !seen.iter().any(|known| known.as_str() == *name)) {
            let message = format!("names \"{name}\", which is no purpose; add it to purposes");
            s.missing("budgets", &message);
        }
        if !budgeted.insert(name) {
            let whose =
                name.map_or_else(|| "all purposes".to_owned(), |name| format!("\"{name}\""));
            s.missing("budgets", &format!("has two for {whose}; keep one of them"));
        }
    }
    s.finish();
    policy
}

fn purpose(mut s: Section<'_, '_>) -> Purpose {
    let purpose = Purpose {
        name: s.parse("name", String::new(), name),
        reason_required: s.flag("reason_required", true),
        pattern: s.parse("pattern", None, |text| {
            Pattern::new(text).map(Some).map_err(|_| {
                ValueError::form("no regular expression", "one such as \"TICKET-[0-9]+\"")
            })
        }),
    };
    if purpose.name.is_empty() && !s.is_faulty("name") {
        s.missing("name", "is missing; write name = \"support\"");
    }
    s.finish();
    purpose
}

fn budget(mut s: Section<'_, '_>) -> Budget {
    let budget = Budget {
        purpose: s.parse("purpose", None, |text| name(text).map(Some)),
        subjects: s.parse("subjects", Limit::SUBJECTS, limit),
        values: s.parse("values", Limit::VALUES, limit),
    };
    s.finish();
    budget
}

fn limit(text: &str) -> Result<Limit, ValueError> {
    if text == "unlimited" {
        return Ok(Limit::Unlimited);
    }
    // Each subject counted takes memory: what is larger is no limit in effect.
    match text.parse() {
        Ok(count) if count <= 10_000_000 => Ok(Limit::Count(count)),
        _ => Err(ValueError::form("no limit", "a number up to 10000000, or \"unlimited\"")),
    }
}
