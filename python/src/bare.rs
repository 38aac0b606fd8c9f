//! One value: opened, sealed, searched for.

use veilstream::keys::KeyFault;
use veilstream_engine::Keyring;
use veilstream_engine::RejectCode;
use veilstream_engine::index::Indexer;
use veilstream_engine::key::{Key, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::reveal::{ReadStatus, Status};
use veilstream_engine::schema::{Field, IndexRule, Protect};
use veilstream_engine::seal::{
    BarePayload, Expected, NoncePool, Owner, PayloadKind, SealError, Sealer,
};
use veilstream_engine::token::{self, PREFIX, Suite};
use veilstream_engine::transform::NeededKey;
use veilstream_keys::OsEntropy;
use veilstream_reading::audit::{Disclosure, Entry, Event};

use crate::fault::VeilFault;
use crate::held::{Held, subject_of};
use crate::interop::{self, InteropSealer};
use crate::parts::{CallPurpose, ReadingParts};
use crate::target::Target;

/// A token as a caller gives it.
pub(crate) struct GivenToken<'a> {
    pub(crate) field: &'a str,
    pub(crate) token: &'a str,
    /// Names and JSON texts.
    pub(crate) bind: &'a [(String, String)],
    /// Whose row it stands in, as JSON.
    pub(crate) subject: Option<&'a str>,
}

/// What a token held.
pub(crate) enum Opened {
    /// A JSON text.
    Json(String),
    /// A record key or header.
    Bytes(Vec<u8>),
}

/// What to search for.
pub(crate) struct Search {
    pub(crate) into: Option<String>,
    pub(crate) values: Vec<String>,
    pub(crate) is_unique: bool,
}

impl ReadingParts {
    /// Opens one token. When it returns, its line is durable.
    ///
    /// # Errors
    /// It does not open, or is not called as its field asks for.
    pub(crate) fn reveal(
        &self,
        given: &GivenToken<'_>,
        purpose: &CallPurpose,
    ) -> Result<Opened, VeilFault> {
        let template = self.entry(Event::Reveal, purpose)?;
        let target = Target::of(&self.schemas(), given.field)?;
        let binding = target.binding(given.bind)?;
        let owner = match given.subject {
            Some(json) => Owner::Subject(target.subject(&*self.keys, json)?),
            None => Owner::Any,
        };
        if let Some(field) = target.interop() {
            return self.reveal_interop(template, &target, field, given.token);
        }
        let mut held = Held::of(&*self.keys);
        let tenant = held.keyring.tenant().clone();
        let expected =
            Expected { fid: target.fid, tenant: &tenant, binding: binding.as_deref(), owner };
        let text = given.token.as_bytes();
        let key = match token::decode(text, &mut Vec::new()) {
            Ok(header) => held.get(&header.kid)?,
            Err(_) => None,
        };
        let mut payload = Vec::new();
        let opened = if text.starts_with(PREFIX) {
            let lookup = |_: &_| key.as_ref();
            self.with_opener(|opener| opener.open(text, &expected, lookup, &mut payload))
                .map_err(Status::Failed)
        } else {
            Err(Status::Clear)
        };
        let status = match opened {
            Ok(PayloadKind::Honey) => Status::Honey,
            Ok(_) => Status::Revealed,
            Err(status) => status,
        };
        self.append(lines(template, &target, &[(key.as_deref(), status)]))?;
        match opened {
            Ok(PayloadKind::Json) => Ok(Opened::Json(text_of(payload))),
            Ok(PayloadKind::Bytes) => Ok(Opened::Bytes(payload)),
            Ok(PayloadKind::Honey) | Err(_) => {
                let status = ReadStatus::from(status).as_str();
                Err(VeilFault::NotRevealed { field: target.id, status })
            }
        }
    }

    /// Opens a text in the form of another system.
    fn reveal_interop(
        &self,
        template: Entry,
        target: &Target,
        field: &Field,
        text: &str,
    ) -> Result<Opened, VeilFault> {
        let (held, mut payload) = (Held::of(&*self.keys), Vec::new());
        let status = self.with_revealer(|revealer| {
            interop::open(revealer, field, &held, text.as_bytes(), &mut payload)
        });
        self.append(lines(template, target, &[(None, status)]))?;
        if status == Status::Revealed {
            return Ok(Opened::Json(text_of(payload)));
        }
        let status = ReadStatus::from(status).as_str();
        Err(VeilFault::NotRevealed { field: target.id.clone(), status })
    }

