//! `[guide]`: what the names of the common guide stand for.

use super::policy::Policy;
use super::read::Section;

/// What the names of `veilstream.guide` in Python stand for, where the program does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guide {
    /// `<schema>.<id>` of the field that `EncryptionService` is for.
    pub field: Option<String>,
    /// What it reads for: one of `policy.purposes`.
    pub purpose: Option<String>,
}

pub(super) fn read(mut s: Section<'_, '_>, policy: &Policy) -> Guide {
    let guide = Guide { field: s.optional("field"), purpose: s.optional("purpose") };
    if let Some(name) = &guide.purpose
        && !policy.purposes.iter().any(|purpose| purpose.name == *name)
    {
        let message = format!("is \"{name}\", which is no purpose; add it to policy.purposes");
        s.missing("purpose", &message);
    }
    s.finish();
    guide
}
