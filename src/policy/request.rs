//! One request's questions to the policies: what is asked, and what is answered.

use std::net::IpAddr;
use std::sync::Arc;

use veilstream_engine::mask::ReadMask;
use veilstream_engine::reveal;

use super::vocabulary::CREDENTIALS;
pub use crate::config::PrincipalKind;
use crate::config::Purpose;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The configuration's word, not the credential's.
    pub kind: PrincipalKind,
    /// Where it comes from and who it is: `jwt:<issuer>:<sub>`, `mtls:<SAN>`, `key:<name>`.
    pub id: String,
    /// Its roles; those that no policy names have no effect.
    pub roles: Vec<String>,
}

/// What a request says of itself, and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFacts {
    /// What the caller claims to read for.
    pub purpose: String,
    /// Why, in the caller's words.
    pub reason: Option<String>,
    /// Address of the peer, or of its client where a known proxy says so.
    pub ip: IpAddr,
    /// How the caller proved who it is; the person's token is told by [`super::PolicySet::request`].
    pub auth: Credential,
    /// Items so far; of a stream the running total.
    pub items: u64,
    /// A token came without the subject in whose row it stands.
    pub bare: bool,
    /// Data subjects so far; of a stream the running total.
    pub subjects: u64,
}

/// Kinds of credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Credential {
    /// A client certificate.
    Mtls,
    /// A bearer token.
    Jwt,
    /// An API key.
    Key,
}

impl Credential {
    /// As policies and the audit name it; `with_person`: a person's own token came along.
    #[must_use]
    pub const fn name(self, with_person: bool) -> &'static str {
        let first = match self {
            Self::Mtls => 0,
            Self::Jwt => 1,
            Self::Key => 2,
        };
        CREDENTIALS[if with_person { first + 3 } else { first }]
    }
}

/// How much the caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Want {
    /// The most that the policies allow.
    #[default]
    Auto,
    /// The whole value, and no mask instead.
    Reveal,
    /// The mask, and never the whole value.
    Mask,
}

/// What is answered for a field, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Nothing.
    Denied,
    /// What this mask leaves.
    Masked(ReadMask),
    /// The whole value.
    Revealed,
}

impl Answer {
    /// As in answers and cases.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Masked(_) => "masked",
            Self::Revealed => "revealed",
        }
    }

    /// What the engine does with the field.
    #[must_use]
    pub const fn decision(self) -> reveal::Decision {
        match self {
            Self::Revealed => reveal::Decision::Reveal,
            Self::Masked(_) => reveal::Decision::Mask,
            Self::Denied => reveal::Decision::Withhold,
        }
    }

    /// The lesser of two; of two masks that differ, nothing.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        match (self, other) {
            (Self::Revealed, answer) | (answer, Self::Revealed) => answer,
            (Self::Masked(a), Self::Masked(b)) if a == b => self,
            _ => Self::Denied,
        }
    }
}

/// Why something is denied. For audit, `explain` and cases: a denied caller is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Denial {
    /// The purpose is not configured.
    #[error("the purpose is not configured")]
    UnknownPurpose,
    /// The purpose asks for a reason, and none of its form is there.
    #[error("the purpose asks for a reason of its form")]
    NoReason,
    /// The schemas have no such field.
    #[error("the schema documents have no such field")]
    UnknownField,
    /// Evaluating a policy failed: nobody knows what it would have forbidden.
    #[error("evaluating a policy failed")]
    PolicyError,
    /// A policy forbids it.
    #[error("a policy forbids it")]
    Forbidden,
    /// No policy permits it.
    #[error("no policy permits it")]
    NotPermitted,
    /// Only the mask may be seen, and the field has none.
    #[error("only the mask may be seen, and the field has none")]
    NoMask,
    /// Only the mask may be seen, and the caller wants the whole value.
    #[error("only the mask may be seen, and the whole value is wanted")]
    MaskNotWanted,
    /// The caller opened a honey token, and nobody has resumed it.
    #[error("the caller opened a honey token, and nobody has resumed it")]
    Suspended,
    /// Fields that one ciphertext may belong to have different masks.
    #[error("fields that share their ciphertext have different masks")]
    MasksDiffer,
}

impl Denial {
    /// A stable name, for the audit and scripts.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnknownPurpose => "unknown_purpose",
            Self::NoReason => "no_reason",
            Self::UnknownField => "unknown_field",
            Self::PolicyError => "policy_error",
            Self::Forbidden => "forbidden",
            Self::NotPermitted => "not_permitted",
            Self::NoMask => "no_mask",
            Self::MaskNotWanted => "mask_not_wanted",
            Self::Suspended => "suspended",
            Self::MasksDiffer => "masks_differ",
        }
    }
}

/// What the policies say of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// How much is shown.
    pub answer: Answer,
    /// Why nothing is; `None` unless denied.
    pub denial: Option<Denial>,
    /// Ids of the policies that decided, sorted; empty where none applied.
    pub policies: Vec<Arc<str>>,
    /// Ids of the policies whose evaluation failed, sorted.
    pub failed: Vec<Arc<str>>,
}

impl Decision {
    /// Whether an operator must hear of it: a policy, or the question itself, failed.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        !self.failed.is_empty() || self.denial == Some(Denial::PolicyError)
    }
}

/// What the policies say of an action that is either permitted or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// Why it is not permitted; `None`: it is.
    pub denial: Option<Denial>,
    /// Ids of the policies that decided, sorted; empty where none applied.
    pub policies: Vec<Arc<str>>,
    /// Ids of the policies whose evaluation failed, sorted.
    pub failed: Vec<Arc<str>>,
}

impl Permission {
    /// Whether it is permitted.
    #[must_use]
    pub const fn is_permitted(&self) -> bool {
        self.denial.is_none()
    }

    /// Whether an operator must hear of it: a policy, or the question itself, failed.
    #[must_use]
    pub fn is_alarm(&self) -> bool {
        !self.failed.is_empty() || self.denial == Some(Denial::PolicyError)
    }
}

/// Whether the reason counts for its purpose: it is there, not blank, and of the form asked for.
///
/// # Errors
/// The purpose is not configured, or asks for a reason that does not count.
pub(super) fn reason_counts(
    purposes: &[Purpose],
    name: &str,
    reason: Option<&str>,
) -> Result<bool, Denial> {
    let purpose =
        purposes.iter().find(|purpose| purpose.name == name).ok_or(Denial::UnknownPurpose)?;
    let counts = reason.is_some_and(|reason| {
        !reason.trim().is_empty()
            && purpose.pattern.as_ref().is_none_or(|pattern| pattern.matches(reason))
    });
    if purpose.reason_required && !counts { Err(Denial::NoReason) } else { Ok(counts) }
}