    /// A token of a value, which is a JSON text. In the form of another system, what stands in its
    /// place there.
    ///
    /// # Errors
    /// The schema does not take the value, or keys are not available.
    pub(crate) fn seal(
        &self,
        given: &GivenToken<'_>,
        purpose: &CallPurpose,
    ) -> Result<Option<String>, VeilFault> {
        let template = self.entry(Event::Seal, purpose)?;
        let target = Target::of(&self.schemas(), given.field)?;
        let sealed = self.sealed(&target, given);
        let (status, outcome) = match &sealed {
            Ok(_) => ("sealed", "ok"),
            Err(VeilFault::Rejected { code: RejectCode::ErasedSubject, .. }) => {
                ("erased", "failed")
            }
            Err(_) => ("malformed", "failed"),
        };
        self.append(vec![sealed_entry(template, &target, status, outcome, 1)])?;
        sealed
    }

    /// The values to search for. `parts` are JSON texts.
    ///
    /// # Errors
    /// The field has no index, or not of so many parts.
    pub(crate) fn index(
        &self,
        field: &str,
        parts: &[String],
        purpose: &CallPurpose,
    ) -> Result<Search, VeilFault> {
        let template = self.entry(Event::Search, purpose)?;
        let target = Target::of(&self.schemas(), field)?;
        let rule = target.index()?;
        if parts.len() != rule.of.len().max(1) {
            return Err(VeilFault::Parts {
                field: target.id.clone(),
                wanted: rule.of.len().max(1),
            });
        }
        let keyring = self.keys.keyring();
        let values = tags(rule, &keyring, parts)?;
        self.append(vec![sealed_entry(template, &target, "revealed", "ok", 1)])?;
        let (_, _, _, _, _, indexes, ..) = target.facts();
        let into = indexes.into_iter().next().and_then(|(into, ..)| into);
        Ok(Search { into, values, is_unique: rule.is_unique() })
    }

    fn sealed(&self, target: &Target, given: &GivenToken<'_>) -> Result<Option<String>, VeilFault> {
        let Some(field) = target.field() else {
            return Err(target.rejected(RejectCode::WrongType));
        };
        target.check_names(given.bind.iter().map(|(name, _)| name.as_str()))?;
        let bind: Vec<(&str, &[u8])> =
            given.bind.iter().map(|(name, json)| (name.as_str(), json.as_bytes())).collect();
        let payload = BarePayload::new(field, given.token.as_bytes(), &bind)
            .map_err(|code| target.rejected(code))?;
        if field.protect == Protect::Hash {
            let rule = target.index()?;
            return newest_tag(rule, &self.keys.keyring(), given.token.as_bytes());
        }
        let subject = given.subject.map(|json| target.subject(&*self.keys, json)).transpose()?;
        let mut token = Vec::new();
        if let Some(mut sealer) = InteropSealer::of(target, &self.keys.keyring())? {
            sealer.seal(target, &payload.payload, &mut token)?;
            return Ok(Some(text_of(token)));
        }
        let (needed, suite) = target.sealing_key(subject, given.subject.is_some())?;
        let keys = self.keys.fetch(&[needed])?;
        let key = keys.first().ok_or_else(|| KeyFault("a key did not come".to_owned()))?;
        if key.state == KeyState::Shredded {
            return Err(target.rejected(RejectCode::ErasedSubject));
        }
        let pad = if suite == Suite::AesSiv { 16 } else { field.pad };
        let mut nonces = NoncePool::new(Box::new(OsEntropy));
        Sealer::new(key.clone(), suite, field.fid)
            .and_then(|mut sealer| {
                let binding = payload.binding.as_deref();
                let kind = PayloadKind::Json;
                sealer.seal(kind, &payload.payload, pad, binding, &mut nonces, &mut token)
            })
            .map_err(does_not_seal)?;
        Ok(Some(text_of(token)))
    }
}

impl Target {
    /// A value that its schema does not take.
    pub(crate) fn rejected(&self, code: RejectCode) -> VeilFault {
        let (schema, field) = (self.schema.name.to_string(), self.audited.clone());
        VeilFault::Rejected { code, schema: Some(schema), field: Some(field) }
    }

    /// The key that seals a value of it: the subject's, else one that all processes share.
    ///
    /// # Errors
    /// A subject is missing, or has no place here. The field is under no key of ours.
    pub(crate) fn sealing_key(
        &self,
        subject: Option<SubjectRef>,
        has_subject: bool,
    ) -> Result<(NeededKey, Suite), VeilFault> {
        let protect = self.field().map(|field| &field.protect);
        match protect {
            Some(Protect::Encrypt) if self.interop().is_none() => {
                let must = !self.schema.subjects.is_empty() && !self.schema.subject_optional;
                let scope = match subject {
                    Some(subject) => Scope::Subject(subject),
                    None if must && !has_subject => {
                        return Err(self.wrong_subject("its schema asks for a subject; give it"));
                    }
                    None => Scope::Shared(self.schema.name.clone()),
                };
                Ok((NeededKey { kind: KeyKind::Data, scope }, Suite::XaesGcm))
            }
            Some(Protect::Deterministic(root)) => {
                let scope = Scope::Version(*root);
                Ok((NeededKey { kind: KeyKind::Deterministic, scope }, Suite::AesSiv))
            }
            _ => Err(self.rejected(RejectCode::WrongType)),
        }
    }
}

