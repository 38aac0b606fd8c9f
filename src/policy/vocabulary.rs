//! What a policy can say: the Cedar schema, generated from the fields of the schema documents.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::facts::{FieldFacts, tags};

/// What is asked of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Open it, whole.
    Reveal,
    /// See what its mask leaves.
    Mask,
    /// Compute its index values.
    Search,
    /// Seal a value for it.
    Seal,
    /// Ask what would be answered.
    Explain,
    /// See the audit log's places and references of subjects.
    AuditRead,
    /// See which policies decide.
    PolicyRead,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 7] = [
        Self::Reveal,
        Self::Mask,
        Self::Search,
        Self::Seal,
        Self::Explain,
        Self::AuditRead,
        Self::PolicyRead,
    ];

    /// The id of its Cedar entity.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reveal => "reveal",
            Self::Mask => "mask",
            Self::Search => "search",
            Self::Seal => "seal",
            Self::Explain => "explain",
            Self::AuditRead => "audit_read",
            Self::PolicyRead => "policy_read",
        }
    }

    /// The action of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.name() == name)
    }
}

/// How a caller may have proved who it is, each with `+jwt` where a person's own token came along.
pub const CREDENTIALS: [&str; 6] = ["mtls", "jwt", "key", "mtls+jwt", "jwt+jwt", "key+jwt"];

const HEAD: &str = "// What a policy of veilstream can say. Generated from the schema documents by
// `veilstream policy check --cedar-schema`. Do not edit it: change the documents.

// Roles are names. A principal's id says where it comes from: \"jwt:<issuer>:<sub>\",
// \"mtls:<name>\", \"key:<name>\".
entity Role;
entity User in [Role];
entity Service in [Role];
";

const TAIL: &str = "
type Context = {
  // One of the configured purposes: what the caller claims.
  purpose: String,
  // A reason was given, and it has the form that the purpose asks for.
  has_reason: Bool,
  // The person on whose behalf a service asks, where that person's own token proved it.
  on_behalf_of?: String,
  // Address of the peer, or of its client where a known proxy says so.
  ip: ipaddr,
  // \"mtls\", \"jwt\" or \"key\"; with \"+jwt\" where a person's own token came along.
  auth: String,
  // Items of the request so far.
  items: Long,
  // A token came without the subject in whose row it stands.
  bare: Bool,
  // Data subjects of the request so far; what names none counts as one each.
  subjects: Long,
};

action reveal, mask, search, seal, explain appliesTo {
  principal: [User, Service],
  resource: Field,
  context: Context,
};

action audit_read, policy_read appliesTo {
  principal: [User, Service],
  resource: [Field, Schema],
  context: Context,
};
";

/// The Cedar schema of these fields, in Cedar's own syntax. Equal fields give equal text.
#[must_use]
pub fn cedar_schema(facts: &[FieldFacts]) -> String {
    let schemas: BTreeSet<&str> = facts.iter().map(|field| &*field.schema).collect();
    let mut text = HEAD.to_owned();
    names(&mut text, "Schema", &schemas);
    names(&mut text, "Tag", &tags(facts));
    text.push_str("\n// Fields, with their tags:\n");
    for field in facts {
        // A document may name a header with any character: a line must stay a comment.
        let id: String = field.id.chars().flat_map(char::escape_debug).collect();
        let _ = write!(text, "//   {id}");
        let tags: Vec<&str> = field.tags.iter().map(|tag| &**tag).collect();
        let _ =
            if tags.is_empty() { writeln!(text) } else { writeln!(text, " ({})", tags.join(", ")) };
    }
    text.push_str("entity Field in [Schema, Tag];\n");
    text + TAIL
}

/// An entity type with these ids and no others. Cedar knows no empty enumeration: without an id
/// any literal of the type is a fault by our own check.
fn names(text: &mut String, kind: &str, ids: &BTreeSet<&str>) {
    let _ = if ids.is_empty() {
        writeln!(text, "\nentity {kind};")
    } else {
        let ids: Vec<String> = ids.iter().map(|id| format!("  \"{id}\"")).collect();
        writeln!(text, "\nentity {kind} enum [\n{}\n];", ids.join(",\n"))
    };
}