/// What went wrong in a key's hands.
pub(crate) fn does_not_seal(error: SealError) -> VeilFault {
    KeyFault(format!("a key does not seal: {error}")).into()
}

/// Lines of tokens that were looked at, each with its key and what came of it. A honey token has a
/// line of its own.
pub(crate) fn lines(
    template: Entry,
    target: &Target,
    tokens: &[(Option<&Key>, Status)],
) -> Vec<Entry> {
    let schema = &*target.schema.name;
    let honey = tokens.iter().any(|(_, status)| *status == Status::Honey);
    let alarm = honey.then(|| honey_entry(template.clone(), schema, &target.audited));
    let mut disclosure = Disclosure::new(template);
    for (key, status) in tokens {
        let (subject, kid) = (key.and_then(subject_of), key.map(|key| key.id));
        let fields = [(&*target.audited, status.as_str())].into_iter();
        disclosure.add(schema, subject, fields, kid, 1);
    }
    disclosure.into_entries().into_iter().chain(alarm).collect()
}

/// Somebody opened what nobody has a reason to open.
pub(crate) fn honey_entry(template: Entry, schema: &str, field: &str) -> Entry {
    Entry {
        event: Event::Honey,
        schema: Some(schema.to_owned()),
        fields: [(field.to_owned(), "denied".to_owned())].into(),
        outcome: Some("denied".to_owned()),
        ..template
    }
}

/// The line of values that were sealed or searched for.
pub(crate) fn sealed_entry(
    template: Entry,
    target: &Target,
    status: &str,
    outcome: &str,
    items: u64,
) -> Entry {
    Entry {
        schema: Some(target.schema.name.to_string()),
        fields: [(target.audited.clone(), status.to_owned())].into(),
        outcome: Some(outcome.to_owned()),
        items: Some(items),
        ..template
    }
}

fn tags(rule: &IndexRule, keyring: &Keyring, parts: &[String]) -> Result<Vec<String>, VeilFault> {
    let (mut scratch, mut normal) = (Scratch::default(), Vec::with_capacity(parts.len()));
    for part in parts {
        let mut one = Vec::new();
        if !rule.normalize.normalize(Input::Json(part.as_bytes()), &mut scratch, &mut one) {
            return Ok(Vec::new());
        }
        normal.push(one);
    }
    let indexers = Indexer::to_search(rule, keyring);
    if indexers.is_empty() {
        // No values would mean no row.
        return Err(KeyFault("there is no index root".to_owned()).into());
    }
    let tag = |indexer: &Indexer| {
        let mut out = Vec::new();
        indexer.write(normal.iter().map(Vec::as_slice), &mut out);
        text_of(out)
    };
    Ok(indexers.iter().map(tag).collect())
}

/// Makes the tags that are written now.
///
/// # Errors
/// There is no root for it.
pub(crate) fn newest_indexer(rule: &IndexRule, keyring: &Keyring) -> Result<Indexer, VeilFault> {
    let roots = keyring.of_kind(KeyKind::Index).filter(|root| {
        root.state == KeyState::Active
            && rule.root.is_none_or(|pinned| root.scope == Scope::Version(pinned))
    });
    roots
        .max_by_key(|root| root.version)
        .and_then(|root| Indexer::of_rule(root, keyring.tenant(), rule))
        .ok_or_else(|| KeyFault("there is no index root".to_owned()).into())
}

/// `None`: nothing is left of the value, and null stands in its place.
fn newest_tag(
    rule: &IndexRule,
    keyring: &Keyring,
    json: &[u8],
) -> Result<Option<String>, VeilFault> {
    let (mut scratch, mut normal, mut tag) = (Scratch::default(), Vec::new(), Vec::new());
    let indexer = newest_indexer(rule, keyring)?;
    if !rule.normalize.normalize(Input::Json(json), &mut scratch, &mut normal) {
        return Ok(None);
    }
    indexer.write([normal.as_slice()], &mut tag);
    Ok(Some(text_of(tag)))
}

/// The engine's texts are UTF-8.
fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_default()
}
